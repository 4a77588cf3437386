"""Tombstones: kept for an hour, limited in number."""

import sys

import pytest

from service.sessions.errors import NoSession, SessionGone
from service.sessions.lifetime import tombstones as tombstones_module
from service.sessions.lifetime.tombstones import KEPT_S, Tombstones
from tests.clock import Clock
from tests.service.sessions.fake_cache import World


def test_each_reason_is_kept_for_an_hour():
    clock = Clock(1e6)
    tombstones = Tombstones(clock)
    reasons = ("expired", "evicted", "deleted", "device_lost", "restarted", "owner_lost")
    for reason in reasons:
        tombstones.add(reason * 2, reason)
        clock.now += 1
    clock.now = 1e6 + KEPT_S - 0.001
    assert [tombstones.find(reason * 2) for reason in reasons] == [*reasons]
    clock.now = 1e6 + KEPT_S
    assert tombstones.find("expiredexpired") is None
    assert tombstones.find("deleteddeleted") == "deleted"
    assert len(tombstones) == 6
    clock.now += KEPT_S
    tombstones.add("new", "deleted")
    assert len(tombstones) == 1
    assert tombstones.find("other") is None


def test_the_oldest_go_first(monkeypatch):
    monkeypatch.setattr(tombstones_module, "MAX_TOMBSTONES", 3)
    tombstones = Tombstones(Clock())
    for name in "abcde":
        tombstones.add(name, "expired")
    assert [tombstones.find(name) for name in "abcde"] == [None, None, *["expired"] * 3]
    assert len(tombstones) == 3


def test_a_tombstone_is_small():
    tombstones = Tombstones(Clock(1e6))
    for i in range(10_000):
        tombstones.add(f"{i:022}", "expired")
    size = sys.getsizeof(tombstones._ends) + sys.getsizeof(tombstones._oldest)
    size += sum(sys.getsizeof(k) + sys.getsizeof(v) for k, v in tombstones._ends.items())
    assert size / 10_000 < 200


def test_after_an_hour_an_ended_session_was_never_there():
    world = World()
    session = world.create()
    world.registry.end(session, "deleted")
    world.clock.now += KEPT_S - 1
    with pytest.raises(SessionGone):
        world.find(session)
    world.clock.now += 1
    with pytest.raises(NoSession):
        world.find(session)
