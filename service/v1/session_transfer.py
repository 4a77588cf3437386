"""Exports and imports of sessions over HTTP: bodies of any length are streamed."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from service.asgi import io
from service.asgi.body import disconnected
from service.asgi.io import Event, Headers, Receive, Send
from service.errors import BadMessage, ClientLeft, TimedOut
from service.inference.handler import InferenceHandler, RequestContext
from service.sessions.handler import CreateOptions, SessionHandler
from service.sessions.lifetime.idempotency import begin_digest
from service.sessions.paths import SESSIONS
from service.sessions.running.answer import SessionAnswer
from service.sessions.transfer.exporting import SessionExport
from service.sessions.transfer.query import read_export_query, read_import_query
from service.sessions.transfer.threads import run_to_end
from service.wire import safetensors_codec
from service.wire.safetensors_codec import MAX_HEADER_BYTES, MAX_INLINE_HEADER_BYTES, Header

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

MARK = b"format_version"
"""A header without this text is not that of an import."""

MAX_TENSORS = 2**18
"""Most tensors of an import."""

BLOCK_BYTES = 2**20
"""Bytes that are collected before a thread writes them into pages."""

LONGEST_IMPORT_S = 86_400
"""Seconds that an import without a timeout may take; a body has a least rate as well."""

NUMBERS_FACTOR = 5
"""Bytes of memory for each byte of positions and segments."""


async def send_export(
    handler: SessionHandler,
    session_id: str,
    query: bytes,
    context: RequestContext,
    receive: Receive,
    send: Send,
) -> None:
    """Answer an export; it ends when the client disconnects.

    Raises:
        SessionError, ServiceError, RopeError: there is no answer yet.
    """
    export = await handler.export(session_id, read_export_query(query), context)
    try:
        headers: Headers = [
            (b"content-type", safetensors_codec.media_type.encode()),
            (b"content-length", b"%d" % export.num_bytes),
            (b"x-session-expires-in", b"%d" % int(export.expires_in_s)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send_blocks(export, handler.services.inference, receive, send)
    finally:
        export.close()


async def _send_blocks(
    export: SessionExport, inference: InferenceHandler, receive: Receive, send: Send
) -> None:
    blocks: Iterator[bytes] = export.blocks()
    left = asyncio.create_task(disconnected(receive))
    sent = 0
    try:
        while sent < export.num_bytes:
            block = await run_to_end(inference.io_executor, partial(next, blocks))
            view = memoryview(block)
            for start in range(0, len(view), io.CHUNK_BYTES):
                if left.done():
                    raise ClientLeft
                part = view[start : start + io.CHUNK_BYTES]
                sent += len(part)
                more = sent < export.num_bytes
                await send({"type": "http.response.body", "body": part, "more_body": more})
    finally:
        left.cancel()
        with suppress(asyncio.CancelledError):
            await left


@dataclass(slots=True)
class BodyStart:
    """The first events of a body, which were received to read its header."""

    events: list[Event]
    received: bytearray
    """The bytes of the events."""
    has_more: bool
    """Whether the body goes on."""
    receive_rest: Receive

    @property
    def header_text(self) -> bytes | None:
        """The header, if all of it was received."""
        size = int.from_bytes(self.received[:8], "little")
        if len(self.received) < 8 or size > MAX_HEADER_BYTES or len(self.received) < 8 + size:
            return None
        return bytes(self.received[8 : 8 + size])

    async def receive(self) -> Event:
        """Return the next event, those that were received before included."""
        if self.events:
            return self.events.pop(0)
        return await self.receive_rest()


async def receive_start(context: RequestContext, receive: Receive) -> BodyStart:
    """Receive a body of safetensors until its header is there.

    Raises:
        ClientLeft, TimedOut: before that.
    """
    start = BodyStart([], bytearray(), True, receive)
    try:
        async with asyncio.timeout(context.deadline - time.monotonic()):
            while start.has_more and not _is_enough(start.received):
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientLeft
                body = event.get("body", b"")
                context.charge.add(2 * len(body))
                start.events.append(event)
                start.received += body
                start.has_more = event.get("more_body", False)
    except TimeoutError:
        raise TimedOut from None
    return start


def _is_enough(received: bytearray) -> bool:
    size = int.from_bytes(received[:8], "little")
    return len(received) >= 8 and (size > MAX_HEADER_BYTES or len(received) >= 8 + size)


async def read_import_header(
    start: BodyStart, inference: InferenceHandler, context: RequestContext
) -> Header | None:
    """Return the header of an import; None if the body is that of another request.

    Raises:
        BadMessage, BadTensor: it is no header of safetensors.
    """
    text = start.header_text
    if text is None or MARK not in text:
        return None
    if len(text) > MAX_INLINE_HEADER_BYTES:
        header = await inference.to_thread(
            context.deadline, safetensors_codec.parse_header, text, MAX_TENSORS
        )
    else:
        header = safetensors_codec.parse_header(text, MAX_TENSORS)
    return header if "format_version" in header.params.values else None


async def receive_import(
    handler: SessionHandler,
    header: Header,
    start: BodyStart,
    headers: Mapping[bytes, bytes],
    query: bytes,
    context: RequestContext,
) -> SessionAnswer:
    """Fill a new session with a body as it arrives, and return its document.

    The session exists once all bytes have been received; after an error there is none.

    Raises:
        SessionError, ServiceError, RopeError: there is no new session.
    """
    inference, registry = handler.services.inference, handler.services.registry
    options = read_import_query(query)
    if io.timeout_s(headers) is None:
        context = context._replace(deadline=time.monotonic() + LONGEST_IMPORT_S)
    body = await handler.begin_import(header, context)
    text = start.header_text
    assert text is not None, "the header was read"
    num_bytes = 8 + len(text) + body.manifest.num_bytes
    _check_length(headers, num_bytes)
    if body.manifest.numbers_bytes > inference.max_bytes(1):
        got = f"{body.manifest.numbers_bytes:,}"
        raise inference.too_large("positions and segments, in bytes,", 1, got)
    context.charge.add(NUMBERS_FACTOR * body.manifest.numbers_bytes + 3 * BLOCK_BYTES)
    value = headers.get(b"idempotency-key")
    key = None if value is None else value.decode("latin-1")
    path = SESSIONS + (f"?{query.decode('latin-1')}" if query else "")
    digest = begin_digest(path)
    digest.update(start.received)
    parts = _Parts(start, len(text) + 8, context.deadline)
    cache = None
    try:
        block = memoryview(b"")
        while not body.has_numbers and (data := await parts.next(digest)):
            block = body.take_numbers(memoryview(data))
        if not body.has_numbers:
            body.finish()
        cache = await handler.allocate_import(body, options, context, key)
        pending = bytearray(block)
        while True:
            while len(pending) < BLOCK_BYTES and (data := await parts.next(digest)):
                pending += data
            if not pending:
                break
            await run_to_end(inference.io_executor, partial(body.write, bytes(pending)))
            pending = bytearray()
        body.finish()
        repeat = CreateOptions() if key is None else CreateOptions(key, digest.digest())
        return await handler.end_import(body, cache, options, context, repeat)
    finally:
        if cache is not None:
            registry.drop_import(context.tenant, cache)


def _check_length(headers: Mapping[bytes, bytes], num_bytes: int) -> None:
    """Raise BadMessage if the body has another length than its header describes."""
    value = headers.get(b"content-length")
    if value is not None and int(value) != num_bytes:
        raise BadMessage(f"the header describes a body of {num_bytes} bytes, got {int(value)}")


class _Parts:
    """The bytes of a body behind its header, as they arrive."""

    def __init__(self, start: BodyStart, num_header: int, deadline: float) -> None:
        self._first = bytes(start.received[num_header:])
        self._start = start
        self._deadline = deadline

    async def next(self, digest: "Hash") -> bytes:
        """Return the next bytes; empty at the end."""
        if self._first:
            first, self._first = self._first, b""
            return first
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                while self._start.has_more:
                    event = await self._start.receive_rest()
                    if event["type"] == "http.disconnect":
                        raise ClientLeft
                    self._start.has_more = event.get("more_body", False)
                    if body := event.get("body", b""):
                        digest.update(body)
                        return bytes(body)
        except TimeoutError:
            raise TimedOut from None
        return b""
