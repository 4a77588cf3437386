"""The gRPC server: limits, metrics and log, and its end, in this process and in another."""

import asyncio
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from service.__main__ import GRPC_EXPERIMENTS
from service.errors import Overloaded, ShuttingDown
from service.lifecycle import Lifecycle
from service.oip.grpc.messages import METHODS, SERVICE
from service.oip.grpc.server import HEADER_BYTES
from service.oip.grpc.streams import while_open
from tests.conftest import Serve, Started
from tests.service.oip.conftest import run_grpc
from tests.service.test_lifecycle import metric
from tests.waiting import wait_until

CODE = grpc.StatusCode
INFER = METHODS["ModelInfer"].path
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
PING, GOAWAY = 6, 7
CHECK = health_pb2.HealthCheckRequest()


async def echo(request: bytes, _: object) -> bytes:
    return request


class HeldMethod:
    """A method whose RPCs answer as soon as the event of their request is set."""

    def __init__(self, *requests: bytes) -> None:
        self.events = {request: asyncio.Event() for request in requests}
        self._begun = asyncio.Semaphore(0)

    async def __call__(self, request: bytes, _: object) -> bytes:
        self._begun.release()
        await self.events[request].wait()
        return request

    async def wait_until_begun(self, count: int) -> None:
        """Return when that many more RPCs have begun."""
        async with asyncio.timeout(10):
            for _ in range(count):
                await self._begun.acquire()


async def code_of(call) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as failure:
        return failure.code()
    return CODE.OK


async def test_messages_up_to_the_limit_are_received_and_sent():
    async with run_grpc(Lifecycle(), {"ModelInfer": echo}, max_body_bytes=8 * 2**20) as running:
        unlimited = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(running.target, options=unlimited) as channel:
            infer = channel.unary_unary(INFER)
            body = bytes(8 * 2**20 + HEADER_BYTES)
            assert await infer(body) == body
            assert await code_of(infer(body + b"x")) is CODE.RESOURCE_EXHAUSTED
            assert await infer(b"x") == b"x"


async def test_any_number_of_pings_is_answered():
    """The test writes the frames itself, because grpcio's client does not ping that often."""
    async with run_grpc(Lifecycle(), {}) as running:
        host, _, port = running.target.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE)
        for _ in range(2):
            writer.write(50 * (bytes((0, 0, 8, PING, 0, 0, 0, 0, 0)) + b"are you?"))
            num_answers = 0
            while num_answers < 50:
                header = await asyncio.wait_for(reader.readexactly(9), 5)
                await reader.readexactly(int.from_bytes(header[:3], "big"))
                assert header[3] != GOAWAY
                num_answers += header[3] == PING and header[4] == 1
        writer.close()


async def test_rpcs_are_counted_by_method_and_status():
    infer = HeldMethod(b"answered", b"held")
    infer.events[b"answered"].set()

    async with run_grpc(Lifecycle(), {"ModelInfer": infer, "ModelConfig": full}) as running:
        for _ in range(3):
            await running.ask("ModelInfer", b"answered")
        assert await code_of(running.ask("ModelConfig")) is CODE.UNAVAILABLE
        late = running.ask("ModelInfer", b"held", timeout=0.1)
        assert await code_of(late) is CODE.DEADLINE_EXCEEDED
        await infer.wait_until_begun(4)
        cancelled = running.channel.unary_unary(INFER)(b"held")
        await infer.wait_until_begun(1)
        cancelled.cancel()
        assert await code_of(running.ask("ModelInfer", b"a KeyError")) is CODE.INTERNAL
        await running.server.close(5)
        text = running.metrics.render().decode()
    for status, count in (("OK", 3), ("CANCELLED", 1), ("DEADLINE_EXCEEDED", 1), ("INTERNAL", 1)):
        assert f'rope_requests_total{{route="{INFER}",status="{status}"}} {count}.0' in text
    assert f'rope_requests_total{{route="/{SERVICE}/ModelConfig",status="UNAVAILABLE"}} 1.0' in text
    assert f'rope_request_duration_seconds_count{{route="{INFER}"}} 6.0' in text


async def full(request: bytes, _: object) -> bytes:
    raise Overloaded("full")


async def test_every_rpc_has_an_id():
    async with run_grpc(Lifecycle(), {"ModelInfer": echo, "ModelConfig": full}) as running:
        for method, code in (("ModelInfer", CODE.OK), ("ModelConfig", CODE.UNAVAILABLE)):
            path = METHODS[method].path
            call = running.channel.unary_unary(path)(b"", metadata=[("x-request-id", "me")])
            assert await call.code() is code
            assert ("x-request-id", "me") in [*await call.trailing_metadata()]
        call = running.channel.unary_unary(INFER)(b"", metadata=[("x-request-id", "not me!")])
        (made,) = [v for n, v in await call.trailing_metadata() if n == "x-request-id"]
        assert len(made) == 16


async def test_an_rpc_without_a_request_is_answered():
    async with run_grpc(Lifecycle(), {"ModelInfer": echo}) as running:
        none = running.channel.stream_unary(INFER)(iter(()))
        assert await code_of(none) is CODE.INVALID_ARGUMENT
        unknown = running.channel.unary_unary(f"/{SERVICE}/Nope")(b"")
        assert await code_of(unknown) is CODE.UNIMPLEMENTED
        assert await running.ask("ModelInfer", b"x") == b"x"


async def test_a_failure_before_the_first_await_is_answered():
    def broken(request: bytes, _: object) -> None:
        raise KeyError(request)

    async with run_grpc(Lifecycle(), {"ModelInfer": broken}) as running:
        assert await code_of(running.ask("ModelInfer")) is CODE.INTERNAL


async def test_a_stream_whose_client_leaves_is_closed():
    closed = asyncio.Event()

    async def endless(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                while True:
                    yield request
        finally:
            closed.set()

    async with run_grpc(Lifecycle(), {"ModelStreamInfer": endless}) as running:
        call = running.channel.stream_stream(METHODS["ModelStreamInfer"].path)(iter((b"x",)))
        assert await call.read() == b"x"
        call.cancel()
        await asyncio.wait_for(closed.wait(), 10)
        await running.server.close(5)
        text = running.metrics.render().decode()
    assert f'route="/{SERVICE}/ModelStreamInfer",status="CANCELLED"}} 1.0' in text


async def test_an_rpc_may_finish_within_the_grace_period_only():
    infer = HeldMethod(b"finishes", b"held")
    async with run_grpc(Lifecycle(), {"ModelInfer": infer}) as running:
        calls = [running.channel.unary_unary(INFER)(request) for request in infer.events]
        await infer.wait_until_begun(2)
        start = time.monotonic()
        closing = asyncio.create_task(running.server.close(1))
        assert await code_of(running.ask("ModelInfer", b"finishes")) is CODE.UNAVAILABLE
        infer.events[b"finishes"].set()
        assert await calls[0] == b"finishes"
        await closing
        assert 0.9 < time.monotonic() - start < 3
        assert await code_of(calls[1]) in (CODE.CANCELLED, CODE.UNAVAILABLE)


async def test_the_server_stops_after_the_last_answer_is_sent_whole():
    begun = asyncio.Event()

    async def large(request: bytes, _: object) -> bytes:
        begun.set()
        return bytes(64 * 2**20)

    async with run_grpc(Lifecycle(), {"ModelInfer": large}) as running:
        unlimited = [("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(running.target, options=unlimited) as channel:
            call = channel.unary_unary(INFER)(b"")
            await begun.wait()
            await running.server.close(60)
            assert len(await call) == 64 * 2**20


async def test_the_server_stops_at_any_moment(monkeypatch):
    """Two stops of a server at the same time have crashed the process.

    Before the server closes, any number of the RPCs have begun. One of them answers at once, one
    before the close, one during the close, and one never.
    """
    monkeypatch.setattr("service.oip.grpc.server.LAST_REQUESTS_S", 0.01)
    loop = asyncio.get_running_loop()
    for i in range(50):
        lifecycle = Lifecycle()
        infer = HeldMethod(b"at once", b"before the close", b"during the close", b"never")
        infer.events[b"at once"].set()
        async with run_grpc(lifecycle, {"ModelInfer": infer}) as running:
            watching = health_pb2_grpc.HealthStub(running.channel).Watch(CHECK)
            await watching.read()
            requests = [*infer.events][: i % 5]
            calls = [running.channel.unary_unary(INFER)(request) for request in requests]
            await infer.wait_until_begun(min(i % 4, len(calls)))
            infer.events[b"before the close"].set()
            lifecycle.close_streams()
            loop.call_later(0.01, infer.events[b"during the close"].set)
            await running.server.close((0, 0.005, 0.05)[i % 3])
            codes = [await code_of(call) for call in calls]
            assert set(codes) <= {CODE.OK, CODE.CANCELLED, CODE.UNAVAILABLE}


async def test_a_silent_stream_ends_when_the_server_stops_listening():
    lifecycle = Lifecycle()

    async def silent():
        yield 1
        yield 2
        await asyncio.Event().wait()

    received = []

    async def receive() -> None:
        async for number in while_open(silent(), lifecycle):
            received.append(number)
            if number == 2:
                asyncio.get_running_loop().call_soon(lifecycle.close_streams)

    with pytest.raises(ShuttingDown):
        await receive()
    assert received == [1, 2]


async def test_a_stream_ends_when_its_client_ends_it():
    async def two():
        yield 1
        yield 2

    assert [number async for number in while_open(two(), Lifecycle())] == [1, 2]


async def test_a_failure_of_a_stream_is_raised():
    async def broken():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        [number async for number in while_open(broken(), Lifecycle())]


class Watcher(threading.Thread):
    """Watches the health of a service and records each status with its time."""

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__()
        self._watching = health_pb2_grpc.HealthStub(channel).Watch(CHECK)
        self.statuses: list[tuple[str, float]] = []
        self.start()

    def run(self) -> None:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name
        for response in self._watching:
            self.statuses.append((name(response.status), time.monotonic()))
        self.statuses.append((self._watching.code().name, time.monotonic()))

    def wait_for(self, status: str) -> None:
        """Return when the last status is this one."""
        wait_until(lambda: self.statuses[-1:] and self.statuses[-1][0] == status)


def test_sigterm_drains_without_waiting_for_idle_peers(serve: Serve):
    with serve(ROPE_DRAIN_DELAY_S="1.5", ROPE_DRAIN_S="20") as started:
        port = int(started.grpc_target.rpartition(":")[2])
        with (
            grpc.insecure_channel(started.grpc_target) as channel,
            socket.create_connection(("127.0.0.1", port)),
            socket.create_connection(("127.0.0.1", port)) as mute,
        ):
            mute.sendall(PREFACE)
            watcher = Watcher(channel)
            stop = threading.Event()

            def no_requests():
                stop.wait()
                yield from ()

            reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
            idle = reflection.ServerReflectionInfo(no_requests())
            watcher.wait_for("SERVING")
            signalled = time.monotonic()
            started.process.send_signal(signal.SIGTERM)
            watcher.wait_for("NOT_SERVING")
            assert channel.unary_unary(METHODS["ServerLive"].path)(b"") == b"\x08\x01"
            assert channel.unary_unary(METHODS["ServerReady"].path)(b"") == b""
            assert started.process.wait(10) == 0
            seconds = time.monotonic() - signalled
            watcher.join(10)
            stop.set()
            assert idle.code() is CODE.UNAVAILABLE
    assert 1.4 < seconds < 4
    assert [status for status, _ in watcher.statuses] == ["SERVING", "NOT_SERVING", "OK"]
    assert watcher.statuses[1][1] - signalled < 1, "sent at the signal, not at the end"
    assert watcher.statuses[2][1] - signalled > 1.3


def test_sockets_are_read_by_the_thread_that_waits_for_rpcs(server: Started, channel: grpc.Channel):
    """The core of grpcio writes a line about a switch that it does not know."""
    assert channel.unary_unary(METHODS["ServerLive"].path)(b"") == b"\x08\x01"
    variables = Path(f"/proc/{server.process.pid}/environ").read_bytes()
    assert f"GRPC_EXPERIMENTS={GRPC_EXPERIMENTS}".encode() in variables.split(b"\0")
    assert "xperiment" not in server.log.read_text()


def test_a_second_signal_ends_the_process(serve: Serve):
    with (
        serve(ROPE_DRAIN_DELAY_S="30") as started,
        grpc.insecure_channel(started.grpc_target) as channel,
    ):
        watcher = Watcher(channel)
        watcher.wait_for("SERVING")
        started.process.send_signal(signal.SIGTERM)
        watcher.wait_for("NOT_SERVING")
        assert httpx.get(f"{started.url}/readyz").json() == {"status": "draining"}
        assert started.process.poll() is None
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(5) == 0
        watcher.join(10)


def test_the_start_fails_if_the_port_is_taken(server: Started):
    port = server.grpc_target.rpartition(":")[2]
    second = subprocess.run(
        [*server.process.args, "serve", "--http-port", "0", "--grpc-port", port],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode != 0
    errors = [json.loads(line) for line in second.stdout.splitlines()]
    (error,) = [line for line in errors if line["level"] == "error"]
    assert "gRPC cannot listen" in error["message"]
    assert "already in use" in error["message"]
    assert second.stderr == ""


def test_every_rpc_except_health_logs_one_line_of_json(server: Started, channel: grpc.Channel):
    """The last RPC comes after those that have no line."""
    counted = 'rope_requests_total{route="/grpc.health.v1.Health/Check",status="OK"}'
    before = metric(server.url, counted)
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = (
        ("x-request-id", "one-rpc"),
        ("traceparent", f"00-{trace}-b7ad6b7169203331-01"),
    )
    health_pb2_grpc.HealthStub(channel).Check(CHECK, metadata=metadata)
    channel.unary_unary(METHODS["ServerReady"].path)(b"", metadata=metadata)
    channel.unary_unary(METHODS["ServerMetadata"].path)(b"", metadata=metadata)
    last = (("x-request-id", "last-rpc"),)
    with pytest.raises(grpc.RpcError):
        channel.unary_unary(METHODS["ModelConfig"].path)(b"\xff", metadata=last)
    assert metric(server.url, counted) == before + 1
    (second,) = server.requests_logged("last-rpc")
    (first,) = server.requests_logged("one-rpc")
    assert (first["path"], first["status"]) == (METHODS["ServerMetadata"].path, "OK")
    assert (first["method"], first["trace_id"]) == ("gRPC", trace)
    assert (second["path"], second["status"]) == (METHODS["ModelConfig"].path, "INVALID_ARGUMENT")
