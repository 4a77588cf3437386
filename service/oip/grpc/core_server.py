"""A server on the core of grpcio: a thread waits for events, and the event loop handles them.

`grpc.aio` makes two tasks for each RPC, and wakes the loop for each of its four events. This server
makes none, and wakes the loop once for all events that wait. Like grpcio's own synchronous server,
it uses the module `grpc._cython.cygrpc`, which grpcio does not document.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, Protocol

from grpc import ServerCredentials, StatusCode
from grpc._cython import cygrpc

from service.errors import ServiceError
from service.oip.grpc.errors import status_of
from service.oip.grpc.receive_monitor import ReceiveMonitor
from service.oip.grpc.rpc import Rpc, SendTimeout

NUM_ACCEPTED = 16
"""RPCs that the core may begin before the thread is back at its queue."""

Unary = Callable[[Rpc, bytes | ServiceError], None]
"""Begins to answer an RPC. The second argument is the request, or the error if the request was not
received. `Rpc.finish` sends the answer."""

Stream = Callable[[Rpc], None]
"""Begins to answer an RPC with any number of requests."""


class RpcAuthorizer(Protocol):
    """Decides whether the message of an RPC is received."""

    def is_cached(self, rpc: Rpc) -> bool:
        """Return whether the key of an RPC is known to be valid. Called on the server's thread."""

    def authorize(self, path: str, rpc: Rpc) -> bool:
        """Return whether an RPC is allowed; if not, finish the RPC. Called on the event loop."""


class CoreServer:
    """Accepts RPCs and calls the function of their method. Its methods are for the event loop.

    Args:
        options: of the core.
        authorizer: called before the message of an RPC is received; None: all RPCs are allowed.
        unary: functions of methods with one request, by path.
        streams: functions of methods with any number of requests, by path.
        monitor: limits memory and time of messages that are being received.
        send_timeout: limits the time of messages that are being sent.
    """

    def __init__(
        self,
        options: Sequence[tuple[str, int]],
        authorizer: RpcAuthorizer | None,
        unary: Mapping[str, Unary],
        streams: Mapping[str, Stream],
        monitor: ReceiveMonitor,
        send_timeout: SendTimeout,
    ) -> None:
        self._authorizer = authorizer
        self._unary = {path.encode(): begin for path, begin in unary.items()}
        self._streams = {path.encode(): begin for path, begin in streams.items()}
        self._monitor = monitor
        self._send_timeout = send_timeout
        self._queue = cygrpc.CompletionQueue()
        self._server = cygrpc.Server(tuple(options), False)
        self._server.register_completion_queue(self._queue)
        self._events: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._is_handling_scheduled = False
        self._has_stopped = asyncio.Event()

    def listen(self, address: str, credentials: ServerCredentials | None = None) -> None:
        """Listen on a port, over TLS if `credentials` are given.

        Raises:
            OSError: the port cannot be opened.
        """
        try:
            arguments = () if credentials is None else (credentials._credentials,)
            port = self._server.add_http2_port(address.encode(), *arguments)
        except RuntimeError as refused:
            raise OSError(str(refused)) from None
        if not port:
            raise OSError(f"{address} cannot be opened")

    def start(self) -> None:
        """Accept RPCs."""
        self._loop = asyncio.get_running_loop()
        self._server.start()
        for _ in range(NUM_ACCEPTED):
            self._accept()
        Thread(target=self._poll, name="grpc", daemon=True).start()
        Thread(target=self._watch, name="grpc receive monitor", daemon=True).start()

    def stop(self) -> None:
        """Refuse new RPCs, and tell clients to open no more on their connections."""
        self._server.shutdown(self._queue, self._stopped)

    def cancel_all(self) -> None:
        """Cancel all RPCs and close all connections, after `stop`."""
        self._server.cancel_all_calls()

    async def wait_until_stopped(self) -> None:
        """Return when all connections are closed, after `stop`."""
        await self._has_stopped.wait()

    def _stopped(self, _: Any) -> None:
        self._has_stopped.set()

    def _accept(self) -> None:
        with suppress(ValueError):  # the server has been stopped
            self._server.request_call(self._queue, self._queue, self._begin)

    def _poll(self) -> None:
        """Handle the events of the queue until the server has stopped.

        The queue is not shut down: an operation begun after a shutdown would end the process.
        """
        while True:
            event = self._queue.poll()
            tag = event.tag
            if tag != self._begin:
                self._forward(tag, event)
            elif event.success:
                self._begin(event)
            if tag == self._stopped:
                self._monitor.stop()
                return
            # both may keep the core from releasing an RPC that is over
            del event, tag

    def _watch(self) -> None:
        """Refuse RPCs whose messages take too much memory or time, until the server has stopped."""
        while self._monitor.wait():
            self._check()

    def _check(self) -> None:
        """Refuse RPCs now. The function ends, so that no variable keeps an RPC that is over."""
        for rpc, finish, failure in self._monitor.check():
            status, details, _ = status_of(failure)
            rpc.refuse(status, details)
            self._forward(finish, failure)

    def _begin(self, event: Any) -> None:
        """Begin an RPC on the thread: the loop is first woken when its request is there."""
        self._accept()
        path = event.call_details.method
        unary = self._unary.get(path)
        rpc = Rpc(event, unary is None, self._send_timeout)
        rpc.receive_close()
        if unary is None:
            self._forward(partial(self._call_stream, self._streams.get(path, _refuse)), rpc)
        elif self._authorizer is None or self._authorizer.is_cached(rpc):
            self._receive(unary, rpc)
        else:
            authorize = partial(self._authorizer.authorize, path.decode())
            self._forward(partial(self._receive_authorized, authorize, unary), rpc)

    def _receive(self, unary: Unary, rpc: Rpc) -> None:
        self._monitor.add(rpc, partial(_finish_unary, unary, rpc))
        rpc.receive(partial(self._call_unary, unary, rpc))

    def _receive_authorized(self, authorize: Callable[[Rpc], bool], unary: Unary, rpc: Rpc) -> None:
        if not rpc.is_over and authorize(rpc):
            self._receive(unary, rpc)

    def _call_unary(self, begin: Unary, rpc: Rpc, event: Any) -> None:
        if not self._monitor.remove(rpc):
            return
        message = event.batch_operations[0].message()
        if message is None:  # the client has half-closed the RPC, or has left
            rpc.finish(None, StatusCode.INVALID_ARGUMENT, "the RPC must have one request, got none")
        elif not rpc.is_over:
            begin(rpc, message)

    def _call_stream(self, begin: Stream, rpc: Rpc) -> None:
        if not rpc.is_over:
            self._monitor.add(rpc, lambda failure: rpc.finish(None, *status_of(failure)))
            rpc.add_done_callback(partial(self._monitor.remove, rpc))
            begin(rpc)

    def _forward(self, handle: Callable[[Any], None], event: Any) -> None:
        """Call `handle(event)` on the loop, which handles all waiting events at once."""
        self._events.append((handle, event))
        if not self._is_handling_scheduled:
            self._is_handling_scheduled = True
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._handle_events)

    def _handle_events(self) -> None:
        self._is_handling_scheduled = False  # first, so that no later event is missed
        try:
            while self._events:
                handle, event = self._events.popleft()
                handle(event)
        finally:
            if self._events:  # a function has raised: handle the other events
                self._loop.call_soon(self._handle_events)


def _finish_unary(begin: Unary, rpc: Rpc, failure: ServiceError) -> None:
    if not rpc.is_over:
        begin(rpc, failure)


def _refuse(rpc: Rpc) -> None:
    rpc.finish(None, StatusCode.UNIMPLEMENTED, "Method not found!")
