"""Responses that a client does not read end at a timeout, on a connection that stays in use."""

import asyncio

from grpc import StatusCode

from service.lifecycle import Lifecycle
from service.oip.grpc.rpc import SendTimeout
from tests.service.oip.conftest import run_grpc
from tests.service.oip.test_grpc_bad_input import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RST_STREAM,
    Frame,
    RawClient,
    header_block,
)
from tests.service.oip.test_grpc_life import PREFACE, echo
from tests.waiting import wait_until_async

DATA, SETTINGS, WINDOW_UPDATE = 0, 4, 8
NO_WINDOW = Frame(SETTINGS, 0, 0, (4).to_bytes(2, "big") + bytes(4))
"""The peer may send no DATA, except on streams whose window is opened."""

MESSAGE = bytes(2**13)


def rpc(stream: int) -> tuple[Frame, Frame]:
    message = b"\x00" + len(MESSAGE).to_bytes(4, "big") + MESSAGE
    return (
        Frame(HEADERS, END_HEADERS, stream, header_block()),
        Frame(DATA, END_STREAM, stream, message),
    )


def exchange(target: str) -> list[Frame]:
    """Read no response on stream 1, and the one on stream 3; return what came."""
    frames = []
    with RawClient(target) as client:
        client.socket.sendall(PREFACE)
        header, message = rpc(3)
        window = Frame(WINDOW_UPDATE, 0, 3, (2**20).to_bytes(4, "big"))
        client.send(NO_WINDOW, *rpc(1), header, window, message)
        missing = {(1, RST_STREAM), (3, DATA)}
        while missing:
            frame = client.receive()
            assert frame is not None, "the connection was closed"
            frames.append(frame)
            missing.discard((frame.stream, frame.type))
    return frames


async def test_a_response_that_is_not_read_is_cancelled():
    over = []

    async def echo_and_note(request: bytes, rpc) -> bytes:
        rpc.add_done_callback(lambda: over.append((rpc.status, rpc.log_fields.get("code"))))
        return await echo(request, rpc)

    async def is_over() -> bool:
        return len(over) == 2

    methods = {"ServerLive": echo_and_note}
    timeouts = {"write_stall_s": 1, "min_body_rate": 2**20}
    async with run_grpc(Lifecycle(), methods, **timeouts) as running:
        frames = await asyncio.to_thread(exchange, running.target)
        await wait_until_async(is_over)
    assert over == [
        (StatusCode.OK, None),
        (StatusCode.CANCELLED, "client_left"),
    ]
    sent = {1: 0, 3: 0}
    for frame in frames:
        if frame.type == DATA:
            sent[frame.stream] += len(frame.payload)
    assert sent == {1: 0, 3: 5 + len(MESSAGE)}


def test_a_timeout_has_a_bound():
    timeout = SendTimeout(grace_s=10, min_rate=2**16, longest_s=60)
    assert timeout.seconds(0) == 10
    assert timeout.seconds(2**17) == 12
    assert timeout.seconds(2**30) == 60
