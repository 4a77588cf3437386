"""One RPC on the core of grpcio: its metadata, its messages, its status and its end."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from grpc import StatusCode
from grpc._cython import cygrpc

from service.access.tenant import ANONYMOUS, Tenant

_FOREVER_S = 2.0**62
"""An RPC without a deadline has a deadline in the core that is later than this time."""

_NO_FLAGS = 0
_RECEIVE_CLOSE = cygrpc.ReceiveCloseOnServerOperation
_RECEIVE_MESSAGE = cygrpc.ReceiveMessageOperation
_CODES = {code: code.value[0] for code in StatusCode}
UNREAD = "the client does not read the response"

SMALL_BYTES = 4096
"""Responses up to this size may wait for a client that does not read: they hold little memory."""


class SendTimeout(NamedTuple):
    """Longest time that a client may take to read a response."""

    grace_s: float
    """In addition to the time that `min_rate` allows."""
    min_rate: float
    """Bytes per second."""
    longest_s: float

    def seconds(self, num_bytes: int) -> float:
        """Return the timeout of a response."""
        return min(self.grace_s + num_bytes / self.min_rate, self.longest_s)


class Rpc:
    """One RPC. All methods are for the event loop's thread, except those that `CoreServer` calls.

    Attributes:
        metadata: what the client sent: pairs of name and value.
        tenant: tenant that sent the RPC; `ANONYMOUS` before the RPC is authenticated.
        trailing_metadata: what is sent with the status.
        log_fields: further fields of the log line, which are written if the RPC fails.
        on_cancel: called once, when the client leaves or the deadline passes before the answer.
        is_stream: whether the client may send any number of messages.
        receiving_since: time of `time.monotonic` at which the RPC began to wait for a message;
            None while the RPC does not wait.
    """

    __slots__ = (
        "_call",
        "_deadline",
        "_has_sent_metadata",
        "_is_refused",
        "_on_end",
        "_send_timeout",
        "is_over",
        "is_stream",
        "log_fields",
        "metadata",
        "on_cancel",
        "receiving_since",
        "status",
        "tenant",
        "trailing_metadata",
    )

    def __init__(self, event: Any, is_stream: bool, send_timeout: SendTimeout) -> None:
        self._call = event.call
        self._send_timeout = send_timeout
        deadline: float = event.call_details.deadline  # by the clock of the wall
        self._deadline: float | None = None
        if deadline <= _FOREVER_S:
            self._deadline = time.monotonic() + deadline - time.time()
        self._has_sent_metadata = False
        self._is_refused = False
        self._on_end: list[Callable[[], object]] = []
        self.metadata: Sequence[tuple[str, str | bytes]] = event.invocation_metadata
        self.tenant: Tenant = ANONYMOUS
        self.trailing_metadata: tuple[tuple[str, str], ...] = ()
        self.log_fields: dict[str, object] = {}
        self.on_cancel: Callable[[], object] | None = None
        self.is_stream = is_stream
        self.receiving_since: float | None = None
        self.is_over = False
        """Whether the status is sent, or the RPC was cancelled before."""
        self.status: StatusCode | None = None
        """Status of the answer; None before it."""

    def authorization(self) -> list[bytes]:
        """Return the values of all metadata `authorization`."""
        return [
            value.encode() if isinstance(value, str) else value
            for name, value in self.metadata
            if name == "authorization"
        ]

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline, None if there is no deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call a function when the status is sent, or the RPC is cancelled before."""
        self._on_end.append(callback)

    async def requests(self) -> AsyncIterator[bytes]:
        """Yield the client's messages."""
        while (message := await self._read()) is not None:
            yield message

    async def write(self, message: bytes) -> None:
        """Send one of several responses."""
        timer = self._start_timer(message)
        try:
            event = await self._run(
                *self._initial_metadata(), cygrpc.SendMessageOperation(message, _NO_FLAGS)
            )
        finally:
            timer.cancel()
        if not event.success:
            raise asyncio.CancelledError  # the client has left, and `on_cancel` is called as well

    def finish(
        self, message: bytes | None, status: StatusCode, details: str = "", code: str = ""
    ) -> None:
        """Send the last response, if any, and the status. Does nothing if the RPC is over.

        Args:
            message: the last response.
            status: of the RPC.
            details: text of a failure.
            code: of a failure, for the log.
        """
        if self.is_over or self.status is not None:
            return
        self.status = status
        if details:
            self.log_fields |= {"code": code, "detail": details}
        response = () if message is None else (cygrpc.SendMessageOperation(message, _NO_FLAGS),)
        if message is not None and len(message) > SMALL_BYTES:
            self.add_done_callback(self._start_timer(message).cancel)
        end = cygrpc.SendStatusFromServerOperation(
            self.trailing_metadata, _CODES[status], details, _NO_FLAGS
        )
        self._call.start_server_batch((*self._initial_metadata(), *response, end), self._end)

    def refuse(self, status: StatusCode, details: str) -> None:
        """Send the status at once, and free the received part of the message.

        Called on the thread that watches RPCs. Call `finish` after it.
        """
        self._is_refused = True  # first: `_on_close` must not treat the end as a cancellation
        self._call.cancel(_CODES[status], details)

    def receive_close(self) -> None:
        """Call `on_cancel` if the client leaves, or the deadline passes, before the answer."""
        self._call.start_server_batch((_RECEIVE_CLOSE(_NO_FLAGS),), self._on_close)

    def receive(self, callback: Callable[[Any], None]) -> None:
        """Call a function with the event of the next message."""
        self.receiving_since = time.monotonic()
        self._call.start_server_batch((_RECEIVE_MESSAGE(_NO_FLAGS),), callback)

    def _start_timer(self, message: bytes) -> asyncio.TimerHandle:
        """Cancel the RPC if its client does not read a response in time."""
        seconds = self._send_timeout.seconds(len(message))
        return asyncio.get_running_loop().call_later(seconds, self._cancel_unread)

    def _cancel_unread(self) -> None:
        if self.status is not None:  # else the end of the call sets the status
            self.status = StatusCode.CANCELLED
        self.log_fields |= {"code": "client_left", "detail": UNREAD}
        self._call.cancel(_CODES[StatusCode.CANCELLED], UNREAD)

    async def _read(self) -> bytes | None:
        self.receiving_since = time.monotonic()
        try:
            event = await self._run(_RECEIVE_MESSAGE(_NO_FLAGS))
        finally:
            self.receiving_since = None
        message: bytes | None = event.batch_operations[0].message()
        return message

    async def _run(self, *operations: Any) -> Any:
        """Run operations and return their event.

        Raises:
            CancelledError: the RPC is over.
        """
        if self.is_over:
            raise asyncio.CancelledError
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._call.start_server_batch(operations, partial(_set, done))
        return await done

    def _initial_metadata(self) -> tuple[Any, ...]:
        """Return the operation that must be the first one that sends; nothing from then on."""
        if self._has_sent_metadata:
            return ()
        self._has_sent_metadata = True
        return (cygrpc.SendInitialMetadataOperation((), _NO_FLAGS),)

    def _on_close(self, event: Any) -> None:
        is_cancelled = event.batch_operations[0].cancelled() and not self._is_refused
        if is_cancelled and self.status is None:
            self.is_over = True  # first, so that nothing is sent any more
            if self.on_cancel is not None:
                self.on_cancel()
            self._end(event)

    def _end(self, _: Any) -> None:
        self.is_over = True
        self.on_cancel = None
        callbacks, self._on_end = self._on_end, []
        for callback in callbacks:
            callback()


def _set(done: asyncio.Future[Any], event: Any) -> None:
    if not done.done():
        done.set_result(event)
