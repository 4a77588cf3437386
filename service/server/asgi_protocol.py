"""HTTP/1.1 between a connection and the ASGI application: requests in, answers out, in order."""

import asyncio
import fcntl
import logging
import termios
from array import array
from collections import deque
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.utils import get_local_addr, get_remote_addr
from uvicorn.server import ServerState

from service.asgi import io
from service.asgi.request_body import ChunkedBody, SizedBody
from service.asgi.request_header import HeaderLimits, HeaderParser, RequestHeader, decode_path
from service.errors import ServiceError
from service.server.asgi_cycle import AsgiCycle

_log = logging.getLogger("uvicorn.error")

MAX_DROPPED_BYTES = 512 * 2**20
"""Bytes that are read and dropped, so that a client which sends first and reads then finds the
answer. Twice the default limit of a body."""

FIRST_REQUEST_S = 2.0
"""Seconds that a client without a request gets to send its first one when the service ends."""


class AsgiProtocol(asyncio.Protocol):
    """One client's connection.

    A request that the server does not accept goes to the application as well: `io.REFUSAL` in its
    scope is the error. So it is answered, logged and counted as all others, in its turn. After it,
    nothing that the client sends is read as a request.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        limits: HeaderLimits = HeaderLimits(),
    ) -> None:
        self._app = config.loaded_app
        self._server_state = server_state
        self._app_state = app_state
        self._limits = limits
        self._header: HeaderParser | None = None
        """The header that is being received; None between requests and in a body."""
        self._receiving: AsgiCycle | None = None
        """The request whose body is being received."""
        self._cycles: deque[AsgiCycle] = deque()
        """Requests without a complete answer. The application answers the first one."""
        self._had_request = False
        self._has_last_request = False
        """Whether the rest of what the client sends is dropped."""
        self._num_dropped = 0
        self._is_lingering = False

    @property
    def is_free(self) -> bool:
        """Whether no request is in progress."""
        return not (self._cycles or self._is_in_request or self._has_last_request)

    @property
    def _is_in_request(self) -> bool:
        """Whether a part of a request was received."""
        return self._header is not None or self._receiving is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._flow = FlowControl(self._transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]
        self._addresses = {
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
        }

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client has left."""
        self._server_state.connections.discard(self)  # type: ignore[arg-type]
        for cycle in self._cycles:
            cycle.disconnect()
        self._cycles.clear()
        self._flow.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read requests."""
        at = 0
        while at < len(data) and not self._has_last_request:
            read = self._read_header if self._receiving is None else self._read_body
            at = read(data, at)
        self._num_dropped += len(data) - at
        if self._is_lingering and self._num_dropped > MAX_DROPPED_BYTES:
            self._transport.close()

    def pause_writing(self) -> None:
        """Let the application wait: the client does not read."""
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        """Let the application go on."""
        self._flow.resume_writing()

    def refuse(self, failure: ServiceError) -> None:
        """Answer the request that is being received with `failure`; it is the last one."""
        self._has_last_request = True
        cycle, parser = self._receiving, self._header
        if cycle is None:
            assert parser is not None, "a header is being received"
            path = decode_path(parser.target.partition(b"?")[0])
            scope = {"method": parser.method or "-", "path": path, "headers": parser.fields}
            self._add(scope | {io.REFUSAL: failure}, SizedBody(0), keep_alive=False)
        elif cycle.response_complete:
            self.close()
        else:
            cycle.fail(failure)

    def write(self, data: Any) -> None:
        """Send a part of an answer."""
        self._transport.write(data)

    def is_closing(self) -> bool:
        """Return whether no further request will be answered."""
        return self._is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close so that the client can read what was sent.

        To close a connection with unread bytes resets it, and a client may lose the answer. So
        where the client is still sending, tell it that the answer is complete, and read on.
        """
        if self.is_closing():
            return
        if self._num_dropped or self._is_in_request:
            self._has_last_request = self._is_lingering = True
            self._header = self._receiving = None
            self._flow.resume_reading()
            self._transport.write_eof()
        else:
            self._transport.close()

    def shutdown(self) -> None:
        """Close when no request is in flight; called when the service ends.

        A client that has just connected is about to send a request, so it gets FIRST_REQUEST_S.
        """
        if self._had_request:
            self._close_after_requests()
        else:
            asyncio.get_running_loop().call_later(FIRST_REQUEST_S, self._close_after_requests)

    def _read_header(self, data: bytes, at: int) -> int:
        if self._header is None:
            self._header = HeaderParser(self._limits)
        try:
            at = self._header.feed(data, at)
            header = self._header.result()
        except ServiceError as failure:
            self.refuse(failure)
            return at
        if header is not None:
            self._header = None
            self._begin(header)
        return at

    def _begin(self, header: RequestHeader) -> None:
        length = header.content_length
        body = ChunkedBody() if length is None else SizedBody(length)
        scope = {
            "method": header.method,
            "path": header.path,
            "raw_path": header.raw_path,
            "query_string": header.query,
            "http_version": header.version,
            "headers": header.fields,
        }
        cycle = self._add(scope, body, header.keep_alive, header.expects_continue)
        if not body.is_complete:
            self._receiving = cycle
        else:
            self._end_request(cycle)

    def _read_body(self, data: bytes, at: int) -> int:
        cycle = self._receiving
        assert cycle is not None, "checked by the caller"
        is_answered = cycle.response_complete
        body = bytearray() if is_answered else cycle.body
        try:
            at = cycle.request_body.feed(data, at, body)
        except ServiceError as failure:
            self.refuse(failure)
            return at
        if len(body) > HIGH_WATER_LIMIT and not is_answered:
            self._flow.pause_reading()
        if cycle.request_body.is_complete:
            self._receiving = None
            self._end_request(cycle)
        else:
            cycle.message_event.set()
        return at

    def _end_request(self, cycle: AsgiCycle) -> None:
        """Note that a request was received completely."""
        cycle.more_body = False
        cycle.message_event.set()
        self._has_last_request = not cycle.keep_alive

    def _add(
        self,
        scope: dict[str, Any],
        body: SizedBody | ChunkedBody,
        keep_alive: bool,
        expects_continue: bool = False,
    ) -> AsgiCycle:
        """Add a request, which the application answers after those before it."""
        common = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "query_string": b"",
            "state": self._app_state.copy(),
        }
        cycle = AsgiCycle(
            scope=cast(Any, common | self._addresses | scope),
            transport=cast(Any, self),
            flow=self._flow,
            logger=_log,
            access_logger=_log,
            access_log=False,
            default_headers=self._server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_continue,
            keep_alive=keep_alive,
            on_response=self._on_response,
        )
        cycle.request_body = body
        self._had_request = True
        self._cycles.append(cycle)
        if len(self._cycles) == 1:
            self._start(cycle)
        else:
            self._flow.pause_reading()
        return cycle

    def _start(self, cycle: AsgiCycle) -> None:
        task = asyncio.create_task(cycle.run_asgi(self._app))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    def _on_response(self) -> None:
        """Start the next request."""
        self._server_state.total_requests += 1
        if self._cycles:
            self._cycles.popleft()
        if self.is_closing():
            self._cycles.clear()
            return
        self._flow.resume_reading()
        if self._cycles:
            self._start(self._cycles[0])

    def _close_after_requests(self) -> None:
        """Close after the answer to a request in flight or partly received, else now."""
        if self._cycles:
            self._cycles[-1].keep_alive = False
        elif not self._has_partial_request():
            self.close()

    def _has_partial_request(self) -> bool:
        """Return whether part of a request was received; its answer closes the connection.

        Closing a connection with unread bytes resets it: the request would be lost silently.
        """
        if self._transport.is_closing():
            return False
        unread = array("i", [0])
        fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.FIONREAD, unread)
        return self._is_in_request or unread[0] > 0
