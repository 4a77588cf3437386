"""Which programs attend to which sequence: the launches of calls whose tensors take no memory."""

import pytest
import torch

from rope_core import AttentionConfig
from rope_core.kernels import attention, tile_scheduler
from tests.kernels.attention_calls import run


def launches(monkeypatch, lengths_q, lengths_k, config=None, *, heads=2, kv_heads=1, **options):
    """Return what is launched for packed sequences whose tensors take no memory."""
    launched = []
    monkeypatch.setattr(attention, "launch_all", launched.extend)
    q = torch.zeros(1, 1, 1).expand(sum(lengths_q), heads, 16)
    k = torch.zeros(1, 1, 1).expand(sum(lengths_k), kv_heads, 16)
    run(q, k, k, lengths_q, lengths_k, config, **options)
    monkeypatch.undo()
    return {f"{x.launcher.kernel.__name__} of {x.constants['BLOCK_M']}": x for x in launched}


def test_programs_are_along_the_longest_axis_of_the_grid(monkeypatch):
    """The other axes of a grid end at 65,535."""
    lengths = [1] * 70_000 + [30_000]
    launched = launches(monkeypatch, lengths, lengths)
    assert len(launched) == 3
    assert {len(launch.grid) for launch in launched.values()} == {1}


def test_short_schedules_are_cached_and_long_ones_are_not(monkeypatch):
    """The schedule of a million sequences takes 100 MB."""
    tile_scheduler._build_on_host.cache_clear()
    longest = tile_scheduler.MAX_CACHED_SEQUENCES
    for num_seqs in (longest, longest + 1):
        launches(monkeypatch, [1] * num_seqs, [1] * num_seqs)
        assert tile_scheduler._build_on_host.cache_info().currsize == 1


def splits_of(launch, lengths_k):
    """Yield sequence, tile, partial row and keys of each program of a head of keys."""
    work, at = launch.tensors[-1].tolist(), launch.numbers[-1]
    programs = work[at : at + launch.grid[0] // launch.numbers[0]]
    for program, seq in enumerate(programs):
        first, _, start, length, num_splits, partial_row = work[seq * 8 : seq * 8 + 6]
        tiles = (len(programs) - programs[::-1].index(seq) - first) // num_splits
        split, tile = divmod(program - first, tiles)
        keys = (start // length + split) * length
        yield seq, tile, partial_row, max(start, keys), min(lengths_k[seq], keys + length)


def test_decode_launches_no_empty_programs(monkeypatch):
    lengths = [1] * 64, [1_000] * 63 + [128_000]
    launched = launches(monkeypatch, *lengths, heads=8, kv_heads=2)
    assert {*launched} == {"attention_kernel of 16", "merge_kernel of 4"}
    decode = launched["attention_kernel of 16"]
    assert decode.grid == (2 * (63 * 2 + 250),)
    assert launched["merge_kernel of 4"].grid == (2 * 64,)
    splits = [*splits_of(decode, lengths[1])]
    assert len({*splits}) == len(splits)
    for seq, num_keys in enumerate(lengths[1]):
        keys = sorted((start, end) for index, _, _, start, end in splits if index == seq)
        ends = [0, *(end for _, end in keys)]
        assert ends == [*(start for start, _ in keys), num_keys], "each key is in one split"


@pytest.mark.parametrize(
    ("config", "num_splits"),
    [
        (AttentionConfig(window=600), 2),
        (AttentionConfig(window=1), 1),
        (AttentionConfig(chunk=1_500), 3),
        (AttentionConfig(causal=False, window=2**31 - 1), 20),
    ],
)
def test_keys_that_no_query_sees_have_no_programs(monkeypatch, config, num_splits):
    launched = launches(monkeypatch, [1], [10_000], config)
    assert launched["attention_kernel of 16"].grid == (num_splits,)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(16, 65_536), (17, 65_536), (256, 65_536)])
def test_appends_to_many_keys_fill_the_gpu(monkeypatch, num_queries, num_keys):
    launched = launches(monkeypatch, [num_queries], [num_keys], heads=32, kv_heads=8)
    assert {*launched} == {"attention_kernel of 64", "merge_kernel of 4"}
    programs = launched["attention_kernel of 64"].grid[0]
    assert 8 * 128 <= programs <= 8 * 256, "about as many, however many rows there are"


def test_longer_appends_are_split_by_their_own_lengths(monkeypatch):
    launched = launches(monkeypatch, [32, 33, 512, 513], [1_024, 1_000, 16_384, 65_536])
    prefill = launched["attention_kernel of 32"]
    work, at = prefill.tensors[-1].tolist(), prefill.numbers[-1]
    assert {*work[at : at + prefill.grid[0]]} == {1, 3}, "too few keys for each row; too many rows"


def test_partial_results_take_bounded_memory(monkeypatch):
    for num_queries, num_keys in ((1, 1), (1, 100_000), (32, 100_000), (512, 16_384), (512, 10**6)):
        launched = launches(monkeypatch, [num_queries], [num_keys], heads=4, kv_heads=2)
        partial = launched["merge_kernel of 4"].tensors[0]
        rows = num_queries * 2
        assert partial.numel() <= 2 * (16 + 4) * (num_keys / 8 + 2 * rows)
