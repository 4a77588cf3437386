"""Wrap each method: id, status of a failure, a line of log, metrics, and the count of RPCs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
from grpc.aio import ServicerContext

from service.errors import ShuttingDown
from service.observability import ids
from service.observability.request_log import RequestLog
from service.oip.grpc.errors import status_of

Unary = Callable[[bytes, ServicerContext], Awaitable[bytes]]
"""Answers a serialized request with a serialized response.

It raises a failure and does not abort. It is cancelled when the client leaves, and at its deadline.
"""

Stream = Callable[[Any, ServicerContext], AsyncIterator[bytes]]
"""The same for streams of responses, to one request or to an iterator of requests."""

_LOGGED_METADATA = frozenset(("x-request-id", "traceparent"))


class RpcHandlers:
    """Wraps methods, and counts the RPCs in progress."""

    def __init__(self, request_log: RequestLog) -> None:
        self._request_log = request_log
        self._num_running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False

    def refuse(self) -> None:
        """Answer RPCs that begin from now on with `UNAVAILABLE`: nothing was done for them."""
        self._refusing = True

    async def wait_until_idle(self) -> None:
        """Return when the status of every RPC has been sent."""
        await self._idle.wait()

    def unary(self, path: str, method: Unary) -> Unary:
        """Return the method with all that surrounds an RPC."""

        async def handle(request: bytes, context: ServicerContext) -> bytes:
            async with self._rpc(path, context):
                return await method(request, context)

        return handle

    def stream(self, path: str, method: Stream) -> Stream:
        """Return the same for a stream of responses."""

        async def handle(requests: Any, context: ServicerContext) -> AsyncIterator[bytes]:
            async with self._rpc(path, context):
                async for response in method(requests, context):
                    yield response

        return handle

    @asynccontextmanager
    async def _rpc(self, path: str, context: ServicerContext) -> AsyncIterator[None]:
        """Surround an RPC; a failure in the block ends the RPC with its status.

        When the status is sent, the RPC is no longer counted, and the log and the metrics get it.
        """
        started = time.perf_counter()
        status: grpc.StatusCode | None = None
        metadata = context.invocation_metadata() or ()
        headers = {k.encode(): v.encode() for k, v in metadata if k in _LOGGED_METADATA}
        request_id = ids.request_id(headers)
        context.set_trailing_metadata((("x-request-id", request_id),))
        self._num_running += 1
        self._idle.clear()

        def end(_: ServicerContext) -> None:
            self._num_running -= 1
            if not self._num_running:
                self._idle.set()
            self._request_log.record(
                request_id=request_id,
                method="gRPC",
                path=path,
                route=path,
                status=(status or _cancelled(context)).name,
                started=started,
                headers=headers,
            )

        context.add_done_callback(end)
        try:
            self._check_open()
            yield
            status = grpc.StatusCode.OK
        except Exception as failure:
            status, text = status_of(failure)
            await context.abort(status, text)

    def _check_open(self) -> None:
        if self._refusing:
            raise ShuttingDown


def _cancelled(context: ServicerContext) -> grpc.StatusCode:
    """Return the status of an RPC that is done before its method has ended.

    Its deadline has passed, or its client has left. gRPC says so before it cancels the method, or
    after.
    """
    left_s = context.time_remaining()
    code = grpc.StatusCode
    return code.CANCELLED if left_s is None or left_s > 0 else code.DEADLINE_EXCEEDED
