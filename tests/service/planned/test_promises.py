"""Deadlines, the end of the service, a full queue, and what is counted and logged."""

import json
import os
import signal
import socket
import threading
from collections import Counter

import orjson
import pytest

from service.observability import logs
from tests.conftest import Serve
from tests.service.planned.requests import Client, attention, know, rotation
from tests.service.planned.servers import UVICORNS, all_returned, running, settled, until
from tests.waiting import wait_until

EXCHANGE = rotation(16)


async def test_a_deadline_behind_a_busy_device():
    hurried = rotation(16, x_request_timeout_ms="1")
    async with running() as service:
        know(service, [EXCHANGE, hurried])
        device = service.hold_device()
        patient, client = [await Client.connect(service.address) for _ in range(2)]
        await patient.send(EXCHANGE.request)
        await device.started()
        answer = await client.ask(hurried.request)
        assert answer.status == 504
        assert json.loads(answer.body)["code"] == "timed_out"
        device.release()
        assert (await patient.read()).body == EXCHANGE.body
        assert service.statuses == [504, 200]
        patient.leave()
        client.leave()


async def test_a_full_queue():
    async with running(max_queue_calls=2) as service:
        know(service, [EXCHANGE])
        service.hold()
        clients = [await Client.connect(service.address) for _ in range(3)]
        for client in clients[:2]:
            await client.send(EXCHANGE.request)
        await until(lambda: service.num_waiting == 2)
        answer = await clients[2].ask(EXCHANGE.request)
        assert answer.status == 503
        assert json.loads(answer.body)["code"] == "overloaded"
        service.release()
        for client in clients[:2]:
            assert (await client.read()).body == EXCHANGE.body
        assert (await clients[2].ask(EXCHANGE.request)).body == EXCHANGE.body
        for client in clients:
            client.leave()


async def test_too_little_memory():
    async with running(memory_budget_bytes=90_000) as service:
        know(service, [EXCHANGE])
        service.hold()
        first, second = [await Client.connect(service.address) for _ in range(2)]
        await first.send(EXCHANGE.request)
        await until(lambda: service.num_waiting == 1)
        assert service.charged_bytes > 2 * 2**15
        await second.send(EXCHANGE.request[:20_000])
        answer = await second.read()
        assert answer.status == 503, "it is refused before its body has come"
        service.release()
        assert (await first.read()).body == EXCHANGE.body
        await all_returned(service)
        first.leave()
        second.leave()


async def test_the_end_of_the_drain_answers_those_that_wait():
    async with running() as service:
        know(service, [EXCHANGE])
        client = await Client.connect(service.address)
        service.hold()
        await client.send(EXCHANGE.request)
        await until(lambda: service.num_waiting == 1)
        service.lifecycle.drain()
        service.lifecycle.abort_pending()
        answer = await client.read()
        assert answer.status == 503
        assert answer.fields["connection"] == "close"
        assert await client.reader.read() == b""
        client.leave()


async def test_the_end_of_the_service():
    """Connections close: at once without a request, else by an answer that says so."""
    async with running() as service:
        know(service, [EXCHANGE])
        idle, waiting, sending, beginning, new = [
            await Client.connect(service.address) for _ in range(5)
        ]
        for client in (idle, sending):
            assert (await client.ask(EXCHANGE.request)).body == EXCHANGE.body
        service.hold()
        await waiting.send(EXCHANGE.request)
        await sending.send(EXCHANGE.request[:9000])
        await beginning.send(EXCHANGE.request[:120])
        await settled(service)
        service.lifecycle.drain()
        for connection in service.connections:
            connection.shutdown()
        assert await idle.reader.read() == b""
        service.release()
        await sending.send(EXCHANGE.request[9000:])
        await beginning.send(EXCHANGE.request[120:])
        await new.send(EXCHANGE.request)
        for client in (waiting, sending, beginning, new):
            answer = await client.read()
            assert (answer.status, answer.body) == (200, EXCHANGE.body)
            assert answer.fields["connection"] == "close"
            assert await client.reader.read() == b""
            client.leave()
        idle.leave()
        await all_returned(service)


async def test_a_request_that_the_kernel_has_received():
    """The connection looks idle, but the bytes of a request wait to be read: it is answered."""
    async with running() as service:
        know(service, [EXCHANGE])
        client = await Client.connect(service.address)
        assert (await client.ask(EXCHANGE.request)).body == EXCHANGE.body
        (connection,) = service.connections
        service.lifecycle.drain()
        os.write(client.writer.get_extra_info("socket").fileno(), EXCHANGE.request[:1000])
        connection.shutdown()
        await client.send(EXCHANGE.request[1000:])
        answer = await client.read()
        assert (answer.status, answer.body) == (200, EXCHANGE.body)
        assert answer.fields["connection"] == "close"
        client.leave()


async def test_lines_and_counters(monkeypatch: pytest.MonkeyPatch):
    """One line and one count for each request, whatever became of it; each identifier once."""
    lines: list[dict[str, object]] = []
    monkeypatch.setattr(logs.output, "write", lambda texts: lines.extend(map(orjson.loads, texts)))
    exchanges = [rotation(16), attention(16), rotation(3, x_request_timeout_ms="1")]
    async with running(log_level="info") as service:
        know(service, exchanges)
        clients = [await Client.connect(service.address) for _ in range(12)]
        device = service.hold_device()
        for client in clients:
            for exchange in exchanges:
                await client.send(exchange.request)
        await device.started()
        await settled(service)
        clients[0].leave()
        await until(lambda: len(service.connections) == 11)
        device.release()
        statuses = Counter[int]()
        for client in clients[1:]:
            for _ in exchanges:
                statuses[(await client.read()).status] += 1
            client.leave()
        await until(lambda: not service.connections)
        await settled(service)
        assert statuses.total() == 11 * 3
        logged = Counter(line["status"] for line in lines if line["message"] == "request")
        assert logged - Counter({499: 1}) == statuses
        assert len({line["request_id"] for line in lines}) == len(lines)
        counted = Counter[int]()
        for metric in service.handler.metrics.requests.collect():
            for sample in metric.samples:
                if sample.name == "rope_requests_total":
                    counted[int(sample.labels["status"])] += int(sample.value)
        assert counted == logged
        observed = sum(
            service.metric("rope_request_duration_seconds_count", route=route)
            for route in ("/v1/rotate", "/v1/attention")
        )
        assert observed == counted.total()
        computed = sum(
            service.metric("rope_backend_calls_total", operation=operation, backend=backend)
            for operation, backend in (("rotate", "eager"), ("attention", "sdpa"))
        )
        assert computed == counted[200]


@pytest.mark.parametrize("name", UVICORNS)
async def test_any_server_can_run_the_application(name: str):
    """The ordinary way alone, with uvicorn's own protocols."""
    async with running(name) as service:
        client = await Client.connect(service.address)
        for exchange in (EXCHANGE, attention(64), EXCHANGE):
            answer = await client.ask(exchange.request)
            assert (answer.status, answer.body) == (200, exchange.body)
        assert service.statuses == []
        client.leave()


def test_nothing_is_lost_at_the_end_under_load(serve: Serve):
    """Each request that was sent is answered, with a line and an identifier of its own."""
    num_answers = Counter[int]()
    failures: list[str] = []

    def ask(host: str, port: int, number: int) -> None:
        while True:
            try:
                connection = socket.create_connection((host, port), timeout=30)
            except ConnectionRefusedError:
                return
            with connection, connection.makefile("rb") as answers:
                is_last = False
                while not is_last:
                    connection.sendall(EXCHANGE.request)
                    header = b""
                    while not header.endswith(b"\r\n\r\n"):
                        line = answers.readline()
                        if not line:
                            failures.append(f"no answer after {num_answers[number]}")
                            return
                        header += line
                    if answers.read(len(EXCHANGE.body)) != EXCHANGE.body:
                        failures.append("another answer")
                    num_answers[number] += 1
                    is_last = b"connection: close" in header

    with serve(ROPE_DRAIN_DELAY_S="0.2", ROPE_DRAIN_S="20") as (url, process):
        host, port = url.removeprefix("http://").split(":")
        threads = [threading.Thread(target=ask, args=(host, int(port), n)) for n in range(8)]
        for thread in threads:
            thread.start()
        wait_until(lambda: num_answers.total() >= 500 or bool(failures))
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(30) == 0
    assert not failures
    lines = [json.loads(line) for line in serve.last_log().splitlines() if '"request_id"' in line]
    ids = [line["request_id"] for line in lines if line["path"] == "/v1/rotate"]
    assert len(ids) == len(set(ids)) == num_answers.total()
