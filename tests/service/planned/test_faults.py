"""Clients that leave, that read slowly or not at all, and failures of the service itself.

After each, nothing is charged, nothing waits, and no memory is leased.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.asgi import problems
from service.server import planned_answer, planned_requests
from tests.service.planned.requests import Client, know, rotation
from tests.service.planned.servers import Running, all_returned, running, settled, until

EXCHANGE = rotation(16)
LARGE = rotation(512)  # 1 MiB in and out
END = EXCHANGE.request.index(b"\r\n\r\n") + 4


@asynccontextmanager
async def knowing(**settings: object) -> AsyncIterator[Running]:
    """Run a service that knows the headers; nothing may be left when the test ends."""
    async with running(**settings) as service:
        know(service, [EXCHANGE, LARGE])
        yield service
        await until(lambda: not service.connections)
        await all_returned(service)


@pytest.mark.parametrize("at", [END, END + 4, END + 300, END + 20_000])
@pytest.mark.parametrize("is_planned", [True, False], ids=["planned", "unknown"])
async def test_a_client_leaves_while_it_sends(at: int, is_planned: bool):
    async with knowing() as service:
        client = await Client.connect(service.address)
        if is_planned:
            await client.ask(EXCHANGE.request)
        await client.send(EXCHANGE.request[:at])
        await settled(service)
        assert (service.charged_bytes > 0) == (at >= END + 300)
        client.leave()
        await until(lambda: not service.connections)
        await until(lambda: service.statuses == [200] * is_planned + [499])


async def test_a_client_leaves_in_a_header():
    """There is no request yet, so none is recorded."""
    async with knowing() as service:
        client = await Client.connect(service.address)
        await client.send(EXCHANGE.request[: END - 9])
        await settled(service)
        client.leave()
        await until(lambda: not service.connections)
        assert service.statuses == []
        assert service.metric("rope_requests_total", route="/v1/rotate", status="499") == 0


async def test_a_client_leaves_the_queue():
    async with knowing() as service:
        service.hold()
        clients = [await Client.connect(service.address) for _ in range(3)]
        for client in clients:
            await client.send(EXCHANGE.request)
        await until(lambda: service.num_waiting == 3)
        clients[1].leave()
        await until(lambda: service.num_waiting == 2)
        await until(lambda: service.statuses == [499])
        assert service.num_slabs == 2, "its memory is free at once"
        service.release()
        for client in (clients[0], clients[2]):
            assert (await client.read()).body == EXCHANGE.body
            client.leave()


async def test_a_client_leaves_a_run():
    """Its memory stays leased until the run is over."""
    async with knowing() as service:
        device = service.hold_device()
        clients = [await Client.connect(service.address) for _ in range(3)]
        for client in clients:
            await client.send(EXCHANGE.request)
        await device.started()
        await settled(service)
        clients[0].leave()
        await until(lambda: service.statuses == [499])
        assert service.num_slabs == 3
        device.release()
        for client in clients[1:]:
            assert (await client.read()).body == EXCHANGE.body
            client.leave()


@pytest.mark.parametrize("is_reset", [False, True], ids=["leaves", "resets"])
async def test_a_client_leaves_before_it_reads(is_reset: bool):
    """The answer has begun, so its status counts; as the ordinary way does."""
    async with knowing() as service:
        client = await Client.connect(service.address)
        client.writer.transport.pause_reading()
        request = LARGE.request * 8  # more than the kernel takes for a client that does not read
        client.writer.write(request)
        await until(lambda: service.connections[0]._status)
        assert service.charged_bytes > 0
        client.reset() if is_reset else client.leave()
        await until(lambda: not service.connections)
        assert set(service.statuses) == {200}


async def test_clients_that_read_slowly():
    """Many large answers that nobody reads: all are charged; then they are read as they are."""
    async with knowing() as service:
        clients = [await Client.connect(service.address) for _ in range(16)]
        for client in clients:
            client.writer.transport.pause_reading()
            client.writer.write(LARGE.request * 5)
        await until(lambda: sum(map(_waits, service.connections)) == 16)
        tables = 512 * 32 * 8
        charge = len(LARGE.request) - LARGE.request.index(b"\r\n\r\n") - 4 + 2**20 + tables
        assert service.charged_bytes == 16 * charge, "of body, answer and tables"
        assert service.num_slabs == 16
        for client in clients:
            client.writer.transport.resume_reading()
            for _ in range(5):
                answer = await client.read()
                assert (answer.status, answer.body) == (200, LARGE.body)
            client.leave()


def _waits(connection: object) -> bool:
    return connection._transport.get_write_buffer_size() > 0


async def test_the_deadline_of_a_body_that_trickles():
    exchange = rotation(16, x_request_timeout_ms="20")
    async with knowing() as service:
        know(service, [exchange])
        client = await Client.connect(service.address)
        await client.send(exchange.request[:-100])
        answer = await client.read()
        assert answer.status == 504
        assert answer.fields["content-type"] == "application/problem+json"
        client.leave()


async def test_a_body_that_trickles_is_refused_as_slow():
    async with knowing() as service:
        client = await Client.connect(service.address)
        for end in (END + 3, END + 300):
            await client.send(EXCHANGE.request[:end])
            await settled(service)
            (connection,) = service.connections
            pending = connection.pending()
            assert pending is not None
            connection.refuse_slow(pending.phase)
            assert (await client.read()).status == 408
            client.leave()
            await until(lambda: not service.connections)
            client = await Client.connect(service.address)
        client.leave()


class Broken(Exception):
    """A failure that nobody expects."""


@pytest.mark.parametrize("name", ["match", "make", "lease", "enqueue"])
async def test_a_failure_of_the_planned_way(name: str, monkeypatch: pytest.MonkeyPatch):
    """The request is answered the ordinary way."""

    def fail(*_: object) -> None:
        raise Broken

    logged: list[str] = []
    monkeypatch.setattr(planned_requests.log, "exception", logged.append)
    async with knowing() as service:
        planned = service.planned
        owner = {
            "match": planned.planner,
            "make": planned.planner,
            "lease": planned.slab_pool,
            "enqueue": planned.batcher,
        }[name]
        client = await Client.connect(service.address)
        if name == "lease":
            await client.ask(EXCHANGE.request)
        with monkeypatch.context() as patch:
            if name == "enqueue":
                enqueue = planned.batcher.enqueue
                patch.setattr(
                    owner,
                    name,
                    lambda entry: fail() if hasattr(entry, "send_answer") else enqueue(entry),
                )
            else:
                patch.setattr(owner, name, fail)
            for request in (EXCHANGE.request, EXCHANGE.request * 2):
                await client.send(request)
                for _ in range(len(request) // len(EXCHANGE.request)):
                    assert (await client.read()).body == EXCHANGE.body
        assert logged
        assert (await client.ask(EXCHANGE.request)).body == EXCHANGE.body
        client.leave()


async def test_a_failure_while_an_answer_is_rendered(monkeypatch: pytest.MonkeyPatch):
    """Nothing else is lost: the others of the batch have their answers."""
    monkeypatch.setattr(problems.log, "error", lambda *_, **__: None)  # pytest keeps what is logged
    async with knowing() as service:
        service.hold()
        clients = [await Client.connect(service.address) for _ in range(3)]
        for client in clients:
            await client.send(EXCHANGE.request)
            await settled(service)
        parts, calls = planned_answer.answer_parts, []

        def fail_once(*arguments: object) -> object:
            calls.append(None)
            if len(calls) == 2:
                raise Broken
            return parts(*arguments)

        monkeypatch.setattr(planned_answer, "answer_parts", fail_once)
        service.release()
        answers = [await client.read() for client in clients]
        assert [answer.status for answer in answers] == [200, 500, 200]
        assert "internal error" in answers[1].body.decode()
        assert answers[0].body == answers[2].body == EXCHANGE.body
        for client in clients:
            client.leave()
