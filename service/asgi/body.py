"""Receive the bodies of HTTP requests: charged, limited, and until the deadline."""

import asyncio
import time
from collections.abc import Mapping

from service.access.tenant import ANONYMOUS
from service.asgi.io import Receive
from service.errors import BadMessage, ClientLeft, TimedOut
from service.inference.handler import InferenceHandler, RequestContext
from service.memory_blocks import MIN_BUFFER_BYTES
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
    value = headers.get(b"content-length")
    declared, max_bytes = None if value is None else int(value), handler.max_bytes(memory_factor)
    what = "a body in JSON, in bytes," if memory_factor > 1 else "the body, in bytes,"
    if declared is not None and declared > max_bytes:
        raise handler.too_large(what, memory_factor, f"{declared:,}")
    context.charge.add((declared or 0) * memory_factor)
    if declared is not None and context.tenant is not ANONYMOUS:
        handler.gate.quotas.add_bytes(context.tenant, declared)
    parts: list[bytes] = []
    buffer: memoryview | None = None
    num_bytes, more = 0, True
    try:
        async with asyncio.timeout(context.deadline - time.monotonic()):
            while more:
                event = await receive()
                if event["type"] == "http.disconnect":
                    raise ClientLeft
                part, more = event.get("body", b""), event.get("more_body", False)
                start, num_bytes = num_bytes, num_bytes + len(part)
                if (
                    more
                    and buffer is None
                    and declared is not None
                    and declared >= MIN_BUFFER_BYTES
                ):
                    buffer = handler.buffer_pool.lease(declared)
                if buffer is not None:
                    if num_bytes > len(buffer):
                        raise BadMessage(f"Content-Length says {declared} bytes, got more")
                    buffer[start:num_bytes] = part
                    continue
                if num_bytes > max_bytes:
                    raise handler.too_large(what, memory_factor, "more")
                if declared is None and (more or parts):
                    context.charge.add(len(part) * memory_factor)
                parts.append(part)
    except TimeoutError:
        raise TimedOut from None
    finally:
        if declared is None and context.log_fields is not None:
            context.log_fields["bytes"] = num_bytes
        if declared is None and context.tenant is not ANONYMOUS:
            handler.gate.quotas.add_bytes(context.tenant, num_bytes)
    if buffer is None:
        return b"".join(parts)
    if num_bytes < len(buffer):
        raise BadMessage(f"Content-Length says {declared} bytes, got {num_bytes}")
    return buffer


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected; the body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
