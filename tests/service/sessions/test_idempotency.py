"""Idempotency keys: repeats, requests at once, failures, keys that are forgotten."""

import asyncio

import pytest

from rope_core import ConfigError
from service.errors import BadHeader
from service.sessions.lifetime import idempotency
from service.sessions.lifetime.idempotency import IdempotencyKeys, request_digest
from tests.service.sessions.fake_cache import ACME, OTHER, World

DIGEST = request_digest("/v1/sessions", b"body")


class Failure(Exception):
    """A create that fails."""


class Service:
    """Creates sessions with keys."""

    def __init__(self) -> None:
        self.world = World(10_000)
        self.keys = IdempotencyKeys(self.world.clock)
        self.num_created = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def create(self, key="k", tenant=ACME, digest=DIGEST, failure=None, **options):
        async with self.keys.claim(tenant, key, digest) as claim:
            if claim.recorded is not None:
                return claim.recorded.sessions[0]
            await self.go_on.wait()
            if failure is not None:
                raise failure
            session = self.world.create(tenant, **options)
            self.num_created += 1
            claim.record(201, (session,))
            return session


async def test_a_repeat_gets_the_session():
    service = Service()
    session = await service.create()
    assert await service.create() is session
    assert await service.create("other key") is not session
    assert await service.create(tenant=OTHER) is not session
    assert service.num_created == 3
    service.world.registry.end(session, "deleted")
    assert (await service.create()).ended == "deleted"


def test_the_digest_covers_path_and_body():
    digests = {
        request_digest(path, body)
        for path, body in [("/a", b"b"), ("/ab", b""), ("/a", b""), ("/b", b"b"), ("/a?n=1", b"b")]
    }
    assert len(digests) == 5
    assert request_digest("/a", memoryview(b"b")) in digests


async def test_another_body_is_refused_also_while_the_first_runs():
    service = Service()
    service.go_on.clear()
    first = asyncio.create_task(service.create())
    await asyncio.sleep(0)
    with pytest.raises(ConfigError, match="Idempotency-Key"):
        await service.create(digest=b"another")
    service.go_on.set()
    await first
    with pytest.raises(ConfigError, match="Idempotency-Key"):
        await service.create(digest=b"another")
    assert service.num_created == 1


@pytest.mark.parametrize("key", ["", "k" * 256, "ö", "a\nb", "\x7f"])
def test_keys_that_are_not_valid(key):
    with pytest.raises(BadHeader):
        Service().keys.claim(ACME, key, DIGEST)


async def test_equal_requests_wait_for_the_first():
    service = Service()
    service.go_on.clear()
    tasks = [asyncio.create_task(service.create()) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    await asyncio.sleep(0)
    assert not any(task.done() for task in tasks if task is not tasks[3])
    service.go_on.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done.pop(3), asyncio.CancelledError)
    assert len({*done}) == service.num_created == 1


@pytest.mark.parametrize("how", ["failure", "cancelled"])
async def test_a_failed_create_leaves_no_trace(how):
    """The next of the waiting requests takes its place."""
    service = Service()
    service.go_on.clear()
    failing = asyncio.create_task(service.create(failure=Failure()))
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(service.create()) for _ in range(3)]
    await asyncio.sleep(0)
    if how == "cancelled":
        failing.cancel()
        await asyncio.sleep(0)
    service.go_on.set()
    with pytest.raises(Failure if how == "failure" else asyncio.CancelledError):
        await failing
    assert len({*(await asyncio.gather(*waiting))}) == service.num_created == 1


async def test_after_a_failure_the_key_may_have_another_body():
    service = Service()
    with pytest.raises(Failure):
        await service.create(failure=Failure())
    assert await service.create(digest=b"another")


async def test_a_key_is_kept_for_the_ttl_after_the_end():
    service = Service()
    session = await service.create(ttl_s=60)
    service.world.timers.advance(3000)
    assert session.ended == "expired"
    session = await service.create(ttl_s=60)
    service.world.clock.now += 60
    service.world.registry.end_expired()
    service.world.clock.now += 59.9
    assert await service.create(ttl_s=60) is session
    service.world.clock.now += 0.1
    assert await service.create(ttl_s=60) is not session


async def test_a_claim_that_is_kept_outlives_its_request():
    service = Service()
    async with service.keys.claim(ACME, "k", DIGEST) as claim:
        claim.keep()
    waiting = asyncio.create_task(service.create())
    await asyncio.sleep(0)
    assert not waiting.done()
    session = service.world.create()
    claim.record(201, (session,))
    claim.end()
    assert await waiting is session


async def test_the_number_of_keys_is_limited(monkeypatch):
    monkeypatch.setattr(idempotency, "MAX_KEYS", 3)
    service = Service()
    sessions = [await service.create(f"{i}") for i in range(3)]
    service.world.registry.end(sessions[1], "deleted")
    await service.create("3")
    assert await service.create("0") is sessions[0], "it lives, so it was not the first to go"
    await service.create("4")
    assert await service.create("2") is sessions[2]
    assert await service.create("0") is not sessions[0]
