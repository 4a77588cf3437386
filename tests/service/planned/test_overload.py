"""An overloaded service refuses requests at their header, and recovers when calls end."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import pytest

from service.batching.load_estimate import FEW_CALLS
from tests.service.planned.requests import Client, Exchange, know, post, rotation
from tests.service.planned.servers import Running, all_returned, running, settled, until

EXCHANGE = rotation(64)
LARGE = rotation(800)  # 1.6 MB
JSON = post("/v1/rotate", b"[" * 2000, content_type="application/json")
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def short_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not let the tests wait a second for each refusal."""
    monkeypatch.setattr("service.server.connection_pacer.HOLD_S", 0.02)


class Work(NamedTuple):
    """A call that waits and never runs."""

    seconds: float = 800.0
    kind: str = "work"


@contextmanager
def busy(service: Running) -> Iterator[None]:
    """Overload the service with outstanding work."""
    load, calls = service.handler.batcher.load, [*[Work(0.0)] * (FEW_CALLS - 1), Work()]
    for call in calls:
        load.add(call, 0.0, 1e9)
    yield
    for call in calls:
        load.remove(call)


async def planned_client(service: Running, exchange: Exchange) -> Client:
    """Return a client whose next request has a plan."""
    know(service, [exchange])
    client = await Client.connect(service.address)
    for _ in range(2):
        assert (await client.ask(exchange.request)).body == exchange.body
    return client


def prefix_of(service: Running, exchange: Exchange) -> bytes:
    """Return the header of a request and the description of its tensors."""
    match = service.planned.planner.match(exchange.request)
    assert match is not None
    assert match.plan is not None
    return match.plan.prefix


def check_refusal(answer) -> None:
    assert answer.status == 503
    assert json.loads(answer.body)["code"] == "overloaded"
    assert int(answer.fields["retry-after"]) >= 800
    assert len(answer.fields["x-request-id"]) == 16


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/resolve", b'{"rope": {"head_dim": 8}}'),
        ("/v1/positions", b'{"builder": "grid_positions", "arguments": {"sizes": [2, 3]}}'),
    ],
)
async def test_a_request_that_needs_no_device_is_answered_meanwhile(path, body):
    async with running() as service:
        client = await Client.connect(service.address)
        with busy(service):
            check_refusal(await client.ask(JSON))
            answer = await client.ask(post(path, body, content_type="application/json"))
            assert answer.status == 200
        client.leave()
        await until(lambda: not service.connections)


async def test_a_request_is_refused_at_its_header_and_the_connection_stays_open():
    async with running() as service:
        client = await planned_client(service, EXCHANGE)
        prefix = prefix_of(service, EXCHANGE)
        rest = EXCHANGE.request[len(prefix) :]
        with busy(service):
            await client.send(prefix)
            check_refusal(await client.read())  # no byte of a tensor was sent
            await all_returned(service)
            for start in range(0, len(rest), 999):
                await client.send(rest[start : start + 999])
                await settled(service)
            check_refusal(await client.ask(EXCHANGE.request))
        answer = await client.ask(EXCHANGE.request)
        assert (answer.status, answer.body) == (200, EXCHANGE.body)
        assert service.statuses == [200, 200, 503, 503, 200]
        client.leave()


async def test_pipelined_requests_are_refused_in_order():
    """The first request is answered by the device."""
    async with running() as service:
        client = await planned_client(service, EXCHANGE)
        service.hold()
        await client.send(EXCHANGE.request)
        await until(lambda: service.num_waiting == 1)
        with busy(service):
            named = post(
                "/v1/rotate", EXCHANGE.request.partition(b"\r\n\r\n")[2], x_request_id="mine"
            )
            service.planned.planner.match(named)
            await client.send(EXCHANGE.request + named + HEALTH)
            (connection,) = service.connections
            await until(lambda: connection._is_reading_paused)  # the rest waits in the kernel
            service.release()
            assert (await client.read()).body == EXCHANGE.body
            check_refusal(await client.read())
            refused = await client.read()
            assert (refused.status, refused.fields["x-request-id"]) == (503, "mine")
            assert (await client.read()).status == 200, "health is never refused"
        client.leave()


async def test_a_long_rest_closes_the_connection():
    """Receiving the rest would cost more than a new connection."""
    async with running() as service:
        client = await planned_client(service, LARGE)
        with busy(service):
            await client.send(prefix_of(service, LARGE))
            answer = await client.read()
            assert answer.status == 503
            assert answer.fields["connection"] == "close"
            client.writer.write(LARGE.request[:-100])
            assert await client.reader.read() == b""
        client.leave()
        await until(lambda: not service.connections)
        await all_returned(service)


@pytest.mark.parametrize("is_busy", [False, True])
async def test_a_planned_request_may_close_its_connection(is_busy):
    """The rest of a refused body is received before the connection closes, which resets nothing."""
    closing = rotation(64, connection="close")
    async with running() as service:
        know(service, [closing])
        client = await Client.connect(service.address)
        assert (await client.ask(closing.request)).body == closing.body  # makes the plan
        client.leave()
        prefix = prefix_of(service, closing)
        client = await Client.connect(service.address)
        with busy(service) if is_busy else nullcontext():
            await client.send(prefix)
            if is_busy:
                answer = await client.read()
                check_refusal(answer)
                await client.send(closing.request[len(prefix) : -100])
                await settled(service)
                assert service.connections
                await client.send(closing.request[-100:])
            else:
                await client.send(closing.request[len(prefix) :] + HEALTH)
                answer = await client.read()
                assert (answer.status, answer.body) == (200, closing.body)
            assert answer.fields["connection"] == "close"
            assert await client.reader.read() == b""
        client.leave()
        await until(lambda: not service.connections)
        await all_returned(service)


async def test_an_ordinary_request_is_refused_before_its_body_is_read():
    async with running() as service:
        client = await Client.connect(service.address)
        header, _, _ = JSON.partition(b"\r\n\r\n")
        with busy(service):
            await client.send(header + b"\r\n\r\n")
            answer = await client.read()
            assert json.loads(answer.body)["code"] == "overloaded"
            await client.send(b"[" * 2000)
            assert (await client.ask(HEALTH)).status == 200
        assert (await client.ask(JSON)).status == 400, "now its body is read"
        client.leave()


async def test_a_client_leaves_during_the_rest_of_a_refused_request():
    async with running() as service:
        client = await planned_client(service, EXCHANGE)
        with busy(service):
            await client.send(prefix_of(service, EXCHANGE))
            check_refusal(await client.read())
        client.leave()
        await until(lambda: not service.connections)
        assert service.statuses == [200, 200, 503]


async def test_refused_clients_are_read_again_at_a_limited_pace():
    """Few calls end, so few further requests are read and refused."""
    async with running() as service:
        clients = [await planned_client(service, EXCHANGE) for _ in range(20)]
        with busy(service):
            for client in clients:
                check_refusal(await client.ask(EXCHANGE.request))
            for client in clients:
                await client.send(EXCHANGE.request)
            for client in clients:
                check_refusal(await client.read())
        for client in clients:
            assert (await client.ask(EXCHANGE.request)).body == EXCHANGE.body
            client.leave()


async def test_nothing_is_refused_while_nothing_waits():
    async with running(max_queue_s=1e-9) as service:
        clients = [await planned_client(service, EXCHANGE) for _ in range(4)]
        for _ in range(5):
            answers = await asyncio.gather(*(client.ask(EXCHANGE.request) for client in clients))
            assert {answer.status for answer in answers} == {200}
        for client in clients:
            client.leave()


@pytest.mark.parametrize("where", ["head", "queue"])
async def test_a_deadline_that_cannot_be_met_is_refused_at_once(where):
    hurried = rotation(64, x_request_timeout_ms="5000")
    async with running() as service:
        client = await planned_client(service, hurried)
        load, call = service.handler.batcher.load, Work(4.0 / FEW_CALLS)
        for _ in range(FEW_CALLS):
            load.add(call, 0.0, 1e9)
        if where == "queue":  # skips the check at the header
            service.planned.refusal = lambda _plan, _arrived: None
        answer = await client.ask(hurried.request)
        assert answer.status == 503
        assert "too long for the deadline" in answer.body.decode()
        for _ in range(FEW_CALLS):
            load.remove(call)
        assert (await client.ask(hurried.request)).status == 200
        client.leave()
