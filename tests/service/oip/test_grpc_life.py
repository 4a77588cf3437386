"""The gRPC server in this process: limits, metrics, streams, and its end."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.errors import Overloaded, ShuttingDown
from service.lifecycle import Lifecycle
from service.oip.grpc.messages import METHODS, SERVICE
from service.oip.grpc.server import HEADER_BYTES
from service.oip.grpc.streams import while_open
from tests.service.oip.conftest import run_grpc

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
