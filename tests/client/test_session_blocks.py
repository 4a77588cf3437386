"""The end of a block deletes the session; threads and tasks may share one."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rope_client import AsyncClient, Client
from tests.client.fake_service import FakeService
from tests.client.session_tools import CONFIGURATION, tokens


@pytest.fixture
def service():
    fake = FakeService()
    yield fake
    fake.close()


def test_the_end_of_a_block_deletes(service):
    with Client(service.url) as client:
        with client.session(**CONFIGURATION) as session, session.stream() as stream:
            stream.step(0, *tokens(1))
        assert service.gone == {session.id: "deleted"}
        with client.session(**CONFIGURATION) as session:
            service.end(session.id, "expired")


async def test_the_end_of_an_asynchronous_block_deletes(service):
    async with AsyncClient(service.url) as client:
        async with (
            client.session(**CONFIGURATION) as session,
            session.stream() as stream,
        ):
            await stream.step(0, *tokens(1))
        assert service.gone == {session.id: "deleted"}
        opened = await client.session(**CONFIGURATION)
        async with client.open_session(opened.id) as same:
            assert same.id == opened.id


def test_threads_share_a_session(service):
    """Operations run one after the other, so that none is refused by the guard of another."""
    with Client(service.url) as client, ThreadPoolExecutor(8) as pool:
        session = client.session(**CONFIGURATION)
        with session.stream() as stream:
            list(pool.map(lambda seed: stream.step(0, *tokens(1, seed=seed)), range(32)))
        assert session.length == (32,)


async def test_tasks_share_a_session(service):
    async with AsyncClient(service.url) as client:
        session = await client.session(**CONFIGURATION)
        steps = [session.step(0, *tokens(1, seed=seed)) for seed in range(16)]
        await asyncio.gather(*steps)
        async with session.stream() as stream:
            await asyncio.gather(*(stream.step(0, *tokens(1, seed=seed)) for seed in range(16)))
        assert session.length == (32,)


async def test_a_cancelled_step_leaves_no_answer_behind(service):
    async with AsyncClient(service.url) as client, client.session(**CONFIGURATION) as session:
        async with session.stream() as stream:
            await stream.step(0, *tokens(1))
            service.arrived.acquire()
            held = service.sessions[session.id].lock
            held.acquire()
            task = asyncio.create_task(stream.step(0, *tokens(1, seed=1)))
            await asyncio.to_thread(service.arrived.acquire)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            held.release()
            # the same step again is the one that was cancelled, if that has been done
            await stream.step(0, *tokens(1, seed=1))
            q, k, v = tokens(1, seed=2)
            out = await stream.step(0, q, k, v)
        assert np.isfinite(out.out).all()
        assert session.length == (3,)
