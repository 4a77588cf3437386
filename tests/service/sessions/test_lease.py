"""Leases by a clock that tests set: expiry at use and by the timer, never while in use."""

import asyncio
import random
from contextlib import suppress
from math import inf, nan

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import ConfigError
from service.sessions.errors import NoSession, SessionGone
from service.sessions.lifetime.expiry import MIN_INTERVAL_S
from service.sessions.lifetime.lease import LeaseLimits
from service.sessions.lifetime.turns import Turn
from tests.service.sessions.fake_cache import ACME, OTHER, World


def test_defaults():
    lease = LeaseLimits().lease(None, None, 5.0)
    assert (lease.ttl_s, lease.ends, lease.expires) == (300.0, 3605.0, 305.0)
    assert LeaseLimits(max_ttl_s=60).lease(None, None, 0.0).ttl_s == 60
    assert LeaseLimits(max_age_s=0).lease(None, None, 0.0).ends == inf
    assert LeaseLimits(max_age_s=100).lease(None, None, 0.0).expires == 100


@pytest.mark.parametrize("ttl_s", [1, 1.5, 3600, 60.0])
def test_times_to_live(ttl_s):
    assert LeaseLimits().lease(ttl_s, None, 0.0).expires == ttl_s


@pytest.mark.parametrize("value", [0, 0.999, 3600.1, -1, nan, inf, True, "60", [60]])
def test_times_that_are_not_valid(value):
    with pytest.raises(ConfigError, match="ttl_s"):
        LeaseLimits().lease(value, None, 0.0)
    with pytest.raises(ConfigError, match="max_age_s"):
        LeaseLimits().lease(None, value, 0.0)


def test_no_limit_of_the_age_only_where_it_is_allowed():
    assert LeaseLimits(max_age_s=0).lease(None, 0, 0.0).ends == inf
    assert LeaseLimits(max_age_s=0).lease(None, 1e9, 0.0).ends == 1e9


def test_a_session_expires_at_use():
    world = World()
    session = world.create(ttl_s=60, name="a")
    world.clock.now += 59.999
    assert world.find(session) is session
    world.clock.now += 59.999
    assert world.registry.find_by_name("a", ACME) is session
    world.clock.now += 60
    with pytest.raises(SessionGone, match="expired"):
        world.find(session)
    assert world.arena.reserved_bytes == 0
    with pytest.raises(NoSession):
        world.registry.find_by_name("a", ACME)


def test_reads_that_do_not_renew():
    world = World()
    session = world.create(ttl_s=60)
    world.clock.now += 40
    assert world.find(session, renew=False).expires_in_s(world.clock()) == 20
    world.clock.now += 20
    with pytest.raises(SessionGone):
        world.find(session, renew=False)


def test_the_age_is_limited_however_much_a_session_is_used():
    world = World()
    session = world.create(ttl_s=60, max_age_s=100)
    for _ in range(99):
        world.clock.now += 1
        world.find(session)
    assert session.expires_in_s(world.clock()) == 1
    world.clock.now += 1
    with pytest.raises(SessionGone, match="expired"):
        world.find(session)


def test_the_timer_gives_the_memory_back():
    world = World()
    session = world.create(ttl_s=60, name="a")
    world.timers.advance(59.9)
    assert world.arena.reserved_bytes == 10
    world.timers.advance(0.2)
    assert session.cache.is_closed
    assert not world.timers.pending, "nothing is left to wait for"
    assert world.create(name="a"), "the name is free"


def test_a_renewal_moves_the_expiry_and_sets_no_timer():
    world = World()
    session = world.create(ttl_s=60)
    (timer,) = world.timers.pending
    for _ in range(50):
        world.clock.now += 1
        world.find(session)
    assert world.timers.pending == [timer]
    world.timers.advance(59)
    assert session.ended is None
    assert world.timers.num_wakes == 1
    world.timers.advance(1.1)
    assert session.ended == "expired"


def test_a_shorter_lease_counts_from_the_last_use():
    world = World()
    session, other = world.create(ttl_s=300), world.create(ttl_s=300)
    world.registry.update(session, {"ttl_s": 5})
    world.timers.advance(5.1)
    assert (session.ended, other.ended) == ("expired", None)
    for ttl_s in range(300, 100, -1):
        world.registry.update(other, {"ttl_s": ttl_s})
    world.timers.advance(94.9)
    assert other.ended is None
    world.timers.advance(1.2)
    assert other.ended == "expired"
    assert world.timers.num_wakes < 5


def test_a_longer_lease():
    world = World()
    session = world.create(ttl_s=5)
    world.registry.update(session, {"ttl_s": 50})
    world.timers.advance(49.9)
    assert session.ended is None
    world.timers.advance(1.2)
    assert session.ended == "expired"


def test_never_while_an_operation_runs_or_waits():
    world = World()
    session = world.create(ttl_s=60)
    running, waiting = Turn([session.turns]), Turn([session.turns])
    world.timers.advance(1000)
    assert session.ended is None
    assert session.expires_in_s(world.clock()) == 60, "the time without use has not begun"
    running.release()
    world.timers.advance(1000)
    assert world.find(session) is session
    waiting.release()
    world.timers.advance(59.9)
    assert session.ended is None
    world.timers.advance(1.2)
    assert session.ended == "expired"


def test_the_age_ends_after_the_running_operation():
    world = World()
    session = world.create(ttl_s=60, max_age_s=100)
    turn = Turn([session.turns])
    world.timers.advance(150)
    assert session.ended is None
    with pytest.raises(SessionGone, match="expired"):
        world.find(session)  # no operation begins any more
    assert session.ended is None
    assert not session.cache.is_closed
    turn.release()
    assert session.ended == "expired"
    assert session.cache.is_closed


def test_many_expire_with_one_wake_a_second():
    world = World(100_000)
    for i in range(1000):
        world.create(OTHER if i % 2 else ACME, ttl_s=10 + i / 250)
    world.timers.advance(15.1)
    assert len(world.registry) == world.arena.reserved_bytes == 0
    assert world.timers.num_wakes <= 6
    assert world.registry.gone == {"expired": 1000}


def test_ten_thousand_abandoned_sessions_give_everything_back():
    """Within their time to live and a second, whatever was done with them."""
    world = World(10**6, max_sessions=10_000)
    rng = random.Random(0)
    turns = []
    for _ in range(10_000):
        session = world.create(ttl_s=rng.uniform(1, 30))
        if rng.random() < 0.1:
            turns.append(Turn([session.turns]))
    world.timers.advance(20)
    for turn in turns:
        turn.release()
    world.timers.advance(30 + MIN_INTERVAL_S)
    assert len(world.registry) == world.arena.reserved_bytes == 0
    assert not world.timers.pending
    assert world.timers.num_wakes <= 52
    assert not world.registry._expiry._times


def test_sessions_that_come_and_go_leave_nothing_in_the_timer():
    world = World()
    world.create(ttl_s=3600)
    for _ in range(5000):
        world.registry.end(world.create(ttl_s=3600), "deleted")
    assert len(world.registry._expiry._heap) < 100
    assert len(world.timers.pending) == 1


@pytest.mark.parametrize("seed", range(10))
async def test_expiry_races_an_operation(seed):
    """Each operation is answered, or told that the session has expired; none is lost silently."""
    rng = random.Random(seed)
    world = World()
    num_answered = 0
    for _ in range(100):
        session = world.create(ttl_s=1)

        async def operation(session=session):
            world.find(session)
            async with Turn([session.turns]):
                await asyncio.sleep(0)
                session.check_alive()
                session.cache.length[0] += 1

        tasks = []
        for _ in range(3):
            world.timers.advance(rng.choice([0.3, 0.999999, 1.0, 1.000001]))
            tasks.append(asyncio.create_task(operation()))
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        answered = outcomes.count(None)
        assert answered == session.cache.length[0]
        for outcome in outcomes:
            assert outcome is None or outcome.members == {"reason": "expired"}
        assert outcomes == sorted(outcomes, key=lambda outcome: outcome is not None)
        num_answered += answered
        world.timers.advance(2.1)
        assert session.ended == "expired"
        assert world.arena.reserved_bytes == 0
    assert 0 < num_answered < 300


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["create", "find", "hold", "release", "end", "pass", "shorten"]),
            st.floats(1, 20),
            st.integers(0, 5),
        ),
        max_size=40,
    )
)
def test_the_laws_of_leases(steps):
    """A session lives while it is in use, or was used within its time to live; never for longer."""
    world = World(10_000)
    sessions, held = [], {}
    for action, number, index in steps:
        live = [session for session in sessions if session.ended is None]
        chosen = live[index % len(live)] if live else None
        if action == "create":
            sessions.append(world.create(ttl_s=number, max_age_s=max(30, number)))
        elif action == "pass":
            world.timers.advance(number / 3)
        elif chosen is None:
            continue
        elif action == "find":
            now, lease = world.clock(), chosen.lease
            is_over = now >= (lease.ends if chosen in held else lease.expires)
            try:
                world.find(chosen)
                assert not is_over
            except SessionGone:
                assert is_over
        elif action == "hold":
            held.setdefault(chosen, []).append(Turn([chosen.turns]))
        elif action == "release" and chosen in held:
            held[chosen].pop().release()
            if not held[chosen]:
                del held[chosen]
        elif action == "end":
            world.registry.end(chosen, "deleted")
        elif action == "shorten":
            with suppress(SessionGone):
                world.registry.update(world.find(chosen), {"ttl_s": 1 + number / 20})
        for session in sessions:
            over = world.clock() - session.lease.expires
            assert session.ended or session in held or over <= MIN_INTERVAL_S
            assert session.cache.is_closed == (session.ended is not None and session not in held)
        open_bytes = sum(s.cache.reserved_bytes for s in sessions if not s.cache.is_closed)
        assert world.arena.reserved_bytes == open_bytes
    for turns in held.values():
        for turn in turns:
            turn.release()
    world.timers.advance(100)
    assert world.arena.reserved_bytes == 0
    assert not world.timers.pending
