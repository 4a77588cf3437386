"""Laws of the kernels of attention: whom an answer depends on, and whom it does not."""

import math

import pytest
import torch

from rope_core import AttentionConfig, Merge, merge
from rope_core.kernels import attention
from rope_core.reference import visible
from tests.core.oracle import ATTEND_BAR, DTYPES, LSE_BAR, expect, lse_off, off, randn
from tests.kernels.attending import ends, packed, paged, run

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
CONFIGS = {
    "causal": AttentionConfig(),
    "a window and a soft-cap": AttentionConfig(window=90, softcap=2.0),
    "chunks": AttentionConfig(chunk=64),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
# one row of a group, many and some; no queries
MIXED = [1, 33, 0, 7], [530, 150, 9, 12]


@every_config
@pytest.mark.parametrize(
    ("page_size", "dtype"), [*zip((16, 10, 256), DTYPES, strict=True)], ids=str
)
def test_keys_in_pages_answer_as_packed_keys_to_the_last_bit(page_size, dtype, config):
    q, k, v = packed(*MIXED, kv_heads=1, dtype=dtype)
    k_pages, v_pages, table = paged(k, v, MIXED[1], page_size)
    sinks = randn(4)
    answer = run(q, k_pages, v_pages, *MIXED, config, block_table=table, sinks=sinks)
    assert all(map(torch.equal, answer, run(q, k, v, *MIXED, config, sinks=sinks)))


def test_one_pool_holds_keys_and_values():
    q, k, v = packed(*MIXED)
    k_pages, v_pages, table = paged(k, v, MIXED[1], 16)
    pool = torch.stack((k_pages, v_pages), 1)  # [pages, 2, Hkv, 16, D]
    answer = run(q, pool[:, 0], pool[:, 1], *MIXED, block_table=table)
    assert all(map(torch.equal, answer, run(q, k, v, *MIXED)))


@every_config
@every_dtype
def test_a_sequence_is_answered_as_if_alone_to_the_last_bit(config, dtype):
    q, k, v = packed(*MIXED, kv_heads=1, dtype=dtype)
    together = run(q, k, v, *MIXED, config)
    start_q = start_k = 0
    for num_queries, num_keys in zip(*MIXED, strict=True):
        queries, keys = slice(start_q, start_q + num_queries), slice(start_k, start_k + num_keys)
        alone = run(q[queries], k[keys], v[keys], [num_queries], [num_keys], config)
        assert all(map(torch.equal, alone, (x[queries] for x in together)))
        start_q, start_k = start_q + num_queries, start_k + num_keys


# numbers of queries and of keys, the key that is bad, what the config says
HIDDEN = {
    "later": (9, 9, 8, {}),
    "later, of many": (40, 40, 39, {}),
    "later, with a past": (4, 9, 8, {}),
    "later, more queries": (50, 30, 29, {}),
    "before the window": (50, 90, 41, {"window": 2}),
    "before the window of one query": (1, 9, 2, {"window": 3}),
    "ahead of the window": (6, 6, 5, {"causal": False, "window": 2, "window_ahead": 1}),
    "in an earlier chunk": (40, 60, 23, {"chunk": 24}),
    "in a later chunk, soft-capped": (6, 6, 5, {"chunk": 3, "causal": False, "softcap": 1.0}),
}
hidden_cases = pytest.mark.parametrize("case", HIDDEN.values(), ids=HIDDEN)


def bad_answer(case, where, bad, dtype, **given):
    """Return the answer without and with a bad number, and which queries see it."""
    num_queries, num_keys, at, config = case
    config = AttentionConfig(**config)
    q, k, v = packed([num_queries], [num_keys], dtype=dtype)
    q = q.abs()  # so that the products with the largest number are infinite, not NaN
    clean = run(q, k, v, [num_queries], [num_keys], config, **given)
    (k if where == "k" else v)[at, 0, 3] = bad
    answer = run(q, k, v, [num_queries], [num_keys], config, **given)
    return clean, answer, visible(num_queries, num_keys, config)[:, at]


@pytest.mark.parametrize(
    ("bad", "dtype"), [*zip((math.nan, math.inf, -math.inf), DTYPES, strict=True)], ids=str
)
@pytest.mark.parametrize("where", ["k", "v"])
@hidden_cases
def test_what_a_hidden_key_or_value_holds_reaches_no_output(case, where, bad, dtype):
    clean, answer, sees = bad_answer(case, where, bad, dtype)
    assert not sees.all()
    assert off(answer[0][~sees], clean[0][~sees]) <= ATTEND_BAR[dtype]
    assert lse_off(answer[1][~sees], clean[1][~sees].double()) <= LSE_BAR[dtype]


@pytest.mark.parametrize("where", ["k", "v"])
@hidden_cases
def test_a_nan_that_is_seen_is_not_lost(case, where):
    _, (out, lse), sees = bad_answer(case, where, math.nan, torch.float16)
    rows = sees[:, None] & torch.tensor([True, True, False, False])
    assert torch.equal(out.isnan().any(-1), rows)
    assert torch.equal(out.isnan().any(-1), out.isnan()[..., 3])
    assert torch.equal(lse.isnan(), rows & (where == "k"))


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_an_infinite_value_that_is_seen_is_infinite(bad):
    _, (out, _), sees = bad_answer(HIDDEN["later, of many"], "v", bad, torch.bfloat16)
    assert (out[sees][:, :2, 3] == bad).all()
    assert out[~sees].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
def test_what_a_mask_hides_reaches_no_output(dtype):
    for where in ("k", "v"):
        seen = torch.ones(1, 1, 70, 70, dtype=torch.bool)
        seen[..., 30:, 1] = False
        mask = (
            seen if dtype == torch.bool else torch.zeros(seen.shape).masked_fill(~seen, -math.inf)
        )
        case = (70, 70, 1, {})
        clean, answer, sees = bad_answer(case, where, math.nan, torch.float32, mask=mask)
        sees &= seen[0, 0, :, 1]
        assert off(answer[0][~sees], clean[0][~sees]) <= 1e-6
        assert answer[0][sees][:, :2, 3].isnan().all()


def test_a_neighbour_in_the_packing_reaches_nobody():
    lengths = [5, 40, 1], [9, 70, 20]
    q, k, v = packed(*lengths)
    clean = run(q, k, v, *lengths, AttentionConfig(causal=False))
    for x, rows in ((q, slice(5, 45)), (k, slice(9, 79)), (v, slice(9, 79))):
        kept = x.clone()
        x[rows] = math.nan
        answer = run(q, k, v, *lengths, AttentionConfig(causal=False))
        for each, expected in zip(answer, clean, strict=True):
            assert torch.equal(each[:5], expected[:5])
            assert torch.equal(each[45:], expected[45:])
        assert answer[0][5:45].isnan().all()
        x.copy_(kept)


@pytest.mark.parametrize("config", [AttentionConfig(), AttentionConfig(window=30)], ids=str)
@pytest.mark.parametrize("num_queries", [1, 9, 40])
def test_strided_shards_merge_into_one_pass(num_queries, config):
    q, k, v = packed([num_queries], [150])
    place, sinks = torch.arange(150)[-num_queries:], randn(4)
    parts = []
    for shard in range(3):
        at = torch.arange(shard, 150, 3)
        index = {"q_index": place, "k_index": at, "sinks": sinks if shard == 1 else None}
        parts.append(run(q, k[at], v[at], [num_queries], [50], config, **index))
    merged = merge(Merge(*(torch.stack(x) for x in zip(*parts, strict=True))))
    out, lse = expect(q, k, v, config, sinks=sinks)
    assert off(merged.out, out) <= 1e-6
    assert lse_off(merged.lse, lse) <= 1e-6


def test_starts_on_the_device_are_those_of_the_lengths():
    lengths = [1, 0, 40, 7], [600, 3, 40, 9]
    tensors = packed(*lengths)
    starts = {"cu_seqlens_q": ends(lengths[0]), "cu_seqlens_k": ends(lengths[1])}
    found, expected = run(*tensors, *lengths, **starts), run(*tensors, *lengths)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def launches(monkeypatch, lengths_q, lengths_k, config=None, *, heads=2, kv_heads=1, **given):
    """Return what is launched for packed sequences whose tensors take no memory."""
    found = []
    monkeypatch.setattr(attention, "launch_all", found.extend)
    q = torch.zeros(1, 1, 1).expand(sum(lengths_q), heads, 16)
    k = torch.zeros(1, 1, 1).expand(sum(lengths_k), kv_heads, 16)
    run(q, k, k, lengths_q, lengths_k, config, **given)
    monkeypatch.undo()
    return {f"{each.kernel.__name__} of {each.constants.get('BLOCK_M')}": each for each in found}


def test_sequences_are_along_the_axis_of_a_grid_that_is_long(monkeypatch):
    """The others end at 65,535."""
    lengths = [1] * 70_000 + [30_000]
    found = launches(monkeypatch, lengths, lengths)
    assert len(found) == 3
    assert {len(each.grid) for each in found.values()} == {1}
