"""The kernels of attention against float64: visibility, widths, masks, sinks."""

import math

import pytest
import torch

from rope_core import AttentionConfig
from rope_core.reference import attention_mask
from tests.core.oracle import ATTEND_BAR, DTYPES, LSE_BAR, expect, lse_off, off, randn
from tests.kernels.attention_calls import ends, packed, run

CONFIGS = {
    "causal": AttentionConfig(),
    "all seen": AttentionConfig(causal=False),
    "a window": AttentionConfig(window=9),
    "a window to both sides": AttentionConfig(causal=False, window=40, window_ahead=3),
    "chunks": AttentionConfig(chunk=24),
    "chunks, all seen": AttentionConfig(chunk=70, causal=False),
    "chunks and a window": AttentionConfig(chunk=24, window=7),
    "a soft-cap": AttentionConfig(softcap=0.5, scale=1.0),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# one, few and many rows; no queries, no keys, more queries than keys
MIXED = [1, 0, 3, 40, 33], [150, 7, 0, 140, 20]


def check(answer, expected, dtype):
    assert off(answer[0], expected[0]) <= ATTEND_BAR[dtype]
    assert lse_off(answer[1], expected[1]) <= LSE_BAR[torch.float32]


def check_near(lengths, q, k, v, config, **options):
    """Assert that the answer is that of the reference."""
    answer = run(q, k, v, *lengths, config, **options)
    expected = expect(q, k, v, config, *map(ends, lengths), **options)
    check(answer, expected, q.dtype)
    return answer


@every_config
@every_dtype
def test_sequences_of_all_lengths(config, dtype):
    check_near(MIXED, *packed(*MIXED, dtype=dtype), config)


@pytest.mark.parametrize(
    ("fields", "dtype"), [*zip(({}, {"window": 600}, {"chunk": 600}), DTYPES, strict=True)], ids=str
)
def test_keys_of_many_tiles_and_parts(fields, dtype):
    lengths = [1, 9, 45], [1_100, 700, 515]
    check_near(lengths, *packed(*lengths, kv_heads=1, dtype=dtype), AttentionConfig(**fields))


WIDTHS = [(8, 8), (16, 40), (80, 80), (96, 64), (192, 128), (256, 256)]


@pytest.mark.parametrize(("head_dim", "value_dim"), WIDTHS)
@every_dtype
def test_heads_of_all_widths(head_dim, value_dim, dtype):
    lengths = [1, 33], [5, 40]
    widths = {"head_dim": head_dim, "value_dim": value_dim, "kv_heads": 1, "heads": 2}
    check_near(lengths, *packed(*lengths, **widths, dtype=dtype), AttentionConfig())


@pytest.mark.parametrize("group", [1, 3, 20, 71])
def test_groups_of_all_sizes(group):
    lengths = [1, 2, 11], [20, 3, 30]
    shape = {"heads": group, "kv_heads": 1} if group > 7 else {"heads": 2 * group}
    check_near(lengths, *packed(*lengths, **shape), AttentionConfig())


@pytest.mark.parametrize("scale", [0.0, -0.3, 2.0])
@pytest.mark.parametrize("fields", [{}, {"softcap": 3.0}, {"window": 8}], ids=str)
def test_a_scale_of_any_sign(scale, fields):
    check_near(MIXED, *packed(*MIXED), AttentionConfig(scale=scale, **fields))


def test_a_soft_cap_keeps_the_digits_of_small_scores():
    lengths = [1, 40], [70, 80]
    for softcap in (1e-30, 50.0, 1e30):
        check_near(lengths, *packed(*lengths), AttentionConfig(softcap=softcap))


SINKS = [2 * randn(4), 2 * randn(4).bfloat16(), randn(4) + 20, randn(4) - 30]


@pytest.mark.parametrize("sinks", SINKS)
@pytest.mark.parametrize("config", [AttentionConfig(), AttentionConfig(window=3, softcap=0.5)])
def test_sinks(config, sinks):
    dtype = sinks.dtype
    _, lse = check_near(MIXED, *packed(*MIXED, dtype=dtype), config, sinks=sinks)
    assert torch.equal(lse[1:4], sinks.float().expand(3, 4)), "without keys"


def test_a_sink_of_minus_infinity_is_none():
    q, k, v = packed(*MIXED)
    none = torch.full((4,), -math.inf)
    assert all(map(torch.equal, run(q, k, v, *MIXED), run(q, k, v, *MIXED, sinks=none)))


def random_mask(*shape, dtype):
    seen = randn(*shape, seed=7) > -0.4
    if dtype == torch.bool:
        return seen
    return randn(*shape, dtype=dtype, seed=8).masked_fill(~seen, -math.inf)


@pytest.mark.parametrize("kind", [torch.bool, *DTYPES], ids=str)
@pytest.mark.parametrize("config", [AttentionConfig(), AttentionConfig(causal=False, softcap=1.0)])
def test_masks_of_packed_tokens(kind, config):
    heads = 4 if config.causal else 1
    mask = random_mask(1, heads, sum(MIXED[0]), sum(MIXED[1]), dtype=kind)
    check_near(MIXED, *packed(*MIXED), config, mask=mask, sinks=randn(4))


@pytest.mark.parametrize("kind", [torch.bool, torch.bfloat16], ids=str)
def test_masks_of_rows_of_a_batch(kind):
    q, k, v = packed([6] * 3, [30] * 3)
    mask = random_mask(3, 1, 6, 30, dtype=kind)
    answer = run(q, k, v, [6] * 3, [30] * 3, mask=mask)
    rows = (x.unflatten(0, (3, -1)) for x in (q, k, v))
    out, lse = expect(*rows, AttentionConfig(), mask=mask)
    check(answer, (out.flatten(0, 1), lse.flatten(0, 1)), torch.float32)


def test_a_finite_bias_hides_no_key():
    q, k, v = packed([1, 40], [3, 50])
    lowest = torch.finfo(torch.float32).min
    mask = torch.full((1, 1, 41, 53), lowest)
    out, _ = run(q, k, v, [1, 40], [3, 50], AttentionConfig(causal=False), mask=mask)
    assert off(out[0], v[:3].mean(0).repeat_interleave(2, 0)) <= 1e-6
    assert off(out[1:], v[3:].mean(0).repeat_interleave(2, 0).expand(40, 4, 16)) <= 1e-6


def test_a_mask_that_hides_all_keys_answers_0_and_minus_infinity():
    q, k, v = packed([2, 40], [3, 50])
    for mask in (
        torch.zeros(1, 1, 42, 53, dtype=torch.bool),
        torch.full((1, 1, 42, 53), -math.inf),
    ):
        out, lse = run(q, k, v, [2, 40], [3, 50], mask=mask)
        assert not out.any()
        assert (lse == -math.inf).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_out_in_float32(dtype):
    q, k, v = packed(*MIXED, dtype=dtype)
    wide, _ = run(q, k, v, *MIXED, out_dtype=torch.float32)
    narrow, _ = run(q, k, v, *MIXED)
    assert wide.dtype == torch.float32
    assert torch.equal(wide.to(dtype), narrow)


def strided_views(x):
    """Yield views with the values of x and other strides."""
    num_tokens, heads, width = x.shape
    for empty, view in (
        (x.new_empty(num_tokens, heads, 2 * width), lambda y: y[..., ::2]),
        (x.new_empty(num_tokens, heads, width + 3), lambda y: y[..., 3:]),
        (x.new_empty(heads, num_tokens, width), lambda y: y.transpose(0, 1)),
        (x.new_empty(num_tokens + 1, heads + 1, width), lambda y: y[1:, 1:]),
    ):
        view(empty).copy_(x)
        yield view(empty)


def test_any_strides_give_the_same_bits():
    lengths = [1, 40], [30, 50]
    q, k, v = packed(*lengths, value_dim=24)
    even = run(q, k, v, *lengths)
    for views in zip(*map(strided_views, (q, k, v)), strict=True):
        assert all(map(torch.equal, run(*views, *lengths), even))


def test_empty_sequences():
    for lengths in (([], []), ([0], [0]), ([0, 0], [3, 0])):
        out, lse = run(*packed(*lengths), *lengths)
        assert not out.numel() + lse.numel()


INDEXED = {
    "causal": AttentionConfig(),
    "all seen": AttentionConfig(causal=False),
    "a window": AttentionConfig(window=9),
    "a window to both sides": AttentionConfig(causal=False, window=5, window_ahead=9),
    "chunks": AttentionConfig(chunk=17),
}


@pytest.mark.parametrize("config", INDEXED.values(), ids=INDEXED)
@pytest.mark.parametrize("shift_by", [0, 2**40])
def test_an_index_gives_the_positions_of_tokens(config, shift_by):
    """Queries and keys in any order answer as those in order do, of a sequence that goes on."""
    lengths = [3, 45], [150, 140]
    q, k, v = packed(*lengths)
    q_index, keys = [], []
    for num_queries, num_keys in zip(*lengths, strict=True):
        q_index.append(torch.randperm(num_queries) + num_keys - num_queries)
        keys.append(torch.randperm(num_keys))
    chunk = config.chunk or 1
    shift = shift_by // chunk * chunk
    answer = run(
        q, k, v, *lengths, config, index=(torch.cat(q_index) + shift, torch.cat(keys) + shift)
    )
    mask = torch.zeros(1, 1, *map(sum, lengths), dtype=torch.bool)
    start_q = start_k = 0
    for of_seq, keys_of_seq in zip(q_index, keys, strict=True):
        all_visible = attention_mask(len(keys_of_seq), len(keys_of_seq), config)
        queries = slice(start_q, start_q + len(of_seq))
        mask[0, 0, queries, start_k : start_k + len(keys_of_seq)] = all_visible[of_seq][
            :, keys_of_seq
        ]
        start_q, start_k = queries.stop, start_k + len(keys_of_seq)
    see_all = AttentionConfig(causal=False)
    expected = expect(q, k, v, see_all, *map(ends, lengths), mask=mask)
    check(answer, expected, torch.float32)
