"""Read headers and bodies of HTTP requests, and send answers, by the messages of ASGI."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any

from service.batching.admission import Charge
from service.batching.batcher import Completed
from service.buffer_pool import SMALLEST_BYTES, BufferPool
from service.errors import (
    BadHeader,
    BadMessage,
    ClientLeft,
    TimedOut,
    TooLarge,
    UnsupportedMediaType,
)
from service.wire import Buffer

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

HEADERS_BY_NAME = "rope.headers"
"""Key of a scope: its headers as a dict."""

JOINED_BYTES = 64 * 2**10
"""The parts of a shorter answer are joined: that costs less than sending them one by one."""

CHUNK_BYTES = 256 * 2**10
"""A large answer is sent in chunks of this size, so that a slow client holds it back."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def request_id(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the client's id of this request, None where it has none that may be shown."""
    value = headers.get(b"x-request-id")
    return value.decode() if value and _REQUEST_ID.fullmatch(value) else None


def trace_id(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the trace that this request is part of (W3C Trace Context)."""
    match = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    return match[1].decode() if match else None


def deadline(headers: Mapping[bytes, bytes], default_s: float, max_s: float) -> float:
    """Return the time of `time.monotonic` until which the client waits.

    Args:
        headers: of the request, which has just arrived.
        default_s: how long a client waits that does not say so.
        max_s: longest that any client may wait.

    Raises:
        BadHeader: the client's timeout is not a whole number of milliseconds, at least 1.
    """
    value = headers.get(b"x-request-timeout-ms")
    if value is None:
        return time.monotonic() + default_s
    if not value.isdigit() or len(value) > 12 or not int(value):
        raise BadHeader("X-Request-Timeout-Ms must be whole milliseconds, of 1 to 12 digits, not 0")
    return time.monotonic() + min(int(value) / 1e3, max_s)


def check_not_encoded(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a compressed body.

    Raises:
        UnsupportedMediaType: the body is compressed.
    """
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise UnsupportedMediaType("Content-Encoding must be absent or identity")


def content_length(headers: Mapping[bytes, bytes]) -> int | None:
    """Return the declared length of the body, None where none is declared."""
    value = headers.get(b"content-length")
    return None if value is None else int(value)


async def read_body(
    receive: Receive,
    headers: Mapping[bytes, bytes],
    *,
    deadline: float,
    max_bytes: int,
    charge: Charge,
    memory_factor: int,
    buffer_pool: BufferPool,
) -> Buffer:
    """Return the body. A large body of declared length is written into reused memory.

    Args:
        receive: of ASGI.
        headers: of the request.
        deadline: time of `time.monotonic` until which the body must be there.
        max_bytes: largest body.
        charge: the memory of the body is added to it, before the body is read where its length is
            declared.
        memory_factor: bytes of memory for each byte of the body, when it is decoded.
        buffer_pool: where memory comes from.

    Raises:
        TooLarge: the body has more than `max_bytes`.
        Overloaded: there is too little memory for it now.
        BadMessage: the body has another length than declared.
        ClientLeft: the client disconnected before the end of the body.
        TimedOut: the deadline has passed.
    """
    declared = content_length(headers)
    if declared is not None and declared > max_bytes:
        raise TooLarge("the body, in bytes,", max_bytes, f"{declared:,}")
    charge.add((declared or 0) * memory_factor)
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            event = await receive()
            if event["type"] == "http.disconnect":
                raise ClientLeft
            if event.get("more_body", False):
                if declared is not None and declared >= SMALLEST_BYTES:
                    return await _fill(receive, event, buffer_pool.lease(declared))
                charged = None if declared is not None else (charge, memory_factor)
                return await _join(receive, event, max_bytes, charged)
    except TimeoutError:
        raise TimedOut from None
    body: bytes = event.get("body", b"")
    if len(body) > max_bytes:
        raise TooLarge("the body, in bytes,", max_bytes, "more")
    return body


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


def server_timing(completed: Completed[Any] | None, backend: str) -> Headers:
    """Return the header with the times of a run in milliseconds; none where there was no run."""
    if completed is None:
        return []
    times = (
        f"queue;dur={completed.queue_s * 1e3:.3f}, copy;dur={completed.copy_s * 1e3:.3f}, "
        f"compute;dur={completed.compute_s * 1e3:.3f}"
    )
    if backend:
        times += f', backend;desc="{backend}"'
    return [(b"server-timing", times.encode())]


async def send(send: Send, status: int, headers: Headers, parts: list[Buffer]) -> None:
    """Send an answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if sum(map(len, parts)) <= JOINED_BYTES:
        await send({"type": "http.response.body", "body": b"".join(parts)})
        return
    *chunks, last = _chunks(parts)
    for chunk in chunks:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": last})


def _chunks(parts: list[Buffer]) -> Iterator[Buffer]:
    for part in parts:
        if len(part) <= CHUNK_BYTES:
            yield part
            continue
        view = memoryview(part)
        for start in range(0, len(view), CHUNK_BYTES):
            yield view[start : start + CHUNK_BYTES]


async def _join(
    receive: Receive, event: Event, max_bytes: int, charged: tuple[Charge, int] | None
) -> bytes:
    """Return a body of several events; `charged` where its length was not declared."""
    parts: list[bytes] = []
    num_bytes = 0
    while True:
        part = event.get("body", b"")
        parts.append(part)
        num_bytes += len(part)
        if num_bytes > max_bytes:
            raise TooLarge("the body, in bytes,", max_bytes, "more")
        if charged is not None:
            charge, memory_factor = charged
            charge.add(len(part) * memory_factor)
        if not event.get("more_body", False):
            return b"".join(parts)
        event = await _next(receive)


async def _fill(receive: Receive, event: Event, body: memoryview) -> memoryview:
    """Write a body of several events into memory of its declared length."""
    filled = 0
    while True:
        part = event.get("body", b"")
        if filled + len(part) > len(body):
            raise BadMessage(f"Content-Length says {len(body)} bytes, got more")
        body[filled : filled + len(part)] = part
        filled += len(part)
        if not event.get("more_body", False):
            break
        event = await _next(receive)
    if filled < len(body):
        raise BadMessage(f"Content-Length says {len(body)} bytes, got {filled}")
    return body


async def _next(receive: Receive) -> Event:
    event = await receive()
    if event["type"] == "http.disconnect":
        raise ClientLeft
    return event
