"""Wrap each method: id, status of a failure, a line of log, metrics, and the count of RPCs."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any

from grpc import StatusCode

from service.access.gate import Gate
from service.access.tenant import ANONYMOUS
from service.errors import ServiceError, ShuttingDown
from service.observability import ids
from service.observability.request_log import RequestLog
from service.oip.grpc import core_server
from service.oip.grpc.errors import status_of
from service.oip.grpc.rpc import Rpc
from service.oip.statistics import DEADLINE_TOLERANCE_S

Response = Coroutine[Any, Any, bytes | None]

UnaryMethod = Callable[[bytes, Rpc], Response | None]
"""Answers a serialized request with a serialized response, or raises a failure.

The coroutine is cancelled when the client leaves, and at the deadline. None: the method answers by
`Rpc.finish`."""

StreamMethod = Callable[[AsyncIterator[bytes], Rpc], AsyncGenerator[bytes, None]]
"""As `UnaryMethod`, for streams of requests and responses."""

_LOGGED_METADATA = frozenset(("x-request-id", "traceparent"))


class RpcHandlers:
    """Wraps methods, and counts the RPCs in progress.

    Args:
        request_log: where RPCs are counted and logged.
        gate: authenticates RPCs.
    """

    def __init__(self, request_log: RequestLog, gate: Gate) -> None:
        self._request_log = request_log
        self._gate = gate
        self._num_running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = False

    def refuse(self) -> None:
        """Answer RPCs that begin from now on with `UNAVAILABLE`: nothing was done for them."""
        self._refusing = True

    @property
    def is_idle(self) -> bool:
        """Whether the status of every RPC has been sent."""
        return not self._num_running

    async def wait_until_idle(self) -> None:
        """Return when the status of every RPC has been sent."""
        await self._idle.wait()

    def is_cached(self, rpc: Rpc) -> bool:
        """Return whether the message of an RPC may be received without a call of `authorize`.

        Thread-safe.
        """
        return self._gate.is_cached(rpc.authorization())

    def authorize(self, path: str, rpc: Rpc) -> bool:
        """Return whether the message of an RPC may be received; if not, finish the RPC."""
        try:
            self._gate.authorize_rpc(path, rpc.authorization())
        except ServiceError as failure:
            self._count(path, rpc)
            rpc.finish(None, *status_of(failure))
            return False
        return True

    def unary(self, path: str, method: UnaryMethod) -> core_server.Unary:
        """Return what `CoreServer` calls for a method with one request and one response."""

        def begin(rpc: Rpc, request: bytes | ServiceError) -> None:
            def respond() -> Response | None:
                if isinstance(request, ServiceError):
                    raise request
                return method(request, rpc)

            num_bytes = None if isinstance(request, ServiceError) else len(request)
            self._begin(path, rpc, respond, num_bytes)

        return begin

    def stream(self, path: str, method: StreamMethod) -> core_server.Stream:
        """Return what `CoreServer` calls for a method with streams."""

        async def respond(rpc: Rpc) -> None:
            async with aclosing(method(self._requests(path, rpc), rpc)) as responses:
                async for response in responses:
                    await rpc.write(response)

        def begin(rpc: Rpc) -> None:
            self._begin(path, rpc, lambda: respond(rpc))

        return begin

    def _begin(
        self,
        path: str,
        rpc: Rpc,
        respond: Callable[[], Response | None],
        num_bytes: int | None = None,
    ) -> None:
        """Answer an RPC with what `respond` returns, or with the status of its failure.

        Args:
            path: of the method.
            rpc: the RPC.
            respond: called once.
            num_bytes: length of its request in bytes; None for a stream, whose requests are counted
                one by one.
        """
        self._count(path, rpc)
        if num_bytes is not None:
            rpc.log_fields["bytes"] = num_bytes
        if self._refusing:
            rpc.finish(None, *status_of(ShuttingDown()))
            return
        try:
            if self._gate.needs_keys:
                rpc.tenant = self._gate.authorize_rpc(path, rpc.authorization())
                if rpc.tenant is not ANONYMOUS and num_bytes is not None:
                    self._take_quota(rpc, num_bytes)
            response = respond()
        except Exception as failure:
            rpc.finish(None, *status_of(failure))
            return
        if response is not None:
            # the task is that of the response itself: one cancelled at once closes it
            task = asyncio.get_running_loop().create_task(response)
            task.add_done_callback(partial(_finish, rpc))
            rpc.on_cancel = task.cancel

    def _take_quota(self, rpc: Rpc, num_bytes: int) -> None:
        """Count an RPC in the quota of its tenant until the RPC ends.

        Raises:
            QuotaExceeded: as `Quotas.begin`.
        """
        quotas = self._gate.quotas
        quotas.begin(rpc.tenant, num_bytes)
        quotas.add_bytes(rpc.tenant, num_bytes)
        rpc.add_done_callback(partial(quotas.end, rpc.tenant))

    async def _requests(self, path: str, rpc: Rpc) -> AsyncIterator[bytes]:
        """Yield the messages of a stream as long as its key is valid.

        Raises:
            Unauthenticated, Forbidden: the key is no longer valid.
        """
        async for message in rpc.requests():
            if self._gate.needs_keys:
                rpc.tenant = self._gate.authorize_rpc(path, rpc.authorization())
            yield message

    def _count(self, path: str, rpc: Rpc) -> None:
        """Count an RPC until its status is sent; then the log and the metrics get the status."""
        started = time.perf_counter()
        headers = {
            name.encode(): value.encode()
            for name, value in rpc.metadata
            if name in _LOGGED_METADATA and isinstance(value, str)
        }
        request_id = ids.request_id(headers)
        rpc.trailing_metadata = (("x-request-id", request_id),)
        self._num_running += 1
        self._idle.clear()

        def end() -> None:
            self._num_running -= 1
            if not self._num_running:
                self._idle.set()
            status = rpc.status or _cancelled(rpc)
            self._request_log.record(
                request_id=request_id,
                method="gRPC",
                path=path,
                route=path,
                status=status.name,
                started=started,
                headers=headers,
                failure=None if status is StatusCode.OK else rpc.log_fields,
            )

        rpc.add_done_callback(end)


def _finish(rpc: Rpc, task: asyncio.Task[bytes | None]) -> None:
    if task.cancelled():
        return
    failure = task.exception()
    if isinstance(failure, Exception):
        rpc.finish(None, *status_of(failure))
    else:
        rpc.finish(task.result(), StatusCode.OK)


def _cancelled(rpc: Rpc) -> StatusCode:
    """Return the status of an RPC that ends before its answer.

    Its deadline has passed, or its client has left.
    """
    left_s = rpc.time_remaining()
    is_early = left_s is None or left_s > DEADLINE_TOLERANCE_S
    rpc.log_fields["code"] = "client_left" if is_early else "timed_out"
    return StatusCode.CANCELLED if is_early else StatusCode.DEADLINE_EXCEEDED
