"""Sessions whose pages move to the memory of the host, and back, over HTTP."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
import pytest_asyncio
import torch

from service.sessions.running import jobs, offload
from tests.core.kvcache.model import check_invariants
from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import check_problem
from tests.service.sessions.http_sessions import SMALL, HttpSessions, http_sessions, kv, part, qkv

pytestmark = every_test_in_one_loop

QUERY = {"q": qkv(1, seed=9)["q"]}
KV_BYTES = 2**17
BIG = SMALL | {"max_tokens": 512}
"""A session that reserves half of the memory; two do not fit, as a part is kept for copies."""


class Http(HttpSessions):
    """Sends operations, at a time that a test sets."""

    seconds = 0.0
    """How much later it is than without the test."""

    async def filled(self, **params):
        """Return a session with half of its tokens, and its answer to QUERY."""
        session = await self.new(**BIG | params)
        await self.ok(session, "append", kv(256))
        return session, (await self.ok(session, "attend", QUERY))["out"]

    async def tiers(self, *sessions):
        return [(await self.inspect(session))["tier"] for session in sessions]

    def check_memory(self):
        """Check that references and reservations of both arenas add up."""
        caches = [session.cache for session in self.services.registry.sessions]
        for arena in (self.services.arena, self.services.offload.host):
            check_invariants(arena, [cache for cache in caches if cache.arena is arena])


@pytest_asyncio.fixture(loop_scope="module")
async def http() -> AsyncIterator[Http]:
    async with http_sessions(kv_bytes=KV_BYTES, kv_host_bytes=2**19) as plain:
        http = Http(plain.client)
        http.services = plain.services
        registry, clock = http.services.registry, http.services.registry.clock
        registry.clock = lambda: clock() + http.seconds
        yield http
        http.check_memory()


async def test_an_idle_session_makes_room_and_comes_back_with_equal_answers(http):
    first, out = await http.filled()
    times: list[float] = []
    http.services.offload.on_restore = times.append
    for _ in range(2):
        check_problem((await http.create(**BIG)).response, 503, "kv_memory", "free")
        http.seconds += 0.9
    http.seconds += 0.3
    reserved = (await http.inspect(first))["reserved_bytes"]
    second, _ = await http.filled()
    document = await http.inspect(first)
    assert (document["tier"], document["length"]) == ("host", [256])
    assert document["reserved_bytes"] == document["bytes"]["own"] < reserved
    http.check_memory()
    # the other was used a moment ago: there is no room to come back
    state = await http.state(first)
    for operation, tensors in (("attend", QUERY), ("append", kv(1)), ("fork", {})):
        answer = await http.call(first, operation, tensors)
        check_problem(answer.response, 507, "kv_memory", "free")
    assert await http.state(first) == state
    assert not times
    http.seconds += 3
    answer = await http.ok(first, "attend", QUERY)
    assert torch.equal(answer["out"], out)
    assert f"restore;dur={times[0] * 1e3:.3f}" in answer.headers["server-timing"]
    assert await http.tiers(first, second) == ["device", "host"]
    assert (await http.inspect(first))["reserved_bytes"] == reserved
    answer = await http.ok(first, "attend", QUERY)
    assert torch.equal(answer["out"], out)
    assert "restore" not in answer.headers["server-timing"]
    assert len(times) == 1


@pytest.mark.parametrize("operation", ["append", "evict", "select_tail", "fork", "step", "shift"])
async def test_operations_of_an_offloaded_session(http, operation):
    params = {
        "evict": {"start": 3, "stop": 9},
        "select_tail": {"n": 9, "kept": [0, 4]},
        "shift": {"start": 5, "stop": 256, "delta": 7},
    }.get(operation, {})
    tensors = {"append": kv(1), "step": qkv(1)}.get(operation, {})
    outs = []
    for is_offloaded in (False, True):
        session, _ = await http.filled()
        http.seconds += 3
        if is_offloaded:
            other = await http.new(**BIG)
            assert await http.tiers(session) == ["host"]
            await http.client.delete(f"/v1/sessions/{other}")
        answer = await http.ok(session, operation, tensors, **params)
        target = answer["ids"][0] if operation == "fork" else session
        outs.append((await http.ok(target, "attend", QUERY))["out"])
        assert await http.tiers(session) == ["device"]
        http.check_memory()
        for each in {session, target}:
            await http.client.delete(f"/v1/sessions/{each}")
    assert torch.equal(outs[0], outs[1])


async def test_what_stays_on_the_device(http):
    """Pinned sessions, and those that share pages; sessions that may be evicted go first."""
    session, _ = await http.filled(max_tokens=300)
    await http.client.patch(f"/v1/sessions/{session}", json={"pinned": True})
    http.seconds += 3
    large = SMALL | {"max_tokens": 700}
    check_problem((await http.create(**large)).response, 503, "kv_memory", "free")
    await http.client.patch(f"/v1/sessions/{session}", json={"pinned": False})
    (fork,) = (await http.ok(session, "fork", length=40))["ids"]
    http.seconds += 3
    check_problem((await http.create(**large)).response, 503, "kv_memory", "free")
    await http.client.delete(f"/v1/sessions/{fork}")
    evictable = await http.new(**SMALL | {"max_tokens": 380, "evictable": True})
    http.seconds += 3
    await http.new(**SMALL | {"max_tokens": 380})
    assert (await http.inspect(evictable)).status == 410
    assert await http.tiers(session) == ["device"]


async def test_an_offload_does_not_renew_the_lease(http):
    session, _ = await http.filled(ttl_s=100)
    http.seconds += 60
    await http.new(**BIG)
    document = await http.inspect(session)
    assert document["tier"] == "host"
    assert document["expires_in_s"] < 41
    http.seconds += 50
    assert (await http.call(session, "attend", QUERY)).status == 410
    assert http.services.offload.host.reserved_bytes == 0


async def test_steps_of_many_sessions(http):
    """A session that finds no room fails alone."""
    first, _ = await http.filled()
    http.seconds += 3
    second, _ = await http.filled()
    state = await http.state(first)
    tokens = {name: x[0] for name, x in qkv(2).items()}
    request = tokens | {"cu_seqlens": torch.tensor([0, 1, 2])}
    answer = await http.post("/v1/step", request, sessions=[first, second])
    assert [each["status"] for each in answer["results"]] == [507, 200]
    assert await http.state(first) == state
    assert not answer["out"][0].any()
    # room for both: the first comes back, and grows no more than it has reserved
    small = [await http.new(**SMALL) for _ in range(2)]
    await http.client.delete(f"/v1/sessions/{second}")
    answer = await http.post("/v1/step", request, sessions=[first, small[0]])
    assert [each["status"] for each in answer["results"]] == [200, 200]
    assert "restore;dur=" in answer.headers["server-timing"]
    assert await http.tiers(first) == ["device"]


async def test_copies_are_runs_of_bounded_bytes(http, monkeypatch):
    plans: list[int] = []
    run_moves: Callable = jobs.run_moves

    def counted(plan):
        plans.append(sum(copy.pool.shape.group_bytes for copy in plan.copies))
        run_moves(plan)

    monkeypatch.setattr(jobs, "run_moves", counted)
    monkeypatch.setattr(offload, "MAX_RUN_BYTES", 4_096)
    session, out = await http.filled()
    http.seconds += 3
    await http.filled()
    http.seconds += 3
    assert torch.equal((await http.ok(session, "attend", QUERY))["out"], out)
    assert len(plans) == 3 * 8  # two offloads and a restore of 32 KiB
    assert set(plans) == {4_096}


@pytest.mark.parametrize("fails_at", [1, 2])
async def test_a_copy_that_fails_changes_nothing(http, monkeypatch, fails_at):
    session, out = await http.filled()
    http.seconds += 3
    run_moves, count = jobs.run_moves, 0

    def fail(plan):
        nonlocal count
        count += 1
        if count == fails_at:
            raise RuntimeError("no copy")
        run_moves(plan)

    monkeypatch.setattr(jobs, "run_moves", fail)
    created = await http.create(**BIG)
    assert created.status == (500 if fails_at == 1 else 201)
    http.check_memory()
    http.seconds += 3
    if fails_at == 2:
        assert await http.tiers(session) == ["host"]
        await http.client.delete(f"/v1/sessions/{created['id']}")
        assert (await http.call(session, "attend", QUERY)).status == 500
        assert await http.tiers(session) == ["host"]
        http.check_memory()
    assert torch.equal((await http.ok(session, "attend", QUERY))["out"], out)


class HeldCopies:
    """Copies run on the device's thread, and wait there until a test lets them run."""

    def __init__(self, monkeypatch):
        self.has_begun = asyncio.Event()
        self.may_run = threading.Event()
        loop, run_moves, move_job = asyncio.get_running_loop(), jobs.run_moves, offload.move_job

        def held(plan):
            loop.call_soon_threadsafe(self.has_begun.set)
            assert self.may_run.wait(20)
            run_moves(plan)

        def long_job(*args):
            return replace(move_job(*args), seconds=1.0)  # else it runs on the event loop

        monkeypatch.setattr(jobs, "run_moves", held)
        monkeypatch.setattr(offload, "move_job", long_job)


async def test_an_operation_during_an_offload_waits_for_it(http, monkeypatch):
    session, out = await http.filled()
    http.seconds += 3
    copies = HeldCopies(monkeypatch)
    creating = asyncio.create_task(http.create(**BIG))
    await copies.has_begun.wait()
    attending = asyncio.create_task(http.call(session, "attend", QUERY))
    await asyncio.sleep(0)
    copies.may_run.set()
    created, answer = await creating, await attending
    assert created.status == 201
    check_problem(answer.response, 507, "kv_memory", "free")  # the new one was used a moment ago
    http.seconds += 3
    assert torch.equal((await http.ok(session, "attend", QUERY))["out"], out)


@pytest.mark.parametrize("moves", ["to the host", "to the device"])
async def test_a_request_that_ends_during_a_copy_hurts_nobody(http, monkeypatch, moves):
    """The copy goes on, and is committed; then the next operation has its turn."""
    session, out = await http.filled()
    http.seconds += 3
    if moves == "to the device":
        other, _ = await http.filled()
        await http.client.delete(f"/v1/sessions/{other}")
    copies = HeldCopies(monkeypatch)
    if moves == "to the host":
        path, body = "/v1/sessions", BIG
    else:
        path, body = f"/v1/sessions/{session}/append", json_of(kv(1))
    asking = asyncio.create_task(http.client.post(path, json=body))
    await copies.has_begun.wait()
    attending = asyncio.create_task(http.call(session, "attend", QUERY))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    copies.may_run.set()
    assert torch.equal((await attending)["out"], out)
    assert await http.tiers(session) == ["device"]
    assert (await http.inspect(session))["length"] == [256]


def json_of(tensors):
    """Return tensors as JSON lists."""
    return {name: x.tolist() for name, x in tensors.items()}


async def test_deleting_an_offloaded_session_frees_the_host(http):
    session, _ = await http.filled()
    http.seconds += 3
    await http.filled()
    assert http.services.offload.host.used_bytes > 0
    assert (await http.client.delete(f"/v1/sessions/{session}")).status_code == 204
    assert (http.services.offload.host.used_bytes, http.services.offload.host.reserved_bytes) == (
        0,
        0,
    )


async def test_many_small_sessions_move_for_each_other(http):
    """16 sessions take turns in a memory that has room for a few of them."""
    tokens, sessions, outs = kv(60), [], []
    for i in range(16):
        session = await http.new(**SMALL | {"max_tokens": 128})
        tokens = kv(60, seed=i)
        await http.ok(session, "append", part(tokens, 0, 50))
        http.seconds += 3
        await http.ok(session, "append", part(tokens, 50, 60))
        outs.append((await http.ok(session, "attend", QUERY))["out"])
        sessions.append(session)
        http.seconds += 3
    assert "host" in await http.tiers(*sessions)
    for i in (3, 0, 15, 7, 8, 1, 0, 3, 14, 2):
        http.seconds += 3
        assert torch.equal((await http.ok(sessions[i], "attend", QUERY))["out"], outs[i])
        http.check_memory()
