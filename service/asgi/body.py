"""Receive the bodies of HTTP requests: charged, limited, and until the deadline."""

import asyncio
import time
from collections.abc import Mapping

from service.asgi.io import Receive, content_length
from service.buffer_pool import SMALLEST_BYTES
from service.errors import BadMessage, ClientLeft, TimedOut, TooLarge
from service.inference.handler import InferenceHandler, RequestContext
from service.wire import Buffer


async def read_body(
    handler: InferenceHandler,
    context: RequestContext,
    receive: Receive,
    headers: Mapping[bytes, bytes],
    memory_factor: int,
) -> Buffer:
    """Return the body of a request. A large body of declared length lies in reused memory.

    The memory of the body is charged before the body is received where its length is declared.

    Args:
        handler: has the limits and the memory.
        context: of the request.
        receive: of ASGI.
        headers: of the request.
        memory_factor: bytes of memory for each byte of the body, when it is decoded.

    Raises:
        TooLarge: the body is over the limit.
        Overloaded: there is too little memory for it now.
        BadMessage: the body has another length than declared.
        ClientLeft: the client disconnected before the end of the body.
        TimedOut: the deadline has passed.
    """
    declared, max_bytes = content_length(headers), handler.max_bytes(memory_factor)
    if declared is not None and declared > max_bytes:
        raise TooLarge("the body, in bytes,", max_bytes, f"{declared:,}")
    context.charge.add((declared or 0) * memory_factor)
    parts: list[bytes] = []
    num_bytes = 0
    try:
        async with asyncio.timeout(context.deadline - time.monotonic()):
            while True:
                part, more = await _receive(receive)
                if more and declared is not None and declared >= SMALLEST_BYTES:
                    return await _fill(receive, part, handler.buffer_pool.lease(declared))
                num_bytes += len(part)
                if num_bytes > max_bytes:
                    raise TooLarge("the body, in bytes,", max_bytes, "more")
                if declared is None and (more or parts):
                    context.charge.add(len(part) * memory_factor)
                parts.append(part)
                if not more:
                    return b"".join(parts)
    except TimeoutError:
        raise TimedOut from None


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _fill(receive: Receive, part: bytes, body: memoryview) -> memoryview:
    """Receive a body, of which `part` is the first, into memory of its declared length."""
    filled, more = 0, True
    while True:
        end = filled + len(part)
        if end > len(body):
            raise BadMessage(f"Content-Length says {len(body)} bytes, got more")
        body[filled:end] = part
        filled = end
        if not more:
            break
        part, more = await _receive(receive)
    if filled < len(body):
        raise BadMessage(f"Content-Length says {len(body)} bytes, got {filled}")
    return body


async def _receive(receive: Receive) -> tuple[bytes, bool]:
    """Return the next part of a body, and whether there are more."""
    event = await receive()
    if event["type"] == "http.disconnect":
        raise ClientLeft
    return event.get("body", b""), event.get("more_body", False)
