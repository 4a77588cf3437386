"""Operations of a cache: what they refuse, and what a refusal changes."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest
import torch

from rope_core.config import AttentionConfig, RopeConfig
from rope_core.errors import ConfigError, ShapeError
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.config import KVConfig, KVGroup
from rope_core.kvcache.errors import (
    ArenaFull,
    KVCacheError,
    LayersDiffer,
    LengthConflict,
    RolledPast,
    SharedPages,
    TooManySegments,
    TooManyTokens,
)
from tests.core.kvcache.model import Memory, Model, check_invariants, config_of

FULL = config_of(None)


def cache_of(
    config: KVConfig = FULL, tokens: int = 0, num_bytes: int = 2**16, **options: object
) -> KVCache:
    cache = KVCache(config, Arena(num_bytes, page_tokens=4), **options)
    if tokens:
        append(cache, tokens)
    return cache


def append(cache: KVCache, tokens: int, layers: list[int] | None = None) -> None:
    for layer in layers or range(cache.config.num_layers):
        cache.commit(cache.plan([layer], num_new=[tokens] * cache.batch))


def state_of(cache: KVCache) -> object:
    rows = [
        (row.positions(0, row.num_tokens).tolist(), [*row.indices(0, row.num_tokens)])
        for row in cache.rows
    ]
    tables = [
        [[table.kept.tolist() for table in segment.tables] for segment in row.segments]
        for row in cache.rows
    ]
    bytes_now = cache.own_bytes, cache.shared_bytes, cache.reserved_bytes
    lengths = [cache.lengths(layer) for layer in range(cache.config.num_layers)]
    return rows, tables, bytes_now, lengths, cache.generation


REFUSED: dict[str, tuple[type[Exception], Callable[[KVCache], object]]] = {
    "too many tokens": (TooManyTokens, lambda c: c.plan([0], num_new=[31])),
    "queries": (ShapeError, lambda c: c.plan([0], num_queries=[11])),
    "unknown layer": (ConfigError, lambda c: c.plan([2], num_new=[1])),
    "layer twice": (ConfigError, lambda c: c.plan([0, 0], num_new=[1])),
    "unknown row": (ConfigError, lambda c: c.plan([0], num_new=[1], rows=[1])),
    "positions": (
        ShapeError,
        lambda c: c.plan([0], num_new=[2], positions=torch.tensor([1])),
    ),
    "float positions": (
        ShapeError,
        lambda c: c.plan([0], num_new=[1], positions=torch.tensor([1.0])),
    ),
    "q_index without positions": (
        ShapeError,
        lambda c: c.plan([0], num_queries=[1], q_index=torch.tensor([3])),
    ),
    "long mask": (
        ShapeError,
        lambda c: c.plan([0], num_queries=[1], tail_mask=torch.ones(1, 11, dtype=torch.bool)),
    ),
    "truncate": (LengthConflict, lambda c: c.truncate(11)),
    "fork": (LengthConflict, lambda c: c.fork(lengths=11)),
    "evict": (ConfigError, lambda c: c.evict(3, 11)),
    "evict backwards": (ConfigError, lambda c: c.evict(3, 2)),
    "shift": (ConfigError, lambda c: c.shift(0, 1, [1, 2])),
    "attach": (TooManyTokens, lambda c: [c.attach(c, 0, 10) for _ in range(9)]),
    "attach range": (ConfigError, lambda c: c.attach(c, 0, 11)),
    "select_tail": (LengthConflict, lambda c: c.plan_select_tail(11, [[0]])),
    "select_tail order": (ConfigError, lambda c: c.plan_select_tail(4, [[1, 1]])),
    "select_tail offset": (ConfigError, lambda c: c.plan_select_tail(4, [[4]])),
    "rows": (ConfigError, lambda c: c.reorder([1])),
    "too many rows": (ConfigError, lambda c: c.reorder([0] * 1025)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_changes_nothing(name: str):
    error, operation = REFUSED[name]
    cache = cache_of(tokens=10, max_tokens=40 if name != "attach" else 15)
    before = state_of(cache)
    with pytest.raises(error):
        operation(cache)
    assert state_of(cache) == before
    check_invariants(cache.arena, [cache])
    append(cache, 1)


@pytest.mark.parametrize(
    "operation",
    [
        lambda c: c.evict(0, 1),
        lambda c: c.shift(0, 1, 1),
        lambda c: c.attach(c, 0, 1),
        lambda c: c.reorder([0]),
        lambda c: c.plan_select_tail(1, [[]]),
        lambda c: c.fork(strict=True),
    ],
)
def test_layers_must_be_level(operation: Callable[[KVCache], object]):
    cache = cache_of(tokens=5)
    append(cache, 1, [0])
    with pytest.raises(LayersDiffer) as error:
        operation(cache)
    assert error.value.lengths == [[6], [5]]


def test_truncate_undoes_a_token_that_only_some_layers_have():
    cache = cache_of(tokens=5)
    append(cache, 1, [0])
    cache.truncate(5)
    assert cache.lengths(0) == cache.lengths(1) == [5]


def test_a_layer_follows_the_positions_of_the_first():
    cache = cache_of()
    cache.commit(cache.plan([0], num_new=[3], positions=torch.tensor([5, 9, 2])))
    with pytest.raises(ShapeError, match="positions"):
        cache.plan([1], num_new=[3], positions=torch.tensor([5, 9, 3]))
    plan = cache.plan([1], num_new=[3]).layers[0]
    assert plan.base_positions.tolist() == [5, 9, 2]


def test_numbers_run_on_from_the_last_token():
    cache = cache_of(tokens=6)
    cache.shift(5, 6, 10)
    plan = cache.plan([0], num_new=[1], num_queries=[1])
    assert plan.layers[0].q_positions.tolist() == [16]
    cache.discard(plan)
    cache.evict(4, 6, close=False)
    plan = cache.plan([0], num_new=[1], num_queries=[1])
    assert plan.layers[0].q_positions.tolist() == [4]
    assert [*plan.layers[0].rows[0].q_index] == [4]
    cache.discard(plan)
    cache.truncate(0)
    plan = cache.plan([0], num_new=[1], num_queries=[1])
    assert plan.layers[0].q_positions.tolist() == [0]


def test_evict_closes_the_gap_of_positions_that_do_not_run_on():
    cache = cache_of()
    for layer in (0, 1):
        cache.commit(cache.plan([layer], num_new=[4], positions=torch.tensor([3, 10, 20, 50])))
    cache.evict(1, 3)
    assert cache.rows[0].positions(0, 2).tolist() == [[3, 10]]
    assert [*cache.rows[0].indices(0, 2)] == [0, 1]


def test_streaming_keeps_two_segments_and_its_memory():
    cache = cache_of()
    for step in range(600):
        append(cache, 1)
        if step >= 20:
            cache.evict(4, cache.length[0] - 16)
    assert cache.num_segments == [2]
    assert (
        cache.own_bytes == cache.arena.used_bytes <= 7 * cache.holdings.pools[0].shape.group_bytes
    )
    check_invariants(cache.arena, [cache])


@pytest.mark.parametrize("window", [3, 7])
def test_a_window_frees_pages_and_keeps_the_rollback(window: int):
    cache = cache_of(config_of(window, layers=1, rollback=8))
    append(cache, 90)
    cache.commit(cache.plan([0], num_queries=[90]))  # a repeat of the step
    append(cache, 10)
    cache.truncate(92)
    append(cache, 7)
    append(cache, 1)
    with pytest.raises(RolledPast):
        cache.truncate(100 - 8 - window - 4)
    assert cache.own_bytes <= 6 * cache.holdings.pools[0].shape.group_bytes
    with pytest.raises(RolledPast):
        cache.fork(lengths=50)
    with pytest.raises(RolledPast):
        cache.evict(60, 99)
    cache.evict(10, 20)
    assert cache.length == [90]
    cache.truncate(0)
    append(cache, 1)


def test_pages_of_a_window_stay_until_the_layers_of_other_groups_have_the_tokens():
    full, windowed = config_of(None, layers=1), config_of(3, layers=1, rollback=4)
    groups = (windowed.groups[0], replace(full.groups[0], layers=(1,)))
    cache = cache_of(replace(full, groups=groups), 8)
    for _ in range(2):
        append(cache, 16, [0])
    assert cache.length == [8]
    cache.truncate(8)  # undoes the tokens that one layer has alone
    cache.truncate(4)
    assert cache.lengths(0) == cache.lengths(1) == [4]


def test_tokens_are_not_moved_out_of_the_range_of_positions():
    cache = cache_of(FULL, 3)
    cache.shift(0, 3, 2**53 - 2)
    before = state_of(cache)
    for change in (lambda: cache.shift(0, 3, 1), lambda: cache.attach(cache, 0, 3)):
        with pytest.raises(ConfigError, match=r"between -2\*\*53 and 2\*\*53"):
            change()
    assert state_of(cache) == before


def test_a_window_reserves_what_it_can_hold():
    config = config_of(None, 7, layers=1)
    cache = cache_of(config, num_bytes=2**22, max_tokens=20_000)
    full, windowed = (each.reserved for each in cache.holdings.reservations)
    assert full == 5_000
    assert windowed < 1_100


def test_a_fork_shares_until_it_writes():
    cache = cache_of(tokens=10, max_tokens=20)
    reserved = cache.reserved_bytes
    page = cache.holdings.pools[0].shape.group_bytes
    [fork] = cache.fork()
    assert fork.reserved_bytes == reserved - 2 * page
    assert (fork.own_bytes, fork.shared_bytes) == (0, 3 * page)
    pending = fork.plan([0], num_new=[1])
    assert len(pending.layers[0].copies) == 1
    fork.commit(pending)
    assert (fork.own_bytes, fork.shared_bytes) == (page, 2 * page)
    check_invariants(cache.arena, [cache, fork])
    cache.close()
    assert fork.reserved_bytes == reserved == cache.arena.reserved_bytes
    check_invariants(cache.arena, [fork])


def test_forks_are_all_or_none():
    cache = cache_of(tokens=10, max_tokens=40, num_bytes=40 * 128)
    before = state_of(cache)
    with pytest.raises(ArenaFull):
        cache.fork(count=64)
    assert state_of(cache) == before
    check_invariants(cache.arena, [cache])


def test_a_full_arena_tells_the_bytes_of_the_whole_append():
    cache = cache_of(tokens=4, num_bytes=40 * 128)
    free, before = cache.arena.free_bytes, state_of(cache)
    with pytest.raises(ArenaFull) as full:
        cache.plan([0], num_new=[1000])
    size = cache.holdings.pools[0].shape.group_bytes
    assert full.value.wanted_bytes == 1000 // cache.arena.page_tokens * size
    assert 0 <= full.value.free_bytes <= free < full.value.wanted_bytes
    assert state_of(cache) == before


def test_the_reservation_follows_the_rows():
    cache = cache_of(tokens=4, max_tokens=40, num_bytes=40 * 128, batch=2)
    before = state_of(cache)
    with pytest.raises(ArenaFull):
        cache.reorder([0, 1, 1, 0])
    assert state_of(cache) == before
    reserved = cache.reserved_bytes
    cache.reorder([1])
    assert cache.reserved_bytes == reserved // 2


def test_every_failed_allocation_leaves_the_cache_as_it_was(monkeypatch: pytest.MonkeyPatch):
    for failing in range(12):
        cache = cache_of(config_of(None, 7, layers=1), batch=2)
        append(cache, 6)
        [fork] = cache.fork()
        left = count(failing, -1)
        allocate = type(cache.holdings.pools[0]).allocate

        def failing_allocate(pool, *args, left=left, allocate=allocate):
            if next(left) == 0:
                raise ArenaFull(1, 0)
            return allocate(pool, *args)

        before = state_of(fork)
        with monkeypatch.context() as patch:
            patch.setattr(type(cache.holdings.pools[0]), "allocate", failing_allocate)
            try:
                fork.discard(fork.plan([0], num_new=[9, 9]))
            except KVCacheError:
                assert failing < 6
        assert state_of(fork) == before
        check_invariants(cache.arena, [cache, fork])


def test_segments_are_bounded_and_compaction_joins_them():
    memory = Memory()
    model = Model(cache_of(num_bytes=2**18), memory, count(1))
    for _ in range(5):
        for layer in (0, 1):
            model.commit(model.append([layer], [40], [0]))
    cache = model.cache
    for place in range(1, 64, 2):
        if cache.num_segments[0] <= 62:
            cache.shift(place, place + 1, 1)
            model.shift([0], place, place + 1, [1])
    before = state_of(cache)
    with pytest.raises(TooManySegments):
        cache.shift(80, 81, 1)
    assert state_of(cache) == before
    assert cache.num_segments[0] in (63, 64)
    while pending := cache.plan_compaction(8):
        memory.run_moves(pending.moves)
        cache.commit(pending)
        model.check()
        check_invariants(cache.arena, [cache])
    assert cache.num_segments[0] <= 8


def test_a_rebase_keeps_all_tokens_and_refuses_shared_pages():
    cache = cache_of(tokens=10)
    [fork] = cache.fork()
    to = RopeConfig.of(2, theta=5.0)
    with pytest.raises(SharedPages):
        fork.plan_rebase([0], [to])
    before = state_of(fork)
    fork.discard(fork.plan_rebase([0], [to], copy=True))
    assert state_of(fork) == before
    pending = fork.plan_rebase([0], [to], copy=True)
    [move] = pending.moves.moves
    assert move.positions.tolist() == [*range(10)]
    assert len(pending.moves.copies) == 3
    fork.commit(pending)
    assert fork.config.groups[0].rope == to
    assert fork.shared_bytes == 0
    check_invariants(cache.arena, [cache, fork])


def test_a_cache_that_closes_while_an_operation_runs_keeps_its_pages_until_the_end():
    cache = cache_of(tokens=3)
    pending = cache.plan([0], num_new=[9])
    cache.close()
    assert cache.arena.used_bytes > 0
    cache.commit(pending)
    assert cache.arena.used_bytes == cache.arena.reserved_bytes == 0


def test_groups_are_checked():
    def group(**changes: object) -> KVGroup:
        fields = {
            "layers": (0,),
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 8,
            "value_dim": 8,
            "rope": RopeConfig.of(8),
            "attention": AttentionConfig(),
        }
        return KVGroup(**(fields | changes))

    for changes in (
        {"num_kv_heads": 3},
        {"layers": ()},
        {"head_dim": 0},
        {"rope": RopeConfig.of(16)},
        {"rope": RopeConfig.of(8, rope_type="dynamic", factor=2.0, max_position_embeddings=64)},
        {"rollback": -1},
        {"sinks": ((0.0,) * 3,)},
        {"sinks": ((float("nan"),) * 4,)},
        {"attention": AttentionConfig(causal=False, window=4, window_ahead=2)},
    ):
        with pytest.raises(ConfigError):
            group(**changes)
    with pytest.raises(ConfigError, match="layers"):
        KVConfig(groups=(group(), group()), dtype=torch.float32)
    with pytest.raises(ConfigError, match="dtype"):
        KVConfig(groups=(group(),), dtype=torch.float64)
    one = KVConfig(groups=(group(),), dtype=torch.float32)
    other = KVConfig(groups=(group(rope=RopeConfig.of(8, theta=5.0)),), dtype=torch.float32)
    assert one.batch_key(one.groups[0]) == other.batch_key(other.groups[0])
