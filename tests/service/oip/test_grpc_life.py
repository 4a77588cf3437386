"""The server of gRPC: its limits, its records, and its end, alone and as a process."""

import asyncio
import json
import signal
import socket
import subprocess
import threading
import time

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2_grpc

from service.errors import Overloaded, ShuttingDown
from service.lifecycle import Lifecycle
from service.oip.grpc.messages import METHODS, SERVICE
from service.oip.grpc.server import HEADER_BYTES
from service.oip.grpc.streams import while_open
from tests.conftest import Serve
from tests.service.oip.conftest import run_grpc

CODE = grpc.StatusCode
INFER = METHODS["ModelInfer"].path
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
PING, GOAWAY = 6, 7
CHECK = health_pb2.HealthCheckRequest()


async def echo(request: bytes, _: object) -> bytes:
    return request


async def slow(request: bytes, _: object) -> bytes:
    await asyncio.sleep(float(request))
    return request


async def code_of(call) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as refused:
        return refused.code()
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
    """Word by word: clients of this library do not ping that often, others do."""
    async with run_grpc(Lifecycle(), {}) as running:
        host, _, port = running.target.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(PREFACE)
        for _ in range(2):
            writer.write(50 * (bytes((0, 0, 8, PING, 0, 0, 0, 0, 0)) + b"are you?"))
            answered = 0
            while answered < 50:
                head = await asyncio.wait_for(reader.readexactly(9), 5)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                assert head[3] != GOAWAY
                answered += head[3] == PING and head[4] == 1
        writer.close()


async def test_rpcs_are_counted_by_method_and_status():
    begun = asyncio.Event()

    async def begin(request: bytes, context: object) -> bytes:
        begun.set()
        return await slow(request, context)

    async with run_grpc(Lifecycle(), {"ModelInfer": begin, "ModelConfig": full}) as running:
        for _ in range(3):
            await running.ask("ModelInfer", b"0")
        assert await code_of(running.ask("ModelConfig")) is CODE.UNAVAILABLE
        assert await code_of(running.ask("ModelInfer", b"9", timeout=0.1)) is CODE.DEADLINE_EXCEEDED
        begun.clear()
        leaving = running.channel.unary_unary(INFER)(b"9")
        await begun.wait()
        leaving.cancel()
        assert await code_of(running.ask("ModelInfer", b"no number")) is CODE.INTERNAL
        await running.server.close(5)
        text = running.metrics.render().decode()
    for status, count in (("OK", 3), ("CANCELLED", 1), ("DEADLINE_EXCEEDED", 1), ("INTERNAL", 1)):
        assert f'rope_requests_total{{route="{INFER}",status="{status}"}} {count}.0' in text
    assert f'rope_requests_total{{route="/{SERVICE}/ModelConfig",status="UNAVAILABLE"}} 1.0' in text
    assert f'rope_request_duration_seconds_count{{route="{INFER}"}} 6.0' in text


async def full(request: bytes, _: object) -> bytes:
    raise Overloaded("full")


async def test_each_rpc_has_an_id():
    async with run_grpc(Lifecycle(), {"ModelInfer": echo, "ModelConfig": full}) as running:
        for method, code in (("ModelInfer", CODE.OK), ("ModelConfig", CODE.UNAVAILABLE)):
            path = METHODS[method].path
            call = running.channel.unary_unary(path)(b"", metadata=[("x-request-id", "me")])
            assert await call.code() is code
            assert ("x-request-id", "me") in [*await call.trailing_metadata()]
        call = running.channel.unary_unary(INFER)(b"", metadata=[("x-request-id", "not me!")])
        (own,) = [v for n, v in await call.trailing_metadata() if n == "x-request-id"]
        assert len(own) == 16


async def test_an_rpc_may_finish_within_the_grace_period_only():
    both_begun = asyncio.Barrier(3)

    async def begin(request: bytes, context: object) -> bytes:
        await both_begun.wait()
        return await slow(request, context)

    async with run_grpc(Lifecycle(), {"ModelInfer": begin}) as running:
        calls = [running.channel.unary_unary(INFER)(text) for text in (b"0.3", b"60")]
        await both_begun.wait()
        begun = time.monotonic()
        await running.server.close(1)
        assert 0.9 < time.monotonic() - begun < 3
        assert await calls[0] == b"0.3"
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
    """A second word to a server that is stopping has crashed the process."""
    monkeypatch.setattr("service.oip.grpc.server.LAST_REQUESTS_S", 0.01)
    for i in range(50):
        lifecycle = Lifecycle()
        async with run_grpc(lifecycle, {"ModelInfer": slow}) as running:
            watching = health_pb2_grpc.HealthStub(running.channel).Watch(CHECK)
            await watching.read()
            pauses = (b"0", b"0.002", b"0.003", b"60")[: i % 5]
            calls = [running.channel.unary_unary(INFER)(each) for each in pauses]
            await asyncio.sleep(0.001 * (i % 4))
            lifecycle.close_streams()
            await running.server.close((0, 0.005, 0.05)[i % 3])
            codes = [await code_of(call) for call in calls]
            assert set(codes) <= {CODE.OK, CODE.CANCELLED, CODE.UNAVAILABLE}


async def test_a_silent_stream_ends_when_the_server_stops_listening():
    lifecycle = Lifecycle()

    async def silent():
        yield 1
        yield 2
        await asyncio.Event().wait()

    seen = []

    async def see() -> None:
        async for each in while_open(silent(), lifecycle):
            seen.append(each)
            if each == 2:
                asyncio.get_running_loop().call_soon(lifecycle.close_streams)

    with pytest.raises(ShuttingDown):
        await see()
    assert seen == [1, 2]


async def test_a_stream_ends_when_its_client_ends_it():
    async def two():
        yield 1
        yield 2

    assert [each async for each in while_open(two(), Lifecycle())] == [1, 2]


async def test_a_failure_of_a_stream_is_raised():
    async def broken():
        yield 1
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        [each async for each in while_open(broken(), Lifecycle())]


class Watcher(threading.Thread):
    """Watches the status of a service, and notes each status with its time."""

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__()
        self._watching = health_pb2_grpc.HealthStub(channel).Watch(CHECK)
        self.statuses: list[tuple[str, float]] = []
        self.watching = threading.Event()
        """Set at the first status."""
        self.start()

    def run(self) -> None:
        name = health_pb2.HealthCheckResponse.ServingStatus.Name
        for response in self._watching:
            self.statuses.append((name(response.status), time.monotonic()))
            self.watching.set()
        self.statuses.append((self._watching.code().name, time.monotonic()))


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

            def nothing():
                stop.wait()
                yield from ()

            reflected = reflection_pb2_grpc.ServerReflectionStub(channel)
            idle = reflected.ServerReflectionInfo(nothing())
            assert watcher.watching.wait(10)
            begun = time.monotonic()
            started.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert channel.unary_unary(METHODS["ServerLive"].path)(b"") == b"\x08\x01"
            assert channel.unary_unary(METHODS["ServerReady"].path)(b"") == b""
            assert started.process.wait(10) == 0
            took = time.monotonic() - begun
            watcher.join(10)
            stop.set()
            assert idle.code() is CODE.UNAVAILABLE
    assert 1.4 < took < 4
    assert [said for said, _ in watcher.statuses] == ["SERVING", "NOT_SERVING", "OK"]
    assert watcher.statuses[1][1] - begun < 1, "sent at the signal, not at the end"
    assert watcher.statuses[2][1] - begun > 1.3


def test_a_second_signal_ends_the_process(serve: Serve):
    with (
        serve(ROPE_DRAIN_DELAY_S="30") as started,
        grpc.insecure_channel(started.grpc_target) as channel,
    ):
        watcher = Watcher(channel)
        assert watcher.watching.wait(10)
        for _ in range(2):
            started.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert started.process.wait(5) == 0
        watcher.join(10)


def test_the_start_fails_if_the_port_is_taken(serve: Serve):
    with serve() as started:
        port = started.grpc_target.rpartition(":")[2]
        second = subprocess.run(
            [*started.process.args, "serve", "--http-port", "0", "--grpc-port", port],
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


def test_each_rpc_but_health_is_one_line_of_json(serve: Serve):
    with serve() as started, grpc.insecure_channel(started.grpc_target) as channel:
        trace = "0af7651916cd43dd8448eb211c80319c"
        metadata = (
            ("x-request-id", "me"),
            ("traceparent", f"00-{trace}-b7ad6b7169203331-01"),
        )
        health_pb2_grpc.HealthStub(channel).Check(CHECK)
        channel.unary_unary(METHODS["ServerReady"].path)(b"")
        channel.unary_unary(METHODS["ServerMetadata"].path)(b"", metadata=metadata)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary(METHODS["ModelConfig"].path)(b"\xff")
        seen = httpx.get(f"{started.url}/metrics").text
        assert 'rope_requests_total{route="/grpc.health.v1.Health/Check",status="OK"} 1.0' in seen
        lines = [json.loads(line) for line in serve.last_log().splitlines()]
    first, second = [line for line in lines if line.get("method") == "gRPC"]
    assert (first["path"], first["status"]) == (METHODS["ServerMetadata"].path, "OK")
    assert (first["request_id"], first["trace_id"]) == ("me", trace)
    assert (second["path"], second["status"]) == (METHODS["ModelConfig"].path, "INVALID_ARGUMENT")
