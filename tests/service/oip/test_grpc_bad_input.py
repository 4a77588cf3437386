"""Bad input over gRPC: the expected status, and a correct answer on the same channel after it.

The numbers are those of the rows of the table of bad input over gRPC.
"""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import grpc
import httpx
import pytest

from service.lifecycle import Lifecycle
from service.oip.grpc.messages import METHODS, ModelInferRequest, ModelInferResponse
from service.oip.grpc.server import HEADER_BYTES, MAX_PING_STRIKES, MAX_STREAMS
from tests.conftest import Serve, Started
from tests.service.oip.conftest import run_grpc
from tests.service.oip.test_grpc_infer import RAW, ROTATED, TYPED, request, x
from tests.service.oip.test_grpc_life import GOAWAY, INFER, PING, PREFACE, code_of, echo
from tests.service.oip.test_grpc_planned import planned_service
from tests.waiting import wait_until, wait_until_async

CODE = grpc.StatusCode
LIVE = METHODS["ServerLive"].path
MIB = 2**20
MAX_BODY_BYTES = 8 * MIB

HEADERS, RST_STREAM = 1, 3
END_STREAM, END_HEADERS = 1, 4
ENHANCE_YOUR_CALM = 11


@pytest.fixture(scope="module")
def service(serve: Serve) -> Iterator[Started]:
    with serve(
        ROPE_MAX_BODY_BYTES=str(MAX_BODY_BYTES), ROPE_HEADER_TIMEOUT_S="1", ROPE_LOG_LEVEL="warning"
    ) as started:
        yield started


@pytest.fixture(scope="module")
def channel(service: Started) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(service.grpc_target) as channel:
        yield channel


@pytest.fixture(autouse=True)
def alive(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each row, a known-good request on the same channel has the right answer."""
    yield
    if "channel" not in request.fixturenames:
        return
    channel = request.getfixturevalue("channel")
    assert channel.unary_unary(LIVE)(b"", timeout=30) == b"\x08\x01"
    good = ModelInferRequest(model_name="rope", inputs=[x()], raw_input_contents=[RAW])
    answer = ModelInferResponse.FromString(send(channel, good, timeout=30))
    rotated = struct.unpack("<8f", answer.raw_output_contents[0])
    assert [*rotated] == pytest.approx(ROTATED, rel=1e-6)


def send(channel: grpc.Channel, message: Any, **more: Any) -> bytes:
    body = message if isinstance(message, bytes) else message.SerializeToString()
    response: bytes = channel.unary_unary(INFER)(body, **more)
    return response


def status(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as failure:
        return failure.code()
    return CODE.OK


def wrong_shape(*shape: int) -> Any:
    return request(inputs=[x(shape=shape)], raw_input_contents=[RAW])


REFUSED = {
    "G01 message of the limit and a byte": bytes(MAX_BODY_BYTES + HEADER_BYTES + 1),
    "G02 fewer raw tensors than inputs": request(inputs=[x()]),
    "G02 more raw tensors than inputs": request(inputs=[x()], raw_input_contents=[RAW, RAW]),
    "G03 raw and typed": request(inputs=[x(contents=TYPED)], raw_input_contents=[RAW]),
    "G04 a byte short": request(inputs=[x()], raw_input_contents=[RAW[:-1]]),
    "G04 a byte over": request(inputs=[x()], raw_input_contents=[RAW + b"x"]),
    "G05 2^32 x 2^32": wrong_shape(2**32, 2**32),
    "G05 negative": wrong_shape(-1),
    "G05 rank 100": wrong_shape(*[1] * 100),
    "G06 a product that wraps around": wrong_shape(2**61 + 1, 2**3),
    "G06 a product that wraps around to 32 bytes": wrong_shape(2**62 + 8),
}


@pytest.mark.parametrize("message", REFUSED.values(), ids=REFUSED)
def test_bad_messages_are_refused(channel, message):
    expected = CODE.RESOURCE_EXHAUSTED if isinstance(message, bytes) else CODE.INVALID_ARGUMENT
    assert status(lambda: send(channel, message, timeout=30)) is expected


async def test_a_call_whose_deadline_passes_in_the_queue_is_not_run():
    """G07 and G08: also when its client leaves."""
    message = request(inputs=[x()], raw_input_contents=[RAW]).SerializeToString()
    async with planned_service() as planned:
        handler, statistics = planned.state.handler, planned.state.statistics["rope"]
        assert len(await planned.running.ask("ModelInfer", message)) > 32  # the warm-up is over
        answered = statistics.num_answered
        handler.batcher.pause()
        assert await code_of(planned.running.ask("ModelInfer", message, timeout=0.001)) is (
            CODE.DEADLINE_EXCEEDED
        )
        call = planned.running.channel.unary_unary(INFER)(message)

        async def waits() -> bool:
            return len(handler.batcher.waiting) == 1

        async def is_empty() -> bool:
            return not handler.batcher.waiting and not handler.admission.charged_bytes

        await wait_until_async(waits)
        call.cancel()
        await wait_until_async(is_empty)
        handler.batcher.resume()
        assert statistics.num_answered == answered
        assert len(await planned.running.ask("ModelInfer", message)) > 32


@pytest.mark.parametrize(
    "metadata", [[("x", "y" * 65_536)], [(f"x{index}", "y" * 60) for index in range(500)]]
)
def test_too_much_metadata_is_refused(channel, metadata):
    """G09."""
    refused = status(lambda: channel.unary_unary(LIVE)(b"", metadata=metadata, timeout=30))
    assert refused is CODE.RESOURCE_EXHAUSTED


def test_a_compressed_message_is_limited_by_its_length_without_compression(channel, service):
    """G11."""
    bomb = request(inputs=[x()], raw_input_contents=[bytes(32 * MIB)])

    def send_bomb() -> bytes:
        return send(channel, bomb, compression=grpc.Compression.Gzip, timeout=60)

    before = resident_peak(service)
    assert status(send_bomb) is CODE.RESOURCE_EXHAUSTED
    assert resident_peak(service) - before < 24 * MIB


def resident_peak(service: Started) -> int:
    with open(f"/proc/{service.process.pid}/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    "path",
    [
        "/inference.GRPCInferenceService/Nope",  # G12
        "/nope.Nope/Nope",
        "/grpc.channelz.v1.Channelz/GetServers",  # G17; reflection is on, as documented
        "/grpc.admin.Admin/GetServers",
        "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus",
    ],
)
def test_unknown_methods_and_services_are_not_implemented(channel, path):
    assert status(lambda: channel.unary_unary(path)(b"", timeout=30)) is CODE.UNIMPLEMENTED


def test_more_rpcs_than_a_connection_may_have_wait(channel):
    """G14: the client delays RPCs above the limit of the server."""
    futures = [channel.unary_unary(LIVE).future(b"", timeout=60) for _ in range(MAX_STREAMS + 200)]
    assert {future.result() for future in futures} == {b"\x08\x01"}


class Frame(NamedTuple):
    type: int
    flags: int
    stream: int
    payload: bytes


class RawClient:
    """An HTTP/2 client that writes raw frames."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> "RawClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: Frame) -> None:
        self.socket.sendall(
            b"".join(
                len(payload).to_bytes(3, "big")
                + bytes((kind, flags))
                + stream.to_bytes(4, "big")
                + payload
                for kind, flags, stream, payload in frames
            )
        )

    def receive(self) -> Frame | None:
        """Return the next frame, None at the end of the connection.

        A server that closes before it has read everything resets the connection: this is an end.
        """
        try:
            header = self._reader.read(9)
            payload = self._reader.read(int.from_bytes(header[:3], "big"))
        except ConnectionResetError:
            return None
        if len(header) < 9:
            return None
        return Frame(header[3], header[4], int.from_bytes(header[5:], "big"), payload)

    def receive_until(self, kind: int) -> Frame:
        """Return the next frame of a type."""
        while (frame := self.receive()) is not None:
            if frame.type == kind:
                return frame
        raise AssertionError(f"the connection ended without a frame of type {kind}")


def header_block(*more: tuple[bytes, bytes]) -> bytes:
    """Return the header of an RPC to ServerLive, with literal fields."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", LIVE.encode()),
        (b":authority", b"x"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        *more,
    ]
    return b"".join(
        b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value
        for name, value in fields
    )


def test_broken_binary_metadata_fails_its_own_rpc_only(channel, service):
    """G10: `-bin` metadata that is not base64."""
    with RawClient(service.grpc_target) as client:
        client.socket.sendall(PREFACE)
        broken = header_block((b"x-bin", b"!!!not base64!!!"))
        empty_message = Frame(0, END_STREAM, 3, bytes(5))
        client.send(
            Frame(HEADERS, END_HEADERS | END_STREAM, 1, broken),
            Frame(HEADERS, END_HEADERS, 3, header_block()),
            empty_message,
        )
        answers = []
        while not any(frame.stream == 3 and frame.flags & END_STREAM for frame in answers):
            frame = client.receive()
            assert frame is not None, "the connection was closed"
            assert frame.type != GOAWAY
            answers.append(frame)
        assert b"\x08\x01" in b"".join(f.payload for f in answers if (f.type, f.stream) == (0, 3))


def test_a_flood_of_pings_ends_its_connection_alone(channel, service):
    """G13."""
    ping = Frame(PING, 0, 0, b"are you?")
    with RawClient(service.grpc_target) as client:
        client.socket.sendall(PREFACE)
        client.send(*[ping] * (2 * MAX_PING_STRIKES))
        goaway = client.receive_until(GOAWAY)
    assert int.from_bytes(goaway.payload[4:8], "big") == ENHANCE_YOUR_CALM
    assert b"too_many_pings" in goaway.payload


def test_ten_thousand_streams_that_are_reset_disturb_no_other_channel(channel, service):
    """G13, rapid reset: the connection may end, the service keeps running."""
    block = header_block()
    with RawClient(service.grpc_target) as client, ThreadPoolExecutor(1) as threads:
        client.socket.sendall(PREFACE)
        reading = threads.submit(lambda: [*iter(client.receive, None)])
        for start in range(1, 20_000, 400):
            frames = [
                frame
                for stream in range(start, start + 400, 2)
                for frame in (
                    Frame(HEADERS, END_HEADERS, stream, block),
                    Frame(RST_STREAM, 0, stream, (8).to_bytes(4, "big")),
                )
            ]
            try:
                client.send(*frames)
            except OSError:
                break
            assert channel.unary_unary(LIVE)(b"", timeout=30) == b"\x08\x01"
        with suppress(OSError):  # after a reset there is nothing to shut down
            client.socket.shutdown(socket.SHUT_RDWR)
        reading.result()


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", bytes(range(256)) * 4])
def test_bytes_that_are_not_http2_close_the_connection(channel, service, sent):
    """G15."""
    with RawClient(service.grpc_target) as client:
        client.socket.sendall(sent)
        while client.receive() is not None:
            pass


def test_a_silent_connection_is_closed(channel, service):
    with RawClient(service.grpc_target) as client:
        while client.socket.recv(65_536):  # a time limit of the socket would raise
            pass


async def test_an_idle_stream_ends(monkeypatch):
    """G16: the channel can be used afterwards."""
    monkeypatch.setattr("service.oip.grpc.server.STREAM_IDLE_S", 0.05)

    async def echo_stream(requests: Any, _: object) -> Any:
        async for message in requests:
            yield message

    methods = {"ModelStreamInfer": echo_stream, "ModelInfer": echo}
    async with run_grpc(Lifecycle(), methods) as running:
        done = asyncio.Event()

        async def one_then_idle() -> Any:
            yield b"one"
            await done.wait()

        stream = running.channel.stream_stream(METHODS["ModelStreamInfer"].path)(one_then_idle())
        assert await stream.read() == b"one"
        assert await stream.code() is CODE.DEADLINE_EXCEEDED
        done.set()
        assert await running.ask("ModelInfer", b"x") == b"x"


def test_a_refused_row_leaves_no_charge(channel, service):
    """After all rows nothing is charged."""

    def nothing_is_charged() -> bool:
        return "\nrope_admitted_bytes 0.0\n" in httpx.get(f"{service.url}/metrics").text

    wait_until(nothing_is_charged)
