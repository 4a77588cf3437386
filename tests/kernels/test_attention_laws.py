"""Laws of the attention kernels: what an answer depends on, and what it does not."""

import math

import pytest
import torch

from rope_core import AttentionConfig, Merge, merge
from rope_core.reference import attention_mask
from tests.core.oracle import ATTEND_BAR, DTYPES, LSE_BAR, expect, lse_off, off, randn
from tests.kernels.attention_calls import ends, packed, paged, run

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
CONFIGS = {
    "causal": AttentionConfig(),
    "a window and a soft-cap": AttentionConfig(window=90, softcap=2.0),
    "chunks": AttentionConfig(chunk=64),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
# rows of each tile; no queries
MIXED = [1, 33, 0, 7], [530, 150, 9, 12]


@every_config
@pytest.mark.parametrize(
    ("page_size", "dtype"), [*zip((16, 10, 256), DTYPES, strict=True)], ids=str
)
def test_paged_and_packed_keys_give_the_same_bits(page_size, dtype, config):
    q, k, v = packed(*MIXED, kv_heads=1, dtype=dtype)
    k_pages, v_pages, table = paged(k, v, MIXED[1], page_size)
    sinks = randn(4)
    answer = run(q, k_pages, v_pages, *MIXED, config, block_table=table, sinks=sinks)
    assert all(map(torch.equal, answer, run(q, k, v, *MIXED, config, sinks=sinks)))


def test_keys_and_values_may_share_one_pool():
    q, k, v = packed(*MIXED)
    k_pages, v_pages, table = paged(k, v, MIXED[1], 16)
    pool = torch.stack((k_pages, v_pages), 1)  # [pages, 2, Hkv, 16, D]
    answer = run(q, pool[:, 0], pool[:, 1], *MIXED, block_table=table)
    assert all(map(torch.equal, answer, run(q, k, v, *MIXED)))


@every_config
@every_dtype
def test_a_sequence_has_the_same_bits_alone_and_in_a_batch(config, dtype):
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


def answers_with(case, where, bad, dtype, **options):
    """Return the answers without and with a bad number, and which queries see the number."""
    num_queries, num_keys, at, config = case
    config = AttentionConfig(**config)
    q, k, v = packed([num_queries], [num_keys], dtype=dtype)
    q = q.abs()  # so that the products with the largest number are infinite, not NaN
    clean = run(q, k, v, [num_queries], [num_keys], config, **options)
    (k if where == "k" else v)[at, 0, 3] = bad
    answer = run(q, k, v, [num_queries], [num_keys], config, **options)
    return clean, answer, attention_mask(num_queries, num_keys, config)[:, at]


@pytest.mark.parametrize(
    ("bad", "dtype"), [*zip((math.nan, math.inf, -math.inf), DTYPES, strict=True)], ids=str
)
@pytest.mark.parametrize("where", ["k", "v"])
@hidden_cases
def test_nan_and_inf_in_a_hidden_key_or_value_do_not_change_an_answer(case, where, bad, dtype):
    clean, answer, sees = answers_with(case, where, bad, dtype)
    assert not sees.all()
    assert off(answer[0][~sees], clean[0][~sees]) <= ATTEND_BAR[dtype]
    assert lse_off(answer[1][~sees], clean[1][~sees].double()) <= LSE_BAR[dtype]


@pytest.mark.parametrize("where", ["k", "v"])
@hidden_cases
def test_a_visible_nan_is_in_the_answer(case, where):
    _, (out, lse), sees = answers_with(case, where, math.nan, torch.float16)
    rows = sees[:, None] & torch.tensor([True, True, False, False])
    assert torch.equal(out.isnan().any(-1), rows)
    assert torch.equal(out.isnan().any(-1), out.isnan()[..., 3])
    assert torch.equal(lse.isnan(), rows & (where == "k"))


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_a_visible_infinite_value_is_in_the_answer(bad):
    _, (out, _), sees = answers_with(HIDDEN["later, of many"], "v", bad, torch.bfloat16)
    assert (out[sees][:, :2, 3] == bad).all()
    assert out[~sees].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
def test_nan_that_a_mask_hides_does_not_change_an_answer(dtype):
    for where in ("k", "v"):
        seen = torch.ones(1, 1, 70, 70, dtype=torch.bool)
        seen[..., 30:, 1] = False
        mask = (
            seen if dtype == torch.bool else torch.zeros(seen.shape).masked_fill(~seen, -math.inf)
        )
        case = (70, 70, 1, {})
        clean, answer, sees = answers_with(case, where, math.nan, torch.float32, mask=mask)
        sees &= seen[0, 0, :, 1]
        assert off(answer[0][~sees], clean[0][~sees]) <= 1e-6
        assert answer[0][sees][:, :2, 3].isnan().all()


def test_nan_in_a_sequence_does_not_change_the_others():
    lengths = [5, 40, 1], [9, 70, 20]
    q, k, v = packed(*lengths)
    clean = run(q, k, v, *lengths, AttentionConfig(causal=False))
    for x, rows in ((q, slice(5, 45)), (k, slice(9, 79)), (v, slice(9, 79))):
        original = x.clone()
        x[rows] = math.nan
        answer = run(q, k, v, *lengths, AttentionConfig(causal=False))
        for after, before in zip(answer, clean, strict=True):
            assert torch.equal(after[:5], before[:5])
            assert torch.equal(after[45:], before[45:])
        assert answer[0][5:45].isnan().all()
        x.copy_(original)


@pytest.mark.parametrize("config", [AttentionConfig(), AttentionConfig(window=30)], ids=str)
@pytest.mark.parametrize("num_queries", [1, 9, 40])
def test_strided_shards_merge_into_one_pass(num_queries, config):
    q, k, v = packed([num_queries], [150])
    positions, sinks = torch.arange(150)[-num_queries:], randn(4)
    parts = []
    for shard in range(3):
        at = torch.arange(shard, 150, 3)
        options = {"index": (positions, at), "sinks": sinks if shard == 1 else None}
        parts.append(run(q, k[at], v[at], [num_queries], [50], config, **options))
    merged = merge(Merge(*(torch.stack(x) for x in zip(*parts, strict=True))))
    out, lse = expect(q, k, v, config, sinks=sinks)
    assert off(merged.out, out) <= 1e-6
    assert lse_off(merged.lse, lse) <= 1e-6


def test_cu_seqlens_on_the_device_give_the_same_bits_as_lengths():
    lengths = [1, 0, 40, 7], [600, 3, 40, 9]
    tensors = packed(*lengths)
    starts = ends(lengths[0]), ends(lengths[1])
    assert all(
        map(torch.equal, run(*tensors, *lengths, cu_seqlens=starts), run(*tensors, *lengths))
    )


def test_a_split_append_is_near_the_reference_and_has_the_same_bits_in_any_batch():
    lengths = [18, 1, 40, 35], [1_300, 3, 50, 1_200]
    q, k, v = packed(*lengths)
    config = AttentionConfig(window=1_250, softcap=3.0)
    together = run(q, k, v, *lengths, config)
    out, lse = expect(q, k, v, config, *map(ends, lengths))
    assert off(together[0], out) <= ATTEND_BAR[torch.float32]
    assert lse_off(together[1], lse) <= LSE_BAR[torch.float32]
    alone = run(q[:18], k[:1_300], v[:1_300], [18], [1_300], config)
    assert all(map(torch.equal, alone, (x[:18] for x in together)))


MAX_WINDOW = 2**31 - 1  # that a config takes


def test_bounds_beyond_all_keys_hide_nothing():
    q, k, v = packed(*MIXED)
    expected = run(q, k, v, *MIXED, AttentionConfig(causal=False))
    config = AttentionConfig(causal=False, window=MAX_WINDOW, window_ahead=MAX_WINDOW)
    assert all(map(torch.equal, run(q, k, v, *MIXED, config), expected))


def test_the_longest_chunk_hides_keys_only_from_queries_before_the_first_key():
    lengths = [3, 45], [9, 40]
    q, k, v = packed(*lengths)
    expected = run(q, k, v, *lengths, AttentionConfig(causal=False))
    answer = run(q, k, v, *lengths, AttentionConfig(causal=False, chunk=MAX_WINDOW))
    assert not answer[0][3:8].any(), "the first five of these queries are at negative positions"
    seen = [0, 1, 2, *range(8, 48)]
    assert off(answer[0][seen], expected[0][seen].double()) <= 1e-6
    assert lse_off(answer[1][seen], expected[1][seen].double()) <= 1e-6


@pytest.mark.parametrize("num_queries", [1, 40])
def test_positions_at_the_ends_of_int64_do_not_overflow(num_queries):
    q, k, v = packed([num_queries], [3])
    last = 2**63 - 1
    at = torch.tensor([-(2**63), 0, last])
    seen = {
        (-(2**63), AttentionConfig(window=5)): [0],
        (last, AttentionConfig(window=5)): [2],
        (-(2**63), AttentionConfig(causal=False, window=5, window_ahead=MAX_WINDOW)): [0],
        (last, AttentionConfig(causal=False, window=MAX_WINDOW, window_ahead=3)): [2],
        (last, AttentionConfig(chunk=2**20)): [2],
        (-(2**63), AttentionConfig(causal=False, chunk=3)): [0],
        (last, AttentionConfig()): [0, 1, 2],
    }
    for (position, config), keys in seen.items():
        index = torch.full((num_queries,), position), at
        out, lse = run(q, k, v, [num_queries], [3], config, index=index)
        lengths = [num_queries], [len(keys)]
        see_all = AttentionConfig(causal=False)
        expected = run(q, k[keys], v[keys], *lengths, see_all)
        assert off(out, expected[0].double()) <= 1e-6, (position, config)
        assert lse_off(lse, expected[1].double()) <= 1e-6
