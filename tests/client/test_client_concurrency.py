"""A client sends a limited number of calls at a time, however many tasks or threads have calls."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rope_client import AsyncClient, BadRequest, Client, TimedOut

OK = httpx.Response(200, json={"version": "1"})
TASKS = 5_000


class Gate(httpx.AsyncBaseTransport):
    """Counts the requests in flight; answers those that it lets through."""

    def __init__(self) -> None:
        self.in_flight = self.most = self.answered = 0
        self.open = asyncio.Event()
        self.open.set()

    async def handle_async_request(self, _: httpx.Request) -> httpx.Response:
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(0)
            await self.open.wait()
        finally:
            self.in_flight -= 1
        self.answered += 1
        return httpx.Response(200, json={"version": "1"})


async def some_turns_of_the_loop() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_five_thousand_tasks_are_all_answered_64_at_a_time():
    gate = Gate()
    async with AsyncClient(transport=gate) as client:
        answers = await asyncio.gather(*(client.version() for _ in range(TASKS)))
    assert answers == [{"version": "1"}] * TASKS
    assert (gate.most, gate.answered) == (64, TASKS)


async def test_tasks_of_a_group_are_bounded_by_max_concurrency():
    gate = Gate()
    async with (
        AsyncClient(transport=gate, max_concurrency=3) as client,
        asyncio.TaskGroup() as group,
    ):
        tasks = [group.create_task(client.version()) for _ in range(20)]
    assert [task.result() for task in tasks] == [{"version": "1"}] * 20
    assert gate.most == 3


@pytest.mark.parametrize("max_concurrency", [0, -1])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_limit_that_lets_no_call_through_is_refused(client, max_concurrency):
    with pytest.raises(ValueError, match="max_concurrency must be at least 1, got"):
        client(max_concurrency=max_concurrency)


async def test_the_deadline_starts_when_the_call_gets_its_place(time):
    """Each call takes most of its deadline: those behind the first wait for longer than theirs."""
    header_ms, read_s = [], []

    def server(request):
        header_ms.append(request.headers["x-request-timeout-ms"])
        read_s.append(request.extensions["timeout"]["read"])
        time.now_s += 9
        return OK

    options = {"clock": time.clock, "timeout_s": 10, "max_concurrency": 1}
    async with AsyncClient(transport=httpx.MockTransport(server), **options) as client:
        await asyncio.gather(*(client.version() for _ in range(5)))
    assert header_ms == ["10000"] * 5
    assert read_s == [10] * 5


async def test_a_task_that_is_cancelled_gives_its_place_back():
    gate = Gate()
    gate.open.clear()
    async with AsyncClient(transport=gate, max_concurrency=2) as client:
        tasks = [asyncio.create_task(client.version()) for _ in range(6)]
        await some_turns_of_the_loop()
        assert gate.in_flight == 2
        for task in (tasks[0], tasks[2], tasks[4]):  # one that is sent, two that wait
            task.cancel()
        await some_turns_of_the_loop()
        assert gate.in_flight == 2
        gate.open.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        cancelled = [isinstance(outcome, asyncio.CancelledError) for outcome in outcomes]
        assert cancelled == [True, False] * 3

        gate.most = 0
        await asyncio.gather(*(client.version() for _ in range(6)))
        assert gate.most == 2


async def test_a_call_that_fails_gives_its_place_back():
    answers = [httpx.Response(422), httpx.ReadTimeout("slow"), OK]

    def server(_):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with AsyncClient(transport=httpx.MockTransport(server), max_concurrency=1) as client:
        calls = [client.version(), client.rotate(q=[1.0], positons=[0]), client.version()]
        outcomes = await asyncio.gather(*calls, client.version(), return_exceptions=True)
    names = [type(outcome).__name__ for outcome in outcomes]
    assert names == ["BadRequest", "TypeError", "TimedOut", "dict"]


def test_threads_are_bounded():
    lock, in_flight, most = threading.Lock(), 0, 0
    full, release = threading.Semaphore(0), threading.Event()

    def server(_):
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        full.release()
        assert release.wait(30)
        with lock:
            in_flight -= 1
        return httpx.Response(200, json={})

    with (
        Client(transport=httpx.MockTransport(server), max_concurrency=2) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = [pool.submit(client.version) for _ in range(20)]
        for _ in range(2):
            assert full.acquire(timeout=30)
        release.set()
        assert [answer.result(30) for answer in answers] == [{}] * 20
    assert most == 2


async def test_tasks_share_one_connection_for_each_place():
    """Over sockets: as many connections as places, and each is kept."""
    handlers = []

    async def serve(reader, writer):
        handlers.append(asyncio.current_task())
        while await reader.readline():
            while await reader.readline() != b"\r\n":
                pass
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with AsyncClient(f"http://127.0.0.1:{port}", max_concurrency=30) as client:
            answers = await asyncio.gather(*(client.version() for _ in range(300)))
        await asyncio.gather(*handlers)
    assert answers == [{}] * 300
    assert 30 <= len(handlers) < 150, "a connection that is idle for 5 s is opened again"


async def test_a_full_pool_of_a_transport_is_named(connect, answering):
    with pytest.raises(TimedOut, match=r"'transport' to http://rope:1 .* smaller max_concurrency"):
        await connect(answering(httpx.PoolTimeout("")), base_url="http://rope:1")("version")


@pytest.mark.parametrize("max_concurrency", [1, 2])
def test_the_limit_of_threads_holds_after_failures(answering, max_concurrency):
    server = answering(*[httpx.Response(422)] * 3, OK)
    with Client(transport=httpx.MockTransport(server), max_concurrency=max_concurrency) as client:
        for _ in range(3):
            with pytest.raises(BadRequest):
                client.version()
        assert client.version()
