"""Eager on a device: few launches, all scratch on it, and the host waits for nothing."""

from itertools import product

import pytest
import torch

from rope_core import AttentionConfig, RopeConfig
from rope_core.backends import AttentionWork, FusedRotaryWork, MergeWork, RotaryWork, eager
from tests.core.launches import META, Launches
from tests.core.specs import scheme_of

BF16, FLOAT32 = torch.bfloat16, torch.float32
TOKENS = 16_384

ROTATION, BLOCK = 40, 56
"""Most launches of a rotation of so many tokens, and of attention from a block of queries."""


def on_device(*shape, dtype=FLOAT32):
    return torch.empty(shape, dtype=dtype, device=META)


def rotation(rope, *, tokens=TOKENS, heads=(32, 8), dtype=BF16, inverse=False, in_place=False):
    xs = tuple(on_device(tokens, h, rope.head_dim, dtype=dtype) for h in heads)
    width = rope.rotary_dim if rope.axes == "xdrope" else rope.half
    cos, sin = on_device(tokens, width), on_device(tokens, width)
    scale = on_device(tokens, width) if rope.rope_type == "xpos" else None
    outs = xs if in_place else tuple(map(torch.empty_like, xs))
    return RotaryWork(xs, cos, sin, scale, rope, inverse, outs)


LAYOUTS = {
    "half": {},
    "interleaved": {"layout": "interleaved"},
    "to half": {"layout": "interleaved_to_half"},
    "tiled": {"layout": "interleaved_tiled"},
    "half, partial": {"rotary_dim": 64},
    "interleaved, trailing": {"layout": "interleaved", "rotary_dim": 96, "trailing": True},
    "width of no vector": {"layout": "interleaved", "rotary_dim": 90},
    "blocks": {"blocks": 2},
    "xpos": {"rope_type": "xpos"},
    "xpos, interleaved": {"rope_type": "xpos", "layout": "interleaved"},
    "rounded tables": {"rounding": "tables"},
    "rounded steps": {"rounding": "activation"},
    "float64": {"rounding": "float64"},
    "complex": {"rounding": "complex", "layout": "interleaved"},
}


@pytest.mark.parametrize("in_place", [False, True], ids=["apart", "in place"])
@pytest.mark.parametrize("inverse", [False, True], ids=["there", "back"])
@pytest.mark.parametrize("dtype", [torch.float16, BF16, FLOAT32], ids=str)
@pytest.mark.parametrize("fields", LAYOUTS.values(), ids=LAYOUTS)
def test_a_rotation_of_many_tokens_is_a_few_launches(fields, dtype, inverse, in_place):
    rope = RopeConfig.of(128, **fields)
    with Launches() as launches:
        eager.run(rotation(rope, dtype=dtype, inverse=inverse, in_place=in_place))
    assert launches.total <= ROTATION, launches.counts


def test_a_rotation_by_an_angle_for_each_channel_is_a_few_launches():
    with Launches() as launches:
        eager.run(rotation(scheme_of("xdrope")))
    assert launches.total <= ROTATION, launches.counts


def test_a_rotation_by_position_whose_kernel_is_being_built_is_a_few_launches():
    rope = RopeConfig.of(128)
    x, positions = on_device(TOKENS, 32, 128, dtype=BF16), on_device(TOKENS, dtype=torch.int64)
    frequencies = on_device(64, dtype=torch.float64)
    with Launches() as launches:
        eager.run(
            FusedRotaryWork((x,), positions, frequencies, 1.0, rope, False, (torch.empty_like(x),))
        )
    assert launches.total <= ROTATION, launches.counts


@pytest.mark.parametrize("fields", LAYOUTS.values(), ids=LAYOUTS)
def test_scratch_of_a_rotation_is_bounded(fields):
    rope = RopeConfig.of(128, **fields)
    with Launches() as launches:
        eager.run(rotation(rope, tokens=2**17, heads=(32,)))
    assert launches.most_elements <= eager.DEVICE_SCORES
    assert launches.total <= 8 * ROTATION, launches.counts


CONFIGS = {
    "causal": {},
    "all": {"causal": False},
    "window": {"window": 512},
    "both sides": {"causal": False, "window": 512, "window_ahead": 64},
    "softcap": {"softcap": 30.0},
    "small chunks": {"chunk": 2},
    "chunks to both sides": {"chunk": 1000, "causal": False},
}
GIVEN = ("nothing", "sinks", "booleans", "numbers", "index")


def attention(config, given, *, q_len=2048, k_len=2048, heads=(32, 8), widths=(128, 128), **more):
    head_dim, value_dim = widths
    q = on_device(1, q_len, heads[0], head_dim, dtype=BF16)
    k = on_device(1, k_len, heads[1], head_dim, dtype=BF16)
    v = on_device(1, k_len, heads[1], value_dim, dtype=BF16)
    count = {"dtype": torch.int64, "device": META}
    tensors = {
        "nothing": {},
        "sinks": {"sinks": on_device(heads[0], dtype=BF16)},
        "booleans": {"mask": on_device(1, 1, q_len, k_len, dtype=torch.bool)},
        "numbers": {"mask": on_device(1, heads[0], q_len, k_len, dtype=BF16)},
        "index": {"index": (torch.empty(1, q_len, **count), torch.empty(1, k_len, **count))},
    }[given]
    return AttentionWork(q, k, v, AttentionConfig(**config), None, **tensors, **more)


@pytest.mark.parametrize(
    ("fields", "given"),
    list(product(CONFIGS.values(), GIVEN)),
    ids=[f"{c}, {g}" for c, g in product(CONFIGS, GIVEN)],
)
def test_attention_waits_for_nothing_and_is_a_few_launches(fields, given):
    with Launches() as launches:
        out, lse = eager.run(attention(fields, given))
    assert (out.device, lse.device) == (META, META)
    assert launches.total <= 2 * BLOCK, launches.counts


@pytest.mark.parametrize("widths", [(576, 512), (512, 512), (40, 24), (8, 8)], ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (28, 4), (16, 1)], ids=str)
def test_attention_takes_heads_of_any_width(heads, widths):
    shapes = {"q_len": 100, "k_len": 300, "heads": heads, "widths": widths}
    for dtype in (None, FLOAT32):
        with Launches() as launches:
            out, _ = eager.run(attention({}, "nothing", out_dtype=dtype, **shapes))
        assert out.shape == (1, 100, heads[0], widths[1])
        assert out.dtype is (dtype or BF16)
        assert launches.total <= BLOCK


def test_scores_of_attention_are_bounded():
    with Launches() as launches:
        eager.run(attention({}, "nothing", q_len=8192, k_len=8192))
    assert launches.most_elements <= eager.DEVICE_SCORES
    assert launches.total <= 32 * BLOCK


@pytest.mark.parametrize("q_lengths", [[100, 0, 1], [1, 1, 1]], ids=str)
def test_packed_attention_waits_for_nothing(q_lengths):
    k_lengths = [300, 20, 0]
    q, kv = on_device(sum(q_lengths), 8, 64), on_device(sum(k_lengths), 2, 64)
    ends = torch.empty(4, dtype=torch.int32, device=META)
    config = AttentionConfig(window=64)
    with Launches() as launches:
        eager.run(AttentionWork(q, kv, kv, config, (q_lengths, k_lengths), (ends, ends)))
    assert launches.total <= 3 * BLOCK


def test_a_merger_is_a_few_launches():
    with Launches() as launches:
        eager.run(MergeWork(on_device(4, TOKENS, 32, 128, dtype=BF16), on_device(4, TOKENS, 32)))
    assert launches.total <= 15
