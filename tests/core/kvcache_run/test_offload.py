"""Caches whose pages move to another arena and back."""

from contextlib import suppress

import pytest
import torch

from rope_core import RopeConfig
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.errors import ArenaFull, SharedPages
from tests.core.kvcache.model import check_invariants
from tests.core.kvcache_run.caches import append, attend, cache_of, run
from tests.core.kvcache_run.test_attend import randn

ROPE = RopeConfig.of(32, theta=1e4)
Q = randn(1, 4, 32, seed=9)


def kv(count, seed=0):
    return randn(count, 2, 32, seed=seed), randn(count, 2, 32, seed=seed + 1)


def filled(max_tokens=None, count=30, **fields):
    """Return a cache of one arena, and another arena."""
    cache = cache_of(ROPE, head_dim=32, layers=2, **fields)
    arena = cache.arena
    cache = KVCache(cache.config, arena, max_tokens=max_tokens, owner="a")
    append(cache, *kv(count))
    return cache, Arena(2**20, page_tokens=8)


@pytest.mark.parametrize("kv_dtype", ["same", "e4m3"])
@pytest.mark.parametrize("max_tokens", [None, 200])
@pytest.mark.parametrize("fields", [{}, {"window": 4}], ids=str)
def test_answers_are_bit_equal_after_an_offload(kv_dtype, max_tokens, fields):
    cache, host = filled(max_tokens, kv_dtype=kv_dtype, **fields)
    device, reserved, own = cache.arena, cache.reserved_bytes, cache.own_bytes
    cache.shift(3, 28, 5)
    before = [attend(cache, Q, layer).out for layer in range(2)]
    run(cache, cache.plan_offload(host))
    assert cache.bytes_to_restore == reserved
    assert (device.used_bytes, device.reserved_bytes) == (0, 0)
    assert cache.own_bytes == cache.reserved_bytes == host.used_bytes == own
    check_invariants(host, [cache])
    other = KVCache(cache.config, device, owner="b")  # takes pages that the cache had
    append(other, *kv(20, seed=5))
    run(cache, cache.plan_restore(device))
    assert (host.used_bytes, host.reserved_bytes) == (0, 0)
    assert cache.bytes_to_restore is None
    assert cache.reserved_bytes == reserved
    check_invariants(device, [cache, other])
    assert all(torch.equal(attend(cache, Q, i).out, before[i]) for i in range(2))
    append(cache, *kv(9, seed=7))
    other.close()
    cache.close()
    assert (device.used_bytes, device.reserved_bytes) == (0, 0)


def test_rows_of_a_cache_may_share_pages():
    cache, host = filled()
    cache.reorder([0, 0])
    device, own = cache.arena, cache.own_bytes
    run(cache, cache.plan_offload(host))
    assert cache.own_bytes == host.used_bytes == own
    check_invariants(host, [cache])
    run(cache, cache.plan_restore(device))
    check_invariants(device, [cache])
    assert cache.own_bytes == own


def test_shared_pages_stay_until_the_fork_has_gone():
    cache, host = filled(100)
    (fork,) = cache.fork()
    for each in (cache, fork):
        with pytest.raises(SharedPages):
            each.plan_offload(host)
    device = cache.arena
    check_invariants(device, [cache, fork])
    cache.close()
    run(fork, fork.plan_offload(host))
    check_invariants(device, [])
    check_invariants(host, [fork])


def blockers(config, arena, max_tokens):
    """Yield caches until the arena is full."""
    with suppress(ArenaFull):
        while True:
            yield KVCache(config, arena, max_tokens=max_tokens)


def test_no_memory_changes_nothing():
    cache, host = filled(200)
    device, before = cache.arena, attend(cache, Q).out
    small = Arena(2**16, page_tokens=8)
    blocker = KVCache(cache.config, small)
    append(blocker, *kv(50))
    with pytest.raises(ArenaFull):
        cache.plan_offload(small)
    check_invariants(small, [blocker])
    check_invariants(device, [cache])
    run(cache, cache.plan_offload(host))
    others = [*blockers(cache.config, device, 400), *blockers(cache.config, device, 8)]
    with pytest.raises(ArenaFull):
        cache.plan_restore(device)
    check_invariants(device, others)
    check_invariants(host, [cache])
    for each in others:
        each.close()
    run(cache, cache.plan_restore(device))
    assert torch.equal(attend(cache, Q).out, before)


def test_a_move_that_fails_or_ends_with_the_cache_leaves_nothing():
    cache, host = filled(200)
    device = cache.arena
    cache.discard(cache.plan_offload(host))
    check_invariants(device, [cache])
    check_invariants(host, [])
    for commits in (False, True):
        pending = cache.plan_offload(host)
        cache.close()
        (cache.commit if commits else cache.discard)(pending)
        check_invariants(device, [])
        check_invariants(host, [])
        cache, _ = filled(200)
        device = cache.arena


def test_an_offloaded_cache_does_nothing_else():
    cache, host = filled()
    device = cache.arena
    with pytest.raises(RuntimeError):
        cache.plan_restore(device)
    run(cache, cache.plan_offload(host))
    other = KVCache(cache.config, device)
    for operation in (
        lambda: cache.plan([0], num_new=[1]),
        lambda: cache.truncate(3),
        cache.fork,
        lambda: other.attach(cache, 0, 3),
        lambda: cache.plan_offload(host),
    ):
        with pytest.raises(RuntimeError):
            operation()
    assert cache.length == [30]
    cache.close()
    check_invariants(host, [])
