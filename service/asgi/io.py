"""Read the headers of HTTP requests, and send answers, by the messages of ASGI."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from typing import Any

from service.batching.run import Completed
from service.errors import BadHeader
from service.wire import Buffer

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

HEADERS_BY_NAME = "rope.headers"
"""Key of a scope: its headers as a dict."""

REFUSAL = "rope.refusal"
"""Key of a scope: the error that answers a request which the server does not accept."""

JOINED_BYTES = 64 * 2**10
"""The parts of a shorter answer are joined: that costs less than sending them one by one."""

CHUNK_BYTES = 256 * 2**10
"""A large answer is sent in chunks of this size, so that a slow client holds it back."""


def timeout_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Return how long the client waits, None where it does not say so.

    Raises:
        BadHeader: the time is not a whole number of milliseconds, at least 1.
    """
    value = headers.get(b"x-request-timeout-ms")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12 or not int(value):
        raise BadHeader("X-Request-Timeout-Ms must be whole milliseconds, of 1 to 12 digits, not 0")
    return int(value) / 1e3


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
