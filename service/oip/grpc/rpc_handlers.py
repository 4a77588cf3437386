"""Wrap each method: id, status of a failure, a line of log, metrics, and the count of RPCs."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
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
    """Makes gRPC's handlers of methods, and counts the RPCs in progress."""

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

    def unary_unary(self, path: str, method: Unary) -> grpc.RpcMethodHandler:
        """Return the handler of a method with one request and one response."""

        async def handle(request: bytes, context: ServicerContext) -> bytes:
            async with self._begin(path, context):
                self._check_open()
                return await method(request, context)

        return grpc.unary_unary_rpc_method_handler(handle)

    def unary_stream(self, path: str, method: Stream) -> grpc.RpcMethodHandler:
        """Return the handler of a method with one request and a stream of responses."""
        return grpc.unary_stream_rpc_method_handler(self._stream(path, method))

    def stream_stream(self, path: str, method: Stream) -> grpc.RpcMethodHandler:
        """Return the handler of a method with streams of requests and responses."""
        return grpc.stream_stream_rpc_method_handler(self._stream(path, method))

    def _stream(self, path: str, method: Stream) -> Stream:
        async def handle(requests: Any, context: ServicerContext) -> AsyncIterator[bytes]:
            async with self._begin(path, context):
                self._check_open()
                async for response in method(requests, context):
                    yield response

        return handle

    def _check_open(self) -> None:
        if self._refusing:
            raise ShuttingDown

    def _begin(self, path: str, context: ServicerContext) -> "_Rpc":
        rpc = _Rpc(path, context)
        self._num_running += 1
        self._idle.clear()

        def end(_: ServicerContext) -> None:
            self._num_running -= 1
            if not self._num_running:
                self._idle.set()
            rpc.log(self._request_log)

        context.add_done_callback(end)  # called when the status is sent
        return rpc


class _Rpc:
    """One RPC, from its metadata to its status."""

    def __init__(self, path: str, context: ServicerContext) -> None:
        self._started = time.perf_counter()
        self._path = path
        self._context = context
        self._status: grpc.StatusCode | None = None
        metadata = context.invocation_metadata() or ()
        self._headers = {k.encode(): v.encode() for k, v in metadata if k in _LOGGED_METADATA}
        self._id = ids.request_id(self._headers)
        context.set_trailing_metadata((("x-request-id", self._id),))

    async def __aenter__(self) -> None:
        """Begin; a failure that leaves the block ends the RPC with its status."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if failure is None:
            self._status = grpc.StatusCode.OK
        elif isinstance(failure, Exception):
            self._status, text = status_of(failure)
            await self._context.abort(self._status, text)

    def log(self, request_log: RequestLog) -> None:
        """Record the RPC in the log and the metrics, when it is done.

        An RPC that is done before its method has ended is cancelled: its deadline has passed, or
        its client has left. gRPC says so before it cancels the method, or after.
        """
        status = self._status
        if status is None:
            left_s = self._context.time_remaining()
            code = grpc.StatusCode
            status = code.CANCELLED if left_s is None or left_s > 0 else code.DEADLINE_EXCEEDED
        request_log.record(
            request_id=self._id,
            method="gRPC",
            path=self._path,
            route=self._path,
            status=status.name,
            started=self._started,
            headers=self._headers,
        )
