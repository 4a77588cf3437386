"""Arenas, pools and reservations."""

from itertools import pairwise

import pytest
import torch

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.errors import ArenaFull, TooManyTokens
from rope_core.kvcache.pool import PageShape


def shape_of(layers: int = 1, head_dim: int = 8, dtype: torch.dtype = torch.float32) -> PageShape:
    return PageShape(layers, 2, head_dim, head_dim, 4, dtype)


def test_a_page_has_keys_then_values():
    arena = Arena(2**16)
    pool = arena.pool(shape_of(layers=3))
    group, _ = pool.allocate()
    page = group + 2
    pool.keys[page] = 1
    pool.values[page] = 2
    floats = pool.pages[page].view(torch.float32)
    assert floats.tolist() == [1.0] * 64 + [2.0] * 64
    assert not pool.pages[group].any()


@pytest.mark.parametrize("head_dim", [8, 12, 40])
@pytest.mark.parametrize("layers", [1, 3, 50])
def test_page_groups_do_not_overlap_and_stay_in_their_slabs(head_dim: int, layers: int):
    arena = Arena(2**20, slab_bytes=2**14)
    pools = [arena.pool(shape_of(layers, head_dim)), arena.pool(shape_of(2, 4))]
    taken: list[tuple[int, int]] = []
    for turn in range(12):
        pool = pools[turn % 2]
        group, _ = pool.allocate()
        start = group * pool.shape.page_bytes
        taken.append((start, start + pool.shape.group_bytes))
    taken.sort()
    assert all(first[1] <= second[0] for first, second in pairwise(taken))
    assert taken[-1][1] <= arena.num_bytes


def test_an_empty_slab_serves_another_shape():
    arena = Arena(2**14, slab_bytes=2**12, copy_reserve=0)
    small, large = arena.pool(shape_of()), arena.pool(shape_of(8))
    for _ in range(4 * small.groups_per_unit):
        small.allocate()
    with pytest.raises(ArenaFull):
        large.allocate()
    small.release(small.references.nonzero()[0])
    assert arena.used_bytes == 0
    large.allocate()


def test_what_is_reserved_can_be_allocated_whatever_other_pools_hold():
    arena = Arena(2**14, slab_bytes=2**12, copy_reserve=0)
    small, large = arena.pool(shape_of()), arena.pool(shape_of(8))
    arena.reserve(large, 2)
    arena.reserve(small, 2 * small.groups_per_unit)
    with pytest.raises(ArenaFull) as error:
        arena.reserve(small, 1)
    assert error.value.free_bytes == 0
    for _ in range(2 * small.groups_per_unit):
        small.allocate()
    large.allocate()
    large.allocate()


def test_a_reservation_beyond_the_arena_never_fits():
    arena = Arena(2**14)
    pool = arena.pool(shape_of())
    with pytest.raises(TooManyTokens):
        arena.reserve(pool, 2**14 // pool.shape.group_bytes)
    assert arena.reserved_bytes == 0


def test_a_share_is_kept_for_copies():
    arena = Arena(2**14, copy_reserve=0.25)
    pool = arena.pool(shape_of())
    arena.reserve(pool, 24)
    with pytest.raises(ArenaFull):
        arena.reserve(pool, 1)
    arena.reserve(pool, 1, for_copy=True)
    arena.unreserve(pool, 25)
    assert arena.reserved_bytes == 0


def test_pages_are_cleared_for_another_owner_only():
    arena = Arena(2**14)
    pool = arena.pool(shape_of())

    def allocate_and_release(owner: str) -> bool:
        group, must_clear = pool.allocate(owner=owner)
        pool.release(pool.references.nonzero()[0])
        assert pool.references[group] == 0
        return must_clear

    assert not allocate_and_release("a")
    assert not allocate_and_release("a")
    assert allocate_and_release("b")  # the slab has come back in between
    assert allocate_and_release("a")
