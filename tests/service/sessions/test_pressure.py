"""What ends when the memory is full, in which order, and what never does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rope_core.kvcache.errors import ArenaFull, TooManyTokens
from service.access.tenant import Tenant
from service.sessions.errors import KVMemoryFull, NoKVMemory, SessionQuota
from service.sessions.lifetime.session import SessionOptions
from service.sessions.lifetime.turns import Turn
from tests.service.sessions.fake_cache import ACME, OTHER, FakeCache, World


def ended(*sessions):
    return [session.ended for session in sessions]


def test_a_create_without_room_is_refused():
    world = World(100)
    session = world.create(num_bytes=60)
    with pytest.raises(NoKVMemory) as raised:
        world.create(num_bytes=50, name="a")
    assert raised.value.members == {"wanted_bytes": 50, "free_bytes": 40}
    assert session.ended is None, "a live session is never dropped for a new one"
    assert world.create(num_bytes=40, name="a")


def test_what_can_never_fit_is_told_by_the_cache():
    world = World(100)
    session = world.create(num_bytes=60, is_evictable=True)

    def make_cache():
        raise TooManyTokens("more than the arena")

    with pytest.raises(TooManyTokens):
        world.registry.create(ACME, make_cache, {}, SessionOptions())
    assert session.ended is None


def test_expired_sessions_go_first():
    world = World(100)
    expired = world.create(num_bytes=50, ttl_s=10)
    evictable = world.create(num_bytes=50, is_evictable=True, ttl_s=100)
    world.clock.now += 10
    world.create(num_bytes=50)
    assert ended(expired, evictable) == ["expired", None]


def test_the_order_of_eviction():
    """Of the same tenant first; least recently used; the largest among equals."""
    world = World(100)
    of_other = world.create(OTHER, num_bytes=10, is_evictable=True)
    world.clock.now += 1
    used = world.create(num_bytes=10, is_evictable=True)
    small, large = (world.create(num_bytes=n, is_evictable=True) for n in (10, 20))
    live = world.create(num_bytes=50)
    world.clock.now += 1
    world.find(used)
    expected = [large, small, used, of_other]
    for count in range(1, 5):
        before = sum(session.ended is not None for session in expected)
        assert before == count - 1
        world.create(num_bytes=10 if count != 2 else 20, ttl_s=1)
        # the first makes room for two
        assert [s.ended is not None for s in expected] == [i < count for i in range(4)]
    assert live.ended is None
    with pytest.raises(NoKVMemory):
        world.create(num_bytes=50)


def test_several_are_evicted_for_a_large_one():
    world = World(100)
    sessions = [world.create(num_bytes=10, is_evictable=True) for _ in range(10)]
    world.create(num_bytes=35)
    assert sum(session.ended == "evicted" for session in sessions) == 4
    assert world.registry.gone == {"evicted": 4}


def test_nothing_is_evicted_in_vain():
    world = World(100)
    world.create(num_bytes=50)
    evictable = world.create(num_bytes=50, is_evictable=True)
    with pytest.raises(NoKVMemory):
        world.create(num_bytes=51)
    assert evictable.ended is None


def test_sessions_in_use_and_pinned_ones_stay():
    world = World(100)
    busy = world.create(num_bytes=50, is_evictable=True)
    pinned = world.create(num_bytes=50, is_evictable=True)
    world.registry.update(pinned, {"pinned": True})
    turn = Turn([busy.turns])
    with pytest.raises(NoKVMemory):
        world.create(num_bytes=50)
    turn.release()
    world.create(num_bytes=50)
    assert ended(busy, pinned) == ["evicted", None]


@pytest.mark.parametrize("needed", [0, 2, 3, 4])
def test_memory_that_is_full_though_bytes_are_free(needed):
    """Slabs belong to one shape of pages, so free bytes may not be enough."""
    world = World(100)
    sessions = [world.create(num_bytes=20, is_evictable=True) for _ in range(3)]

    def make_cache():
        if world.registry.gone["evicted"] < needed:
            raise ArenaFull(10, 40)
        return FakeCache(world.arena, 10)

    if needed <= 3:
        world.registry.create(ACME, make_cache, {}, SessionOptions())
    else:
        with pytest.raises(NoKVMemory):
            world.registry.create(ACME, make_cache, {}, SessionOptions())
    assert sum(session.ended is not None for session in sessions) == min(needed, 3)


def test_a_growing_session_makes_room():
    world = World(100)
    growing = world.create(num_bytes=50)
    expired = world.create(num_bytes=10, ttl_s=1)
    evictable = world.create(num_bytes=40, is_evictable=True)
    world.clock.now += 2
    turn = Turn([growing.turns])
    assert world.registry.grow(growing, lambda: growing.cache.grow(5)) == 5
    assert ended(expired, evictable) == ["expired", None]
    world.registry.grow(growing, lambda: growing.cache.grow(40))
    assert evictable.ended == "evicted"
    with pytest.raises(KVMemoryFull) as raised:
        world.registry.grow(growing, lambda: growing.cache.grow(10))
    assert raised.value.members == {"wanted_bytes": 10, "free_bytes": 5}
    assert growing.cache.reserved_bytes == 95
    turn.release()
    assert growing.ended is None


def test_an_evictable_session_evicts_nothing_when_it_grows():
    world = World(100)
    growing = world.create(num_bytes=50, is_evictable=True)
    other = world.create(num_bytes=50, is_evictable=True)
    turn = Turn([growing.turns])
    with pytest.raises(KVMemoryFull):
        world.registry.grow(growing, lambda: growing.cache.grow(10))
    assert other.ended is None
    world.registry.end(other, "deleted")
    world.registry.grow(growing, lambda: growing.cache.grow(10))
    turn.release()


def test_forks_are_all_or_none():
    world = World(100)
    source = world.create(num_bytes=50, is_evictable=True)
    evictable = world.create(num_bytes=20, is_evictable=True)
    turn = Turn([source.turns])

    def caches(num_bytes):
        def make():
            made = []
            try:
                for _ in range(2):
                    made.append(FakeCache(world.arena, num_bytes))
            except Exception:
                for cache in made:
                    cache.close()
                raise
            return made

        return make

    with pytest.raises(NoKVMemory):
        world.registry.fork(source, 2, caches(40), SessionOptions())
    assert world.arena.reserved_bytes == sum(
        s.cache.reserved_bytes for s in world.registry.sessions
    )
    world.registry.fork(source, 2, caches(25), SessionOptions())
    assert ended(source, evictable) == [None, "evicted"]
    turn.release()


def test_the_number_of_sessions_is_limited():
    world = World(max_sessions=2)
    first = world.create(is_evictable=True, ttl_s=30)
    world.create(ttl_s=90)
    with pytest.raises(SessionQuota) as raised:
        world.create()
    assert raised.value.retry_after_s == 30, "when the next lease is over"
    with pytest.raises(SessionQuota):
        world.registry.fork(first, 1, lambda: [FakeCache(world.arena, 1)], SessionOptions())
    assert world.create(OTHER)
    assert world.create(Tenant("third", max_sessions=1))
    with pytest.raises(SessionQuota):
        world.create(Tenant("third", max_sessions=1))
    with pytest.raises(SessionQuota):
        world.create(Tenant("fourth", max_sessions=0))
    assert world.create(Tenant("third", max_sessions=2)), "the keys file was reloaded"
    world.clock.now += 30
    assert world.create()
    assert first.ended == "expired"


def test_reserved_bytes_are_limited_by_tenant():
    world = World(1000)
    greedy = Tenant("greedy", max_kv_bytes=100)
    first = world.create(greedy, num_bytes=60)
    other = world.create(OTHER, num_bytes=800, is_evictable=True)
    for num_bytes in (41, 200):
        with pytest.raises(SessionQuota):
            world.create(greedy, num_bytes=num_bytes)
    assert world.arena.reserved_bytes == 860
    assert other.ended is None, "who is over the limit evicts no others"
    world.create(greedy, num_bytes=40)
    turn = Turn([first.turns])
    with pytest.raises(SessionQuota):
        world.registry.grow(first, lambda: first.cache.grow(1), undo=first.cache.shrink)
    assert first.cache.reserved_bytes == 60
    world.registry.grow(first, lambda: None, undo=first.cache.shrink)
    turn.release()
    assert other.ended is None


def test_an_offloaded_session_keeps_its_place_within_the_limit():
    world = World(1000)
    tenant = Tenant("t", max_kv_bytes=100)
    session = world.create(tenant, num_bytes=10)
    session.cache.bytes_to_restore = 90
    assert (session.tier, session.charged_bytes) == ("host", 90)
    with pytest.raises(SessionQuota):
        world.create(tenant, num_bytes=11)
    world.create(tenant, num_bytes=10)
    # its pages come back although the limit is reached
    world.create(OTHER, num_bytes=975)
    with pytest.raises(KVMemoryFull):
        world.registry.grow(session, lambda: session.cache.grow(80), is_charged=True)
    with pytest.raises(SessionQuota):
        world.registry.grow(session, lambda: session.cache.grow(80))


def test_an_offloaded_session_is_not_evicted():
    world = World(100)
    session = world.create(num_bytes=60, is_evictable=True)
    session.cache.bytes_to_restore = 60
    with pytest.raises(NoKVMemory):
        world.create(num_bytes=60)
    assert session.ended is None


def test_growth_without_undo_is_refused_only_afterwards():
    world = World(1000)
    tenant = Tenant("t", max_kv_bytes=100)
    session = world.create(tenant, num_bytes=90)
    world.registry.grow(session, lambda: session.cache.grow(20))
    with pytest.raises(SessionQuota):
        world.registry.grow(session, lambda: session.cache.grow(20))
    assert session.cache.reserved_bytes == 110


def test_pins_are_limited():
    world = World()
    tenant = Tenant("t", max_pinned=1)
    first, second = world.create(tenant), world.create(tenant)
    world.registry.update(first, {"pinned": True})
    world.registry.update(first, {"pinned": True})
    with pytest.raises(SessionQuota):
        world.registry.update(second, {"pinned": True})
    world.registry.update(first, {"pinned": False})
    world.registry.update(second, {"pinned": True})


@given(st.randoms(use_true_random=False))
def test_what_is_reserved_adds_up(rng: random.Random):
    """After each step the arena has what the live sessions have, and nobody is over a limit."""
    world = World(200)
    tenants = [Tenant("a", max_kv_bytes=120, max_sessions=6), Tenant("b"), Tenant("c")]
    refusals = NoKVMemory, SessionQuota, KVMemoryFull
    held = {}
    for _ in range(60):
        live = world.registry.sessions
        action = rng.choice(["create", "create", "grow", "end", "pass", "hold"])
        try:
            if action == "create":
                world.create(
                    rng.choice(tenants),
                    rng.randrange(50),
                    is_evictable=rng.random() < 0.5,
                    ttl_s=rng.randint(1, 20),
                )
            elif action == "pass":
                world.timers.advance(rng.random() * 5)
            elif live and action == "end":
                world.registry.end(rng.choice(live), "deleted")
            elif live:
                session = rng.choice(live)
                turn = held.pop(session, None) or Turn([session.turns])
                if action == "hold":
                    held[session] = turn
                else:
                    size = rng.randrange(30)
                    try:
                        world.registry.grow(
                            session,
                            lambda cache=session.cache, size=size: cache.grow(size),
                            undo=session.cache.shrink,
                        )
                    finally:
                        turn.release()
        except refusals:
            assert action in ("create", "grow")
        caches = {session.cache for session in (*world.registry.sessions, *held)}
        total = sum(cache.reserved_bytes for cache in caches if not cache.is_closed)
        assert world.arena.reserved_bytes == total <= 200
        of_a = [s for s in world.registry.sessions if s.tenant.name == "a"]
        assert len(of_a) <= 6
        assert sum(session.cache.reserved_bytes for session in of_a) <= 120
        assert all(session.ended != "evicted" for session in held)
    for turn in held.values():
        turn.release()
    world.registry.close()
    assert world.arena.reserved_bytes == 0
