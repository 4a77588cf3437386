"""Around every call: its id, the status of its failure, one line of log and its metrics."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from grpc import (
    RpcMethodHandler,
    StatusCode,
    stream_stream_rpc_method_handler,
    unary_stream_rpc_method_handler,
    unary_unary_rpc_method_handler,
)
from grpc.aio import ServicerContext

from service.asgi import io
from service.errors import ShuttingDown
from service.observability.request_log import RequestLog
from service.oip.grpc.errors import status_of

Unary = Callable[[bytes, ServicerContext], Awaitable[bytes]]
"""Answers a serialized request by a serialized response. It raises what it refuses, and does not
abort; where the client leaves, or its deadline passes, it is cancelled."""

Stream = Callable[[Any, ServicerContext], AsyncIterator[bytes]]
"""The same for streams of responses, to one request or to an iterator of them."""

_READ = frozenset(("x-request-id", "traceparent"))


class Calls:
    """Makes handlers of what answers, and knows how many calls there are."""

    def __init__(self, request_log: RequestLog) -> None:
        self._request_log = request_log
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False

    def refuse(self) -> None:
        """Answer calls that come from now on with `UNAVAILABLE`: nothing was done for them."""
        self._refusing = True

    async def finished(self) -> None:
        """Return when there is no call whose status is not sent."""
        await self._idle.wait()

    def unary(self, path: str, answer: Unary) -> RpcMethodHandler:
        """Return the handler of one request and one response."""

        async def handle(request: bytes, context: ServicerContext) -> bytes:
            call = self._begin(path, context)
            try:
                self._check_open()
                return await answer(request, context)
            except Exception as failure:
                await call.abort(failure)
                raise  # never: an abort raises
            except asyncio.CancelledError:
                call.leave()
                raise

        return unary_unary_rpc_method_handler(handle)

    def watch(self, path: str, answer: Stream) -> RpcMethodHandler:
        """Return the handler of one request and any number of responses."""
        return unary_stream_rpc_method_handler(self._stream(path, answer))

    def stream(self, path: str, answer: Stream) -> RpcMethodHandler:
        """Return the handler of any number of requests and responses."""
        return stream_stream_rpc_method_handler(self._stream(path, answer))

    def _stream(self, path: str, answer: Stream) -> Stream:
        async def handle(requests: Any, context: ServicerContext) -> AsyncIterator[bytes]:
            call = self._begin(path, context)
            try:
                self._check_open()
                async for response in answer(requests, context):
                    yield response
            except Exception as failure:
                await call.abort(failure)
            except (asyncio.CancelledError, GeneratorExit):
                call.leave()
                raise

        return handle

    def _check_open(self) -> None:
        if self._refusing:
            raise ShuttingDown

    def _begin(self, path: str, context: ServicerContext) -> "_Call":
        call = _Call(path, context)
        self._running += 1
        self._idle.clear()

        def end(_: ServicerContext) -> None:
            self._running -= 1
            if not self._running:
                self._idle.set()
            call.keep(self._request_log)

        context.add_done_callback(end)  # called when the status is sent
        return call


class _Call:
    """One call, from its head to its status."""

    def __init__(self, path: str, context: ServicerContext) -> None:
        self._begun = time.perf_counter()
        self._path = path
        self._context = context
        self._status = StatusCode.OK
        given = context.invocation_metadata() or ()
        self._headers = {n.encode(): v.encode() for n, v in given if n in _READ}
        self._id = io.request_id(self._headers) or secrets.token_hex(8)
        context.set_trailing_metadata((("x-request-id", self._id),))

    async def abort(self, failure: Exception) -> None:
        """End the call with the status of a failure."""
        self._status, text = status_of(failure)
        await self._context.abort(self._status, text)

    def leave(self) -> None:
        """Note that nobody waits for the answer any more."""
        left_s = self._context.time_remaining()
        late = left_s is not None and left_s <= 0
        self._status = StatusCode.DEADLINE_EXCEEDED if late else StatusCode.CANCELLED

    def keep(self, request_log: RequestLog) -> None:
        """Write down what became of it."""
        request_log.keep(
            request_id=self._id,
            method="gRPC",
            path=self._path,
            route=self._path,
            status=self._status.name,
            begun=self._begun,
            headers=self._headers,
        )
