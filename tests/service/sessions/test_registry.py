"""The registry: create, find, end, names, lists, changes."""

import asyncio
import gc
import weakref
from collections import Counter
from contextlib import contextmanager

import pytest

from rope_core import ConfigError
from service.access.tenant import Tenant
from service.errors import BadQuery, ShuttingDown
from service.sessions.errors import (
    Frozen,
    NameTaken,
    NoSession,
    SessionGone,
    SessionQuota,
    WrongOwner,
)
from service.sessions.lifetime.documents import document, list_document
from service.sessions.lifetime.ids import SessionIds
from service.sessions.lifetime.lease import LeaseLimits
from service.sessions.lifetime.registry import SessionRegistry
from service.sessions.lifetime.session import SessionOptions
from service.sessions.lifetime.turns import Turn
from tests.clock import Clock
from tests.service.sessions.fake_cache import ACME, OTHER, FakeArena, FakeCache, World


@contextmanager
def held(session):
    turn = Turn([session.turns])
    yield
    turn.release()


class CountingTable(dict):
    """Counts look-ups."""

    num_lookups = 0

    def get(self, *arguments):
        self.num_lookups += 1
        return super().get(*arguments)

    def __getitem__(self, key):
        self.num_lookups += 1
        return super().__getitem__(key)


def test_create_find_end():
    world = World()
    session = world.create()
    assert world.find(session) is session
    assert world.arena.reserved_bytes == 10
    world.registry.end(session, "deleted")
    world.registry.end(session, "expired")  # ends once
    with pytest.raises(SessionGone, match="deleted"):
        world.find(session)
    with pytest.raises(SessionGone, match="deleted"):
        session.check_alive()
    assert world.arena.reserved_bytes == len(world.registry) == 0
    assert world.registry.gone == {"deleted": 1}


async def test_the_timer_is_one_of_the_running_loop(monkeypatch):
    loop, timers = asyncio.get_running_loop(), []
    set_timer = loop.call_later

    def call_later(delay_s, function):
        timers.append((delay_s, set_timer(delay_s, function)))
        return timers[-1][1]

    monkeypatch.setattr(loop, "call_later", call_later)
    registry, arena = SessionRegistry(SessionIds(), LeaseLimits(), clock=Clock()), FakeArena(100)
    for ttl_s in (60, 50, 70):
        options = SessionOptions(ttl_s=ttl_s)
        registry.create(ACME, lambda: FakeCache(arena, 10), {}, options)
    assert [(delay_s, timer.cancelled()) for delay_s, timer in timers] == [(60, True), (50, False)]
    registry.close()
    assert timers[1][1].cancelled()
    assert arena.reserved_bytes == 0


def test_forged_ids_touch_no_table():
    """Each wrong id takes the same path: the id is checked, and no table is asked."""
    world = World()
    session = world.create()
    ended = world.create()
    world.registry.end(ended, "deleted")
    tables = [CountingTable(world.registry._sessions), CountingTable()]
    world.registry._sessions, world.registry._tombstones._ends = tables
    text = session.id.text
    forged = [text[:-1] + ("A" if text[-1] != "A" else "B"), ended.id.text[:-11] + "A" * 11, "x"]
    for wrong in (*forged, text.replace("r1.0.", "r1.1."), SessionIds().new(ACME).text):
        with pytest.raises((NoSession, WrongOwner, SessionGone)):
            world.registry.find(wrong, ACME)
    for wrong in (text, ended.id.text):
        with pytest.raises(NoSession):
            world.registry.find(wrong, OTHER)
    assert [table.num_lookups for table in tables] == [0, 0]
    assert world.find(session) is session


def test_an_id_with_a_right_mac_and_no_trace_is_no_session():
    world = World()
    new = world.ids.new(ACME)
    with pytest.raises(NoSession):
        world.registry.find(new.text, ACME)


def test_names():
    world = World()
    first = world.create(name="prompt")
    with pytest.raises(NameTaken):
        world.create(name="prompt")
    assert world.create(OTHER, name="prompt") is not first
    assert world.registry.find_by_name("prompt", ACME) is first
    with pytest.raises(NoSession):
        world.registry.find_by_name("other", ACME)
    with pytest.raises(NoSession):
        world.registry.find_by_name("prompt", Tenant("third"))
    world.registry.end(first, "deleted")
    assert world.create(name="prompt").name == "prompt"
    assert world.arena.reserved_bytes == 20


@pytest.mark.parametrize("name", ["", "n" * 65, "a\nb", "\x00", 5])
def test_names_that_are_not_valid(name):
    world = World()
    with pytest.raises(ConfigError):
        world.create(name=name)
    assert world.arena.reserved_bytes == 0


@pytest.mark.parametrize("labels", ["text", [""], ["l" * 65], [1], [f"{i}" for i in range(17)], 3])
def test_labels_that_are_not_valid(labels):
    world = World()
    with pytest.raises(ConfigError):
        world.create(labels=labels)
    assert world.arena.reserved_bytes == 0


def test_labels_are_kept_once():
    labels = ["b", "a", "b", *(f"{i}" for i in range(14)), "a"]
    assert World().create(labels=labels).labels == ("b", "a", *(f"{i}" for i in range(14)))


def test_lists():
    world = World()
    sessions = [
        world.create(name=f"s{i}", labels=["even" if i % 2 == 0 else "odd", "all"])
        for i in range(10)
    ]
    world.create(OTHER, labels=["all"])
    page = world.registry.page
    assert page(ACME) == (sessions, None)
    assert page(ACME, labels=["odd"]) == (sessions[1::2], None)
    assert page(ACME, labels=["odd", "all"]) == (sessions[1::2], None)
    assert page(ACME, labels=["odd", "even"]) == ([], None)
    assert page(ACME, name="s3") == ([sessions[3]], None)
    assert page(ACME, name="s3", labels=["even"]) == ([], None)
    assert page(ACME, name="none") == ([], None)
    assert page(Tenant("third")) == ([], None)
    assert page(ACME, limit=10) == (sessions, None)


@pytest.mark.parametrize("limit", [1, 2, "3", 10])
def test_a_cursor_outlives_deletes(limit):
    world = World()
    sessions = [world.create() for _ in range(10)]
    seen, cursor = [], None
    while True:
        page, cursor = world.registry.page(ACME, cursor=cursor, limit=limit)
        seen += page
        for session in page:
            world.registry.end(session, "deleted")
        if cursor is None:
            break
        if len(seen) == 6:
            world.registry.end(sessions[6], "deleted")
    assert seen == [s for s in sessions if s is not sessions[6] or limit not in (1, 2, "3")]


def test_a_cursor_of_another_epoch_begins_again():
    world = World()
    session = world.create()
    assert world.registry.page(ACME, cursor="other.7") == ([session], None)


@pytest.mark.parametrize(
    "options",
    [{"limit": limit} for limit in (0, 1001, "x", "-1", "1.5", "", "9" * 5000, "\u0661")]
    + [{"cursor": cursor} for cursor in ("", "x", ".", "e.-1", "e." + "1" * 30, "e.\u0661")],
)
def test_lists_that_are_refused(options):
    with pytest.raises(BadQuery):
        World().registry.page(ACME, **options)


def test_changes():
    world = World()
    session, other = world.create(name="a"), world.create(name="b")
    world.registry.update(session, {})
    world.registry.update(session, {"name": "c", "labels": ["x", "x"], "ttl_s": 7, "pinned": True})
    assert (session.name, session.labels, session.lease.ttl_s) == ("c", ("x",), 7.0)
    assert session.is_pinned
    world.registry.update(other, {"name": "a"})
    world.registry.update(other, {"name": None})
    assert world.create(name="a")
    world.registry.update(session, {"frozen": False})
    world.registry.update(session, {"frozen": True, "name": "d"})
    world.registry.update(session, {"frozen": True, "pinned": False})
    with pytest.raises(Frozen):
        world.registry.update(session, {"frozen": False})
    assert (session.is_frozen, session.is_pinned) == (True, False)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "taken"}, NameTaken),
        ({"name": ""}, ConfigError),
        ({"labels": "x"}, ConfigError),
        ({"ttl_s": 0.5}, ConfigError),
        ({"ttl_s": 3601}, ConfigError),
        ({"ttl_s": None}, ConfigError),
        ({"ttl_s": float("nan")}, ConfigError),
        ({"ttl_s": True}, ConfigError),
        ({"pinned": 1}, ConfigError),
        ({"frozen": None}, ConfigError),
        ({"pinned": True}, SessionQuota),
    ],
)
def test_a_change_that_is_refused_changes_nothing(change, error):
    world = World()
    tenant = Tenant("acme", max_pinned=0)
    world.create(tenant, name="taken")
    session = world.create(tenant, name="mine", labels=["l"])
    before = document(session, world.clock())
    with pytest.raises(error):
        world.registry.update(session, {"name": "new", "labels": [], "ttl_s": 60.0} | change)
    assert document(session, world.clock()) == before


def test_creates_are_refused_while_draining():
    world = World()
    session = world.create()
    world.registry.is_draining = True
    with pytest.raises(ShuttingDown):
        world.create()
    with pytest.raises(ShuttingDown):
        world.registry.fork(session, 1, list, SessionOptions())
    assert world.find(session) is session
    world.registry.close()
    assert world.arena.reserved_bytes == 0
    assert not world.timers.pending


def test_a_lost_device_ends_all_sessions():
    world = World()
    sessions = [world.create(), world.create(OTHER), world.create()]
    turn = Turn([sessions[0].turns])
    world.registry.end_all("device_lost")
    for session in sessions:
        with pytest.raises(SessionGone, match="device_lost"):
            world.find(session)
    assert not sessions[0].cache.is_closed, "a run may still write to its pages"
    turn.release()
    assert world.arena.reserved_bytes == 0
    assert world.registry.gone == Counter(device_lost=3)


async def test_operations_that_wait_when_their_session_ends_are_told_so():
    world = World()
    session = world.create()

    async def operation():
        world.find(session)
        async with Turn([session.turns]):
            session.check_alive()

    with held(session):
        tasks = [asyncio.create_task(operation()) for _ in range(3)]
        await asyncio.sleep(0)
        world.registry.end(session, "deleted")
        assert not session.cache.is_closed
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome.members for outcome in outcomes] == [{"reason": "deleted"}] * 3
    assert session.cache.is_closed
    with held(session):  # found before it ended, and only now at its turn
        pass


def test_ended_sessions_are_freed_without_the_garbage_collector():
    world = World()
    session = world.create(is_evictable=True)
    with held(session):
        world.registry.end(session, "deleted")
    world.registry._expiry._heap.clear()  # entries are removed later, many at once
    reference = weakref.ref(session.cache)
    gc.disable()
    try:
        del session
        assert reference() is None
    finally:
        gc.enable()


def test_a_create_that_is_undone_leaves_no_trace():
    world = World()
    session = world.create(name="a")
    turn = Turn([session.turns])
    world.registry.undo_create([session])
    turn.release()
    world.registry.undo_create([session])
    with pytest.raises(NoSession):
        world.find(session)
    assert world.arena.reserved_bytes == 0
    assert not world.registry.gone
    assert world.create(name="a")


def test_fork():
    world = World()
    source = world.create(name="source", labels=["s"], ttl_s=7)

    def caches(count, num_bytes=10):
        return lambda: [FakeCache(world.arena, num_bytes) for _ in range(count)]

    with held(source):
        forks = world.registry.fork(source, 2, caches(2), SessionOptions(labels=["f"], ttl_s=9))
        (named,) = world.registry.fork(source, 1, caches(1), SessionOptions(name="fork"))
    assert len({fork.id for fork in (*forks, named, source)}) == 4
    assert [fork.lease.ttl_s for fork in forks] == [9, 9]
    assert forks[0].configuration_digest == source.configuration_digest
    assert (forks[0].name, forks[0].labels, named.name) == (None, ("f",), "fork")
    for options, count in ((SessionOptions(name="x"), 2), (SessionOptions(), 65)):
        with pytest.raises(ConfigError):
            world.registry.fork(source, count, caches(count), options)
    assert world.arena.reserved_bytes == 40


def test_documents():
    world = World()
    session = world.create(name="n", labels=["l"], ttl_s=60)
    world.clock.now += 1.5
    full = document(session, world.clock())
    assert full == {
        "id": session.id.text,
        "length": [0],
        "lengths": [[0], [0]],
        "generation": 0,
        "batch": 1,
        "frozen": False,
        "pinned": False,
        "name": "n",
        "labels": ["l"],
        "tier": "device",
        "segments": [1],
        "bytes": {"own": 0, "shared": 0, "reserved": 10},
        "reserved_bytes": 10,
        "expires_in_s": 58.5,
        "age_s": 1.5,
        "configuration": {"dtype": "float32"},
        "configuration_digest": session.configuration_digest,
    }
    del full["configuration"], full["lengths"]
    assert list_document(session, world.clock()) == full
