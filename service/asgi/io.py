"""HTTP's small print: headers read, bodies received and sent, in the terms of ASGI."""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from service.buffer_pool import SMALLEST_BYTES, BufferPool
from service.errors import BadHeader, BadMessage, ClientLeft, TooLarge, UnsupportedMediaType
from service.wire import Buffer

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JOINED_BYTES = 64 * 2**10
"""Up to here, joining the parts of an answer costs less than sending them one by one."""

PIECE_BYTES = 256 * 2**10
"""A large answer is sent in pieces of this size, so that a slow reader holds it back."""


def timeout_s(headers: dict[bytes, bytes], default_s: float, max_s: float) -> float:
    """Return how long the client wants to wait.

    Raises:
        BadHeader: it is not a whole number of milliseconds, at least 1.
    """
    given = headers.get(b"x-request-timeout-ms")
    if given is None:
        return default_s
    if not given.isdigit() or len(given) > 12 or not int(given):
        raise BadHeader("X-Request-Timeout-Ms must be whole milliseconds, of 1 to 12 digits, not 0")
    return min(int(given) / 1e3, max_s)


def check_not_encoded(headers: dict[bytes, bytes]) -> None:
    """Refuse a body that is compressed.

    Raises:
        UnsupportedMediaType: it is.
    """
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise UnsupportedMediaType("Content-Encoding must be absent or identity")


def declared_bytes(headers: dict[bytes, bytes]) -> int | None:
    """Return the length of the body, None where it is not told beforehand."""
    given = headers.get(b"content-length")
    return None if given is None else int(given)


async def read_body(
    receive: Receive,
    declared: int | None,
    max_bytes: int,
    charge: Callable[[int], None],
    buffer_pool: BufferPool,
) -> Buffer:
    """Return the body; a large one of declared length in a slab, without another copy.

    Where no length is declared, `charge` is called for what arrives.

    Raises:
        TooLarge: it is over `max_bytes`.
        ClientLeft: it did not come whole.
    """
    event = await _next(receive)
    whole: bytes = event.get("body", b"")
    if len(whole) > max_bytes:
        raise TooLarge("the body, in bytes,", max_bytes, "more")
    if not event.get("more_body", False):
        return whole
    if declared is not None and declared >= SMALLEST_BYTES:
        return await _fill(receive, event, buffer_pool.lease(declared))
    parts: list[bytes] = []
    received = 0
    while True:
        part = event.get("body", b"")
        parts.append(part)
        received += len(part)
        if received > max_bytes:
            raise TooLarge("the body, in bytes,", max_bytes, "more")
        if declared is None:
            charge(len(part))
        if not event.get("more_body", False):
            return b"".join(parts)
        event = await _next(receive)


async def send(send: Send, status: int, headers: Headers, parts: list[Buffer]) -> None:
    """Send an answer."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if sum(map(len, parts)) <= JOINED_BYTES:
        parts = [b"".join(parts)]
    *pieces, last = _pieces(parts)
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": last})


def _pieces(parts: list[Buffer]) -> Iterator[Buffer]:
    for part in parts:
        if len(part) <= PIECE_BYTES:
            yield part
            continue
        view = memoryview(part)
        for start in range(0, len(view), PIECE_BYTES):
            yield view[start : start + PIECE_BYTES]


async def _fill(receive: Receive, event: Event, body: memoryview) -> memoryview:
    filled = 0
    while True:
        chunk = event.get("body", b"")
        if filled + len(chunk) > len(body):
            raise BadMessage(f"Content-Length says {len(body)} bytes, got more")
        body[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
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
