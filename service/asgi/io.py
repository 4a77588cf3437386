"""Read the headers of HTTP requests, and send answers, by the messages of ASGI."""

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

from service.batching.run import Completed
from service.errors import BadHeader, printable
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

TENANT = "rope.tenant"
"""Key of a scope: the tenant of a request, where the service has keys."""

LOG_FIELDS = "rope.log_fields"
"""Key of a scope: a dict with further fields of the log line, which are written if the request
fails."""

TIMING = b"queue;dur=%.3f%b"
"""Value of the header Server-Timing: milliseconds in the queue, and the result of `render_run`."""

JOINED_BYTES = 64 * 2**10
"""The parts of a shorter answer are joined: that costs less than sending them one by one."""

MAX_WARNINGS, MAX_WARNING = 8, 256
"""Largest number of warnings in a header, and of the characters of one."""

CHUNK_BYTES = 256 * 2**10
"""A large answer is sent in chunks of this size, so that a slow client holds it back."""


def timeout_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Return the timeout of the client in seconds; None: the request has none.

    Raises:
        BadHeader: the time is not a whole number of milliseconds, at least 1.
    """
    value = headers.get(b"x-request-timeout-ms")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 12 or not int(value):
        raise BadHeader("X-Request-Timeout-Ms must be whole milliseconds, of 1 to 12 digits, not 0")
    return int(value) / 1e3


def authorization(scope: Scope) -> list[bytes]:
    """Return the values of all Authorization headers of a request."""
    return [value for name, value in scope["headers"] if name == b"authorization"]


def server_timing(completed: Completed[Any] | None, backend: str) -> Headers:
    """Return the header with the times of a run in milliseconds; none where there was no run."""
    if completed is None:
        return []
    run = render_run(completed.copy_s, completed.compute_s, backend)
    return [(b"server-timing", TIMING % (completed.queue_s * 1e3, run))]


@lru_cache(maxsize=16)
def render_run(copy_s: float, compute_s: float, backend: str) -> bytes:
    """Return the part of TIMING that all calls of a run share."""
    times = f", copy;dur={copy_s * 1e3:.3f}, compute;dur={compute_s * 1e3:.3f}"
    return (times + f', backend;desc="{backend}"' if backend else times).encode()


def warning_header(texts: Sequence[str]) -> tuple[bytes, bytes]:
    """Return a header with the first warnings of an answer as a JSON list.

    Tools such as curl can show headers, but not what a binary body contains.
    """
    shown = [printable(text, MAX_WARNING) for text in texts[:MAX_WARNINGS]]
    return b"x-rope-warnings", json.dumps(shown).encode()


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
