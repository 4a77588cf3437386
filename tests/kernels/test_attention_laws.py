"""Laws of the kernels of attention: whom an answer depends on, and whom it does not."""

import math

import pytest
import torch

from rope_core import AttentionConfig, Merge, merge
from rope_core.kernels import attention
from rope_core.kernels import tile_scheduler as work_list
from rope_core.reference import visible
from tests.core.oracle import ATTEND_BAR, DTYPES, LSE_BAR, expect, lse_off, off, randn
from tests.kernels.attention_calls import ends, packed, paged, run

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


def test_cu_seqlens_on_the_device_give_the_same_bits_as_lengths():
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
    return {
        f"{each.launcher.kernel.__name__} of {each.constants.get('BLOCK_M')}": each
        for each in found
    }


def test_sequences_are_along_the_axis_of_a_grid_that_is_long(monkeypatch):
    """The others end at 65,535."""
    lengths = [1] * 70_000 + [30_000]
    found = launches(monkeypatch, lengths, lengths)
    assert len(found) == 3
    assert {len(each.grid) for each in found.values()} == {1}


def test_work_lists_of_few_sequences_are_kept_and_long_ones_are_not(monkeypatch):
    """One of a million sequences takes 100 MB."""
    work_list._build_on_host.cache_clear()
    for num_seqs, kept in ((work_list.KEPT_SEQUENCES, 1), (work_list.KEPT_SEQUENCES + 1, 1)):
        launches(monkeypatch, [1] * num_seqs, [1] * num_seqs)
        assert work_list._build_on_host.cache_info().currsize == kept


def parts_of(launch, lengths_k):
    """Return sequence, tile of rows and keys of each program of a head, as decode finds them."""
    work, at = launch.tensors[-1].tolist(), launch.numbers[-1]
    programs = work[at : at + launch.grid[0] // launch.numbers[0]]
    for program, seq in enumerate(programs):
        first, _, start, length, num_parts, slot = work[seq * 8 : seq * 8 + 6]
        tiles = (len(programs) - programs[::-1].index(seq) - first) // num_parts
        part, tile = divmod(program - first, tiles)
        keys = (start // length + part) * length
        yield seq, tile, slot, max(start, keys), min(lengths_k[seq], keys + length)


def test_decode_launches_no_empty_programs(monkeypatch):
    lengths = [1] * 64, [1_000] * 63 + [128_000]
    found = launches(monkeypatch, *lengths, heads=8, kv_heads=2)
    assert {*found} == {"decode_kernel of 16", "merge_kernel of None"}
    decode = found["decode_kernel of 16"]
    assert decode.grid == (2 * (63 * 2 + 250),)
    assert found["merge_kernel of None"].grid == (2 * 64,)
    each = [*parts_of(decode, lengths[1])]
    assert len({*each}) == len(each)
    for seq, num_keys in enumerate(lengths[1]):
        keys = sorted((start, end) for of, _, _, start, end in each if of == seq)
        ends = [0, *(end for _, end in keys)]
        assert ends == [*(start for start, _ in keys), num_keys], "no key twice, none left out"


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (AttentionConfig(window=600), 2),
        (AttentionConfig(window=1), 1),
        (AttentionConfig(chunk=1_500), 3),
        (AttentionConfig(causal=False, window=2**31 - 1), 20),
    ],
)
def test_keys_that_are_not_seen_have_no_programs(monkeypatch, config, parts):
    (decode,) = (
        each
        for name, each in launches(monkeypatch, [1], [10_000], config).items()
        if name.startswith("decode")
    )
    assert decode.grid == (parts,)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(16, 65_536), (17, 65_536), (256, 65_536)])
def test_appends_to_many_keys_fill_the_gpu(monkeypatch, num_queries, num_keys):
    found = launches(monkeypatch, [num_queries], [num_keys], heads=32, kv_heads=8)
    assert {*found} == {"decode_kernel of 64", "merge_kernel of None"}
    programs = found["decode_kernel of 64"].grid[0]
    assert 8 * 128 <= programs <= 8 * 256, "about as many, however many rows there are"


def test_appends_of_more_rows_are_split_by_their_own_lengths(monkeypatch):
    found = launches(monkeypatch, [32, 33, 512, 513], [1_024, 1_000, 16_384, 65_536])
    (prefill,) = (each for name, each in found.items() if name.startswith("prefill"))
    work, at = prefill.tensors[-1].tolist(), prefill.numbers[-1]
    assert {*work[at : at + prefill.grid[0]]} == {1, 3}, "too few keys for each row; too many rows"


def test_partial_results_take_bounded_memory(monkeypatch):
    for num_queries, num_keys in ((1, 1), (1, 100_000), (32, 100_000), (512, 16_384), (512, 10**6)):
        found = launches(monkeypatch, [num_queries], [num_keys], heads=4, kv_heads=2)
        partial = found["merge_kernel of None"].tensors[0]
        rows = num_queries * 2
        assert partial.numel() <= 2 * (16 + 4) * (num_keys / 8 + 2 * rows)


def test_an_append_in_parts_is_near_the_reference_and_has_its_bits_in_any_batch():
    lengths = [18, 1, 40, 35], [1_300, 3, 50, 1_200]
    q, k, v = packed(*lengths)
    config = AttentionConfig(window=1_250, softcap=3.0)
    together = run(q, k, v, *lengths, config)
    out, lse = expect(q, k, v, config, *map(ends, lengths))
    assert off(together[0], out) <= ATTEND_BAR[torch.float32]
    assert lse_off(together[1], lse) <= LSE_BAR[torch.float32]
    alone = run(q[:18], k[:1_300], v[:1_300], [18], [1_300], config)
    assert all(map(torch.equal, alone, (x[:18] for x in together)))


FARTHEST = 2**31 - 1  # that a config takes


def test_bounds_beyond_all_keys_hide_nothing():
    q, k, v = packed(*MIXED)
    expected = run(q, k, v, *MIXED, AttentionConfig(causal=False))
    config = AttentionConfig(causal=False, window=FARTHEST, window_ahead=FARTHEST)
    assert all(map(torch.equal, run(q, k, v, *MIXED, config), expected))


def test_the_longest_chunk_hides_what_is_before_the_first_key_only():
    lengths = [3, 45], [9, 40]
    q, k, v = packed(*lengths)
    expected = run(q, k, v, *lengths, AttentionConfig(causal=False))
    answer = run(q, k, v, *lengths, AttentionConfig(causal=False, chunk=FARTHEST))
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
        (-(2**63), AttentionConfig(causal=False, window=5, window_ahead=FARTHEST)): [0],
        (last, AttentionConfig(causal=False, window=FARTHEST, window_ahead=3)): [2],
        (last, AttentionConfig(chunk=2**20)): [2],
        (-(2**63), AttentionConfig(causal=False, chunk=3)): [0],
        (last, AttentionConfig()): [0, 1, 2],
    }
    for (position, config), keys in seen.items():
        index = {"q_index": torch.full((num_queries,), position), "k_index": at}
        out, lse = run(q, k, v, [num_queries], [3], config, **index)
        few = [num_queries], [len(keys)]
        see_all = AttentionConfig(causal=False)
        expected = run(q, k[keys], v[keys], *few, see_all)
        assert off(out, expected[0].double()) <= 1e-6, (position, config)
        assert lse_off(lse, expected[1].double()) <= 1e-6
