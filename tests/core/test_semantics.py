"""All that attention can be asked, at every width: each backend against the float64 reference."""

import math

import pytest
import torch

from rope_core import AttentionConfig
from rope_core.backends import eager, fused
from tests.core.oracle import ATTEND_BAR, DTYPES, LSE_BAR, expect, lse_off, off, qkv, randn, run

WIDTHS = (16, 40, 64, 128, 256, 512)
# heads of q and of k, and how much wider a value is than a key
HEADS = {"MHA": (4, 4, 0), "GQA of 3": (6, 2, -8), "GQA of 5": (10, 2, 24), "MQA": (4, 1, 0)}
SEEN = randn(5, 9, seed=7) > -0.5
ENDS = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 4, 5, 9])
PLACES = torch.tensor([4, 9, 2, 7, -1]), torch.tensor([0, 8, 2, 1, 5, 6, 3, 4, 7])
BOTH_SIDES = {"causal": False, "window": 3, "window_ahead": 2}

# of the config; of everything else
ASKED = {
    "causal": ({}, {}),
    "all seen": ({"causal": False}, {}),
    "a window": ({"window": 3}, {}),
    "a window to both sides": (BOTH_SIDES, {}),
    "chunks": ({"chunk": 4}, {}),
    "a soft-cap": ({"softcap": 2.0}, {}),
    "a scale": ({"scale": 0.05}, {}),
    "sinks": ({}, {"sinks": True}),
    "a mask": ({}, {"mask": SEEN}),
    "a mask that is added": ({"causal": False}, {"mask": randn(5, 9, seed=8)}),
    "places": ({}, {"index": PLACES}),
    "places in chunks": ({"chunk": 4}, {"index": PLACES}),
    "a mask and places": ({"window": 6}, {"mask": SEEN, "index": PLACES}),
    "a pack": ({}, {"ends": ENDS}),
    "a pack with sinks, a mask and places": (
        {},
        {"ends": ENDS, "sinks": True, "mask": SEEN, "index": PLACES},
    ),
}
every_ask = pytest.mark.parametrize(("given", "others"), ASKED.values(), ids=ASKED)


def check(backend, tensors, given, others, dtype, out_dtype=None):
    config, others = AttentionConfig(**given), dict(others)
    ends = others.pop("ends", ())
    if others.get("sinks"):
        others["sinks"] = randn(tensors[0].shape[-2])
    out, lse = run(backend, *tensors, config, *ends, **others, out_dtype=out_dtype)
    expected_out, expected_lse = expect(*tensors, config, *ends, **others)
    assert out.dtype == (out_dtype or dtype)
    # kernels round weights to the dtype of the values, which is what matrix units take
    exact = out_dtype is not None and backend is not fused
    assert off(out, expected_out) <= (1e-6 if exact else ATTEND_BAR[dtype])
    assert out_dtype in (None, dtype) or not torch.equal(out, out.to(dtype).float())
    assert lse_off(lse, expected_lse) <= (LSE_BAR[dtype] if out_dtype is None else 1e-6)


@every_ask
@pytest.mark.parametrize("heads", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("width", WIDTHS)
def test_heads_and_widths(backend, width, heads, given, others):
    num_heads, num_kv_heads, wider = heads
    tensors = qkv((5, num_heads, width), (9, num_kv_heads, width), value_dim=width + wider)
    check(backend, tensors, given, others, torch.float32)


@pytest.mark.parametrize("width", [2048, 4096, 8192])
def test_the_error_of_a_score_does_not_grow_with_the_width(width):
    """A query that sees one key has its score as the log-sum-exp."""
    check(eager, qkv((9, 6, width), (9, 2, width)), {"window": 1}, {}, torch.float32)


@every_ask
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("width", [16, 48, 128])
@pytest.mark.parametrize("narrower", [0, 8])
def test_half_precision(backend, width, narrower, dtype, given, others):
    tensors = qkv((5, 6, width), (9, 2, width), value_dim=width - narrower, dtype=dtype)
    check(backend, tensors, given, others, dtype)


@every_ask
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_precision_answered_in_float32_is_never_rounded_to_it(backend, dtype, given, others):
    tensors = qkv((5, 6, 48), (9, 2, 48), dtype=dtype)
    check(backend, tensors, given, others, dtype, torch.float32)


# queries and keys: decode, short queries, and an append to a past, of a pack or of a batch
PASTS = [(1, 700), (3, 700), (9, 700), (40, 700), (60, 1_100)]


@pytest.mark.parametrize("given", [{}, {"causal": False}, {"window": 650}], ids=str)
@pytest.mark.parametrize("out_dtype", [None, torch.float32], ids=["own", "float32"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_queries", "num_keys"), PASTS)
def test_a_long_past(backend, num_queries, num_keys, dtype, out_dtype, given):
    tensors = qkv((2, num_queries, 6, 32), (2, num_keys, 2, 32), dtype=dtype)
    check(backend, tensors, given, {}, dtype, out_dtype)
    check(backend, tensors, given, {"sinks": True}, dtype, out_dtype)
    flat = tuple(x.flatten(0, 1) for x in tensors)
    ends = tuple(torch.arange(3) * length for length in (num_queries, num_keys))
    check(backend, flat, given, {"ends": ends}, dtype, out_dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_caches_that_keep_heads_together(backend, dtype):
    q, k, v = qkv((2, 1, 6, 32), (2, 300, 2, 32), dtype=dtype)
    k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v))
    for out_dtype in (None, torch.float32):
        check(backend, (q, k, v), {}, {}, dtype, out_dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_single_large_number_that_is_hidden_reaches_no_output(backend, dtype):
    q, k, v = qkv((6, 4, 16), (6, 2, 16), dtype=dtype)
    q = q.abs() + 1  # so that the scores of the largest number are infinite
    clean = run(backend, q, k, v)
    k[5, 1, 3] = torch.finfo(dtype).max
    out, lse = run(backend, q, k, v)
    assert off(out[:5], clean[0][:5].double()) <= ATTEND_BAR[dtype]
    assert lse_off(lse[:5], clean[1][:5].double()) <= LSE_BAR[dtype]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_finite_in_one_sequence_changes_no_bit_of_another(backend, dtype, packed):
    q, k, v = qkv((3, 5, 4, 16), (3, 9, 2, 16), dtype=dtype)
    ends, sinks = (), randn(4)
    if packed:
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        ends = torch.arange(4) * 5, torch.arange(4) * 9
    clean = run(backend, q, k, v, None, *ends, sinks=sinks)
    (k[9:18] if packed else k[1])[4] = math.nan
    out, lse = run(backend, q, k, v, None, *ends, sinks=sinks)
    for now, then in ((out, clean[0]), (lse, clean[1])):
        now, then = (x.reshape(3, 5, -1) for x in (now, then))
        assert torch.equal(now[::2], then[::2])
        assert now[1].isnan().any()
