"""Runs that fail, memory that ends, plans that are dropped: a cache shows what was committed."""

from collections.abc import Callable

import pytest
import torch

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.errors import ArenaFull
from rope_core.kvcache.run import LayerInput, run_layers
from tests.kvcache_oracle.configurations import Configuration, Group
from tests.kvcache_oracle.library import library_config

PAGE = 4
GROUP = Group(layers=(0, 1))
CONFIG = library_config(Configuration((GROUP,)))
PAGE_GROUP_BYTES = 2 * PAGE * (8 + 8) * 4


def arena_of(num_pages: int) -> Arena:
    """Return an arena with room for page groups of GROUP."""
    num_bytes = num_pages * PAGE_GROUP_BYTES
    return Arena(num_bytes, page_tokens=PAGE, slab_bytes=PAGE_GROUP_BYTES, copy_reserve=0.0)


def inputs(cache: KVCache, layer: int, n: int, seed: int = 0) -> tuple[object, LayerInput]:
    """Plan a step of n tokens in every row."""
    generator = torch.Generator().manual_seed(seed)
    counts = [n] * cache.batch
    q, k, v = (torch.randn(n * cache.batch, heads, 8, generator=generator) for heads in (2, 1, 1))
    pending = cache.plan([layer], num_new=counts, num_queries=counts)
    return pending, LayerInput(pending.layers[0], q, k, v, return_lse=True)


def step(cache: KVCache, layer: int, n: int, seed: int = 0) -> torch.Tensor:
    pending, given = inputs(cache, layer, n, seed)
    (output,) = run_layers([given])
    cache.commit(pending)
    assert output.out is not None
    return output.out


def filled(arena: Arena, n: int, batch: int = 2, max_tokens: int | None = None) -> KVCache:
    cache = KVCache(CONFIG, arena, batch, max_tokens)
    for layer in range(2):
        step(cache, layer, n, seed=layer)
    return cache


def look(cache: KVCache) -> list[torch.Tensor]:
    """Return the answers of both layers to all tokens."""
    answers = []
    for layer in range(2):
        counts = cache.lengths(layer)
        q = torch.randn(sum(counts), 2, 8, generator=torch.Generator().manual_seed(5))
        pending = cache.plan([layer], num_queries=counts)
        (output,) = run_layers([LayerInput(pending.layers[0], q)])
        cache.commit(pending)
        assert output.out is not None
        answers.append(output.out)
    return answers


def shown(cache: KVCache) -> tuple[object, ...]:
    return (
        cache.length,
        cache.lengths(0),
        cache.lengths(1),
        cache.generation,
        cache.batch,
        cache.num_segments,
        cache.arena.used_bytes,
        cache.arena.reserved_bytes,
        cache.own_bytes,
        cache.shared_bytes,
    )


class Same:
    """`with Same(cache):` what a cache shows and answers does not change."""

    def __init__(self, *caches: KVCache) -> None:
        self.caches = caches

    def __enter__(self) -> None:
        self.shown = [shown(cache) for cache in self.caches]
        self.answers = [look(cache) for cache in self.caches]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        assert [shown(cache) for cache in self.caches] == self.shown
        for cache, answers in zip(self.caches, self.answers, strict=True):
            assert all(map(torch.equal, look(cache), answers))


def test_a_plan_that_is_dropped_leaves_nothing() -> None:
    cache = filled(arena_of(32), 5)
    with Same(cache):
        for n in (1, 3, 9):
            pending, _ = inputs(cache, 0, n)
            cache.discard(pending)


def test_a_run_that_failed_leaves_nothing() -> None:
    """Its numbers have been written beyond the length; a fork shares the page of the tail."""
    cache = filled(arena_of(32), 5)
    (fork,) = cache.fork()
    with Same(cache, fork):
        for n in (1, 6):
            pending, given = inputs(cache, 0, n, seed=8)
            run_layers([given])
            cache.discard(pending)


def test_a_run_may_be_repeated() -> None:
    cache, other = filled(arena_of(32), 5), filled(arena_of(32), 5)
    pending, given = inputs(cache, 0, 3, seed=8)
    outputs = [run_layers([given])[0] for _ in range(3)]
    cache.commit(pending)
    expected = step(other, 0, 3, seed=8)
    for output in outputs:
        assert output.out is not None
        assert torch.equal(output.out, expected)
    assert all(map(torch.equal, look(cache), look(other)))


def test_a_failure_in_the_middle_of_a_run() -> None:
    """Of two caches in one run the second is broken; the first can be run again alone."""
    arena = arena_of(64)
    good, bad = filled(arena, 5), filled(arena, 5)
    pending, given = inputs(good, 0, 2, seed=8)
    with Same(bad):
        broken, broken_input = inputs(bad, 0, 2, seed=8)
        broken_input.v = torch.zeros(1, 1, 3)
        with pytest.raises(Exception):  # noqa: B017, PT011 (whatever it is)
            run_layers([given, broken_input])
        bad.discard(broken)
    (output,) = run_layers([given])
    good.commit(pending)
    assert output.out is not None
    assert torch.equal(output.out, step(filled(arena_of(32), 5), 0, 2, seed=8))


GROWING: dict[str, Callable[[KVCache], object]] = {
    "append": lambda cache: step(cache, 0, 9),
    "step of a shared page": lambda cache: step(cache.fork()[0], 0, 1),
    "fork and append": lambda cache: step(cache.fork(count=2)[1], 0, 7),
    "reorder and append": lambda cache: (cache.reorder([0, 0, 1]), step(cache, 0, 4)),
    "attach and append": lambda cache: (cache.attach(cache, 1, 4), step(cache, 0, 4)),
    "evict and append": lambda cache: (cache.evict(1, 3), step(cache, 0, 4)),
}


@pytest.mark.parametrize("name", GROWING)
def test_memory_ends_at_each_page(name: str) -> None:
    """With one page more each time an operation fails at another page, and at last it succeeds."""
    for num_pages in range(4, 40):
        arena = arena_of(num_pages)
        cache = filled(arena, 5)
        answers = look(cache)
        try:
            GROWING[name](cache)
        except ArenaFull:
            if cache.generation == 0:
                assert all(map(torch.equal, look(cache), answers))
        else:
            return
    raise AssertionError("the operation never had enough memory")


def test_an_append_that_finds_no_page_leaves_nothing() -> None:
    for num_pages in range(4, 12):
        cache = filled(arena_of(num_pages), 5)
        try:
            step(cache, 0, 11)
        except ArenaFull:
            with Same(cache), pytest.raises(ArenaFull) as caught:
                step(cache, 0, 11)
            assert caught.value.wanted_bytes > caught.value.free_bytes >= 0
        else:
            return
    raise AssertionError("the append never had enough memory")


def test_forks_are_all_or_none() -> None:
    arena = arena_of(32)
    cache = filled(arena, 5, max_tokens=24)
    with Same(cache), pytest.raises(ArenaFull):
        cache.fork(count=64)


def step_until_full(cache: KVCache) -> None:
    for i in range(200):
        step(cache, 0, 4, seed=i)


def test_a_reservation_is_kept_for_its_owner() -> None:
    """Who has reserved can always grow to max_tokens, whatever others take."""
    arena = arena_of(40)
    owner = filled(arena, 5, max_tokens=24)
    greedy = KVCache(CONFIG, arena, 1)
    with pytest.raises(ArenaFull):
        step_until_full(greedy)
    for layer in range(2):
        step(owner, layer, 19)
    assert owner.length == [24, 24]
    greedy.close()
    owner.close()
    assert (arena.used_bytes, arena.reserved_bytes) == (0, 0)


def test_a_fork_that_has_reserved_can_copy_its_tail() -> None:
    """Original and forks all write into the page that they shared."""
    arena = Arena(2**18, page_tokens=PAGE, slab_bytes=2**14)
    cache = filled(arena, 5, max_tokens=8)
    forks = cache.fork(count=8)
    for each in [cache, *forks]:
        for layer in range(2):
            step(each, layer, 3, seed=4)
        assert each.length == [8, 8]
    for each in [cache, *forks]:
        each.close()
    assert (arena.used_bytes, arena.reserved_bytes) == (0, 0)
