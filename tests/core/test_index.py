"""Queries and keys with an index in their sequence: shards of keys, strided or any order."""

import math

import pytest
import torch

from rope_core import Attend, AttentionConfig, Merge, RopeConfig, ShapeError, attend, merge
from tests.core.oracle import (
    ATTEND_BAR,
    DTYPES,
    LSE_BAR,
    expect,
    lse_off,
    off,
    qkv,
    randn,
    run,
)

CONFIGS = {
    "causal": AttentionConfig(),
    "all seen": AttentionConfig(causal=False),
    "a window": AttentionConfig(window=5),
    "a window to both sides": AttentionConfig(causal=False, window=4, window_ahead=3),
    "chunks": AttentionConfig(chunk=4),
    "a soft-cap": AttentionConfig(softcap=0.5),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
SHARDS = {
    "strided": [slice(i, None, 3) for i in range(3)],
    "one after the other": [slice(5), slice(5, 14), slice(14, None)],
    "one has nothing": [slice(24), slice(24, None)],
}


@every_config
@pytest.mark.parametrize("shards", SHARDS.values(), ids=SHARDS)
def test_merged_shards_equal_one_pass(backend, shards, config):
    q, k, v = qkv((6, 4, 16), (24, 2, 16))
    at = torch.arange(24)
    parts = [
        run(backend, q, k[part], v[part], config, index=(at[-6:], at[part])) for part in shards
    ]
    merged = merge(Merge(*(torch.stack(tensors) for tensors in zip(*parts, strict=True))))
    out, lse = expect(q, k, v, config)
    assert off(merged.out, out) <= 1e-6
    assert lse_off(merged.lse, lse) <= 1e-6


@every_config
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_index_matches_the_reference(backend, config, dtype):
    q, k, v = qkv((7, 6, 16), (9, 2, 16), dtype=dtype)
    index = torch.tensor([5, 2, 2, -3, 2**40, 7, 0]), torch.tensor([4, -5, 2, 0, 7, 7, 1, 9, 2**40])
    sinks = randn(6)
    for ends in ((), (torch.tensor([0, 3, 3, 7]), torch.tensor([0, 4, 5, 9]))):
        out, lse = run(backend, q, k, v, config, *ends, sinks=sinks, index=index)
        expected = expect(q, k, v, config, *ends, sinks=sinks, index=index)
        assert off(out, expected[0]) <= ATTEND_BAR[dtype]
        assert lse_off(lse, expected[1]) <= LSE_BAR[dtype]


def test_index_of_the_bottom_right_equals_no_index(backend):
    q, k, v = qkv((2, 5, 4, 16), (2, 9, 2, 16))
    at = torch.arange(9)
    out, lse = run(backend, q, k, v)
    by_index = run(backend, q, k, v, index=(at[4:], at))
    assert off(by_index[0], out.double()) <= 1e-6
    assert lse_off(by_index[1], lse.double()) <= 1e-6


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_hidden_keys_do_not_reach_the_output(backend, bad):
    q, k, v = qkv((4, 4, 8), (6, 2, 8))
    index = torch.tensor([3, 0, 7, 3]), torch.tensor([6, 2, 5, 0, 4, 1])
    clean = run(backend, q, k, v, index=index)
    k[0], v[4] = bad, bad
    out, lse = run(backend, q, k, v, index=index)
    blind = torch.tensor([0, 1, 3])
    assert off(out[blind], clean[0][blind].double()) <= 1e-6
    assert lse_off(lse[blind], clean[1][blind].double()) <= 1e-6


def test_query_before_all_keys_sees_nothing(backend):
    q, k, v = qkv((3, 4, 8), (5, 2, 8))
    out, lse = run(backend, q, k, v, index=(torch.tensor([9, 10, 99]), torch.arange(10, 15)))
    assert not out[0].any()
    assert (lse[0] == -math.inf).all()
    assert lse[1:].isfinite().all()


def test_index_per_row_and_per_packed_sequence():
    rope = RopeConfig.of(16)
    q, k, v = qkv((2, 3, 4, 16), (2, 6, 2, 16))
    of_q, of_k = torch.tensor([[3, 4, 5], [0, 9, 2]]), torch.arange(12).view(2, 6) % 7
    rows = attend(Attend(q, k, v, rope, q_index=of_q, k_index=of_k, return_lse=True))
    ends_q, ends_k = torch.tensor([0, 3, 6]), torch.tensor([0, 6, 12])
    flat = (x.flatten(0, 1) for x in (q, k, v))
    packed = attend(
        Attend(
            *flat,
            rope,
            cu_seqlens_q=ends_q,
            cu_seqlens_k=ends_k,
            q_index=of_q.flatten(),
            k_index=of_k.flatten(),
            return_lse=True,
        )
    )
    assert torch.equal(packed.out, rows.out.flatten(0, 1))
    for row in range(2):
        call = Attend(q[row], k[row], v[row], rope, q_index=of_q[row], k_index=of_k[row])
        assert torch.equal(attend(call).out, rows.out[row])


@pytest.mark.parametrize("num_keys", [1, 5])
def test_index_is_broadcast_over_the_batch(backend, num_keys):
    q, k, v = qkv((3, 1, 4, 16), (3, num_keys, 2, 16))
    of_q, of_k = torch.tensor([70]), torch.arange(70, 70 + num_keys)
    found = attend(Attend(q, k, v, None, q_index=of_q, k_index=of_k), backend=backend.name)
    for row, out in enumerate(found.out):
        assert (
            off(out, expect(q[row], k[row], v[row], AttentionConfig(), index=(of_q, of_k))[0])
            <= 1e-6
        )


def test_keys_without_index_count_from_0():
    q, k, v = qkv((2, 2, 4, 16), (2, 6, 2, 16))
    one = attend(Attend(q, k, v, None, q_index=torch.tensor([2, 3])))
    seen = attend(Attend(q, k[:, :4], v[:, :4], None))
    assert off(one.out, seen.out.double()) <= 1e-6


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({"k_index": torch.arange(6)}, "q_index must be given if k_index is, got none"),
        ({"q_index": torch.arange(3)}, r"q_index must be \[2\] or \[1, 2\], got \[3\]"),
        ({"q_index": torch.zeros(2)}, "q_index must be int64, got float32"),
        ({"q_index": torch.tensor([0, 2**62])}, r"q_index must be in \[-2\*\*62, 2\*\*62\)"),
    ],
)
def test_invalid_index_is_refused(tensors, text):
    q, k, v = qkv((1, 2, 4, 16), (1, 6, 2, 16))
    with pytest.raises(ShapeError, match=text):
        Attend(q, k, v, None, **tensors)
