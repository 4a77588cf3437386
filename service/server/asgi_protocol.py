"""HTTP/1.1 between a connection and the ASGI application: requests in, answers out, in order."""

import asyncio
from collections import deque
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from service.access.hosts import is_allowed
from service.access.scopes import PUBLIC_PATHS
from service.asgi import io
from service.asgi.middleware import QUIET
from service.asgi.request_body import ChunkedBody, SizedBody
from service.asgi.request_header import HeaderParser, RequestHeader
from service.errors import BadHeader, BadRequest, ServiceError, SlowRequest
from service.server.asgi_cycle import COMMON_SCOPE, AsgiCycle, Flow, refusal_scope, request_scope
from service.server.connection_deadlines import Pending, Phase, Watch
from service.server.connection_draining import close_idle, has_unread_bytes
from service.server.connection_limits import ConnectionLimits, UpgradedConnection, Upgrades
from service.server.half_close import Peer, peer_after_eof

MAX_DROPPED_BYTES = 512 * 2**20
"""Bytes that are read and dropped, so that a client which sends first and reads then finds the
answer. Twice the default limit of a body."""

MAX_PIPELINED_REQUESTS = 2
"""Most parsed requests of a connection: the one that is being answered, and the next one."""


class AsgiProtocol(asyncio.Protocol):
    """One client's connection.

    A request that the server does not accept goes to the application as well: `io.REFUSAL` in its
    scope is the error. So it is answered, logged and counted as all others, in its turn. After it,
    nothing that the client sends is read as a request.

    Args:
        limits: what all connections share.
        config, server_state, app_state: of uvicorn.
        watch: the deadline of the connection, shared with its owner; a new one if None.
        only_status: error of all requests for routes other than health, readiness and metrics;
            None: all routes are served.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        watch: Watch | None = None,
        only_status: ServiceError | None = None,
    ) -> None:
        self._app = config.loaded_app
        self.server_state = server_state
        self._limits = limits
        self._shared_watch = watch
        self._only_status = only_status
        self._header: HeaderParser | None = None
        """The header that is being received; None between requests and in a body."""
        self._receiving: AsgiCycle | None = None
        """The request whose body is being received."""
        self._cycles: deque[AsgiCycle] = deque()
        """Requests without a complete answer. The application answers the first one."""
        self._unread: tuple[bytes, int] | None = None
        """Bytes of further requests, and the offset at which the first of them begins."""
        self._has_received_eof = False
        """Whether the client has sent its FIN."""
        self._has_last_request = False
        """Whether the rest of what the client sends is dropped."""
        self._num_dropped = 0
        self._is_lingering = False
        self._since = 0.0
        """When the header, the body or the closing began that is in progress."""
        self._num_received = 0
        """Bytes of the body since then."""
        self._is_new = False
        """Whether the connection waits for something new, so that `_since` must be set."""
        self._upgraded: UpgradedConnection | None = None
        """Handles all that follows a handshake."""

    @property
    def is_free(self) -> bool:
        """Whether no request is in progress."""
        return not (self._cycles or self._is_in_request or self._has_last_request or self._unread)

    @property
    def _is_in_request(self) -> bool:
        """Whether a part of a request was received."""
        return self._header is not None or self._receiving is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self.flow = Flow(self._transport, self._restart_body)
        if self._shared_watch is None:
            self._watch = self._limits.deadlines.watch(self, self._transport)
            self._watch.schedule()
            self._limits.pacer.opened()
        else:
            self._watch = self._shared_watch
        self.server_state.connections.add(cast(Any, self))
        self._scope = COMMON_SCOPE | {
            "scheme": "https" if is_ssl(self._transport) else "http",
            "server": get_local_addr(self._transport),
            "client": get_remote_addr(self._transport),
        }
        server = self._scope["server"]
        is_tcp = server is not None and server[1] is not None  # a Unix-domain socket has no port
        self._allowed_hosts = self._limits.allowed_hosts if is_tcp else None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application that the client has left."""
        self.server_state.connections.discard(cast(Any, self))
        for cycle in self._cycles:
            cycle.disconnect()
        self._cycles.clear()
        self._unread = None
        self.flow.resume_writing()
        self._watch.stop()
        if self._shared_watch is None:
            self._limits.pacer.closed()

    def data_received(self, data: bytes) -> None:
        """Read requests."""
        if self._unread is None:
            self._read(data, 0)
        else:
            unread, at = self._unread
            self._unread = unread[at:] + data, 0

    def _read(self, data: bytes, at: int) -> None:
        """Parse requests from offset `at` on, at most MAX_PIPELINED_REQUESTS."""
        while at < len(data) and not self._has_last_request:
            if len(self._cycles) == MAX_PIPELINED_REQUESTS and not self._is_in_request:
                self._unread = data, at
                self.flow.is_held = True
                return
            read = self._read_header if self._receiving is None else self._read_body
            at = read(data, at)
        if self._upgraded is not None:
            self._upgrade(self._upgraded, memoryview(data)[at:])
            return
        if self._is_new and self._is_in_request:
            self._start_waiting()
        self._num_dropped += len(data) - at
        if self._is_lingering and self._num_dropped > MAX_DROPPED_BYTES:
            self._transport.close()

    def _read_unread(self) -> None:
        """Parse the next of the unparsed requests."""
        if self._unread is None:
            return
        data, at = self._drop_unread()
        self._read(data, at)
        if self._unread is None and self._has_received_eof and not self.eof_received():
            self._transport.close()

    def _drop_unread(self) -> tuple[bytes, int]:
        """Return and clear the unparsed bytes."""
        unread, self._unread = self._unread or (b"", 0), None
        self.flow.is_held = False
        return unread

    def eof_received(self) -> bool:
        """Answer the complete requests after the client's FIN; close if there are none."""
        self._has_received_eof = True
        if self._unread is not None:
            return True  # `_read_unread` will parse these
        peer = peer_after_eof(self._transport.get_extra_info("socket"))
        if self._receiving is not None and self._cycles and self._cycles[-1] is self._receiving:
            self._cycles.pop().disconnect()
        if not self._cycles or self._is_lingering or peer is Peer.LEFT:
            return False
        self._header = self._receiving = None
        self._has_last_request = True
        self._cycles[-1].keep_alive = False
        if peer is Peer.UNKNOWN:
            for cycle in self._cycles:
                cycle.end_input()
        return True

    def pause_writing(self) -> None:
        """Let the application wait: the client does not read."""
        self._watch.pause_writing()
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """Let the application go on."""
        self._watch.resume_writing()
        self.flow.resume_writing()

    def pending(self) -> Pending | None:
        """Return what the connection waits for; None: the client waits for the connection."""
        if self._is_lingering:
            return Pending(Phase.CLOSE, self._since)
        if self._is_in_request and not self._has_last_request:
            if self.flow.read_paused:
                return None
            phase = Phase.BODY if self._header is None else Phase.HEADER
            return Pending(phase, self._since, self._num_received)
        return None if self._cycles else self._watch.idle()

    def refuse_slow(self, phase: Phase) -> None:
        """Refuse the request whose header or body arrives too slowly."""
        timeouts = self._limits.deadlines.timeouts
        if phase is Phase.HEADER:
            text = f"the header must arrive within {timeouts.header_s:g} s (ROPE_HEADER_TIMEOUT_S)"
        else:
            text = (
                f"the body must arrive with at least {timeouts.min_body_rate:,} bytes a second "
                "(ROPE_MIN_BODY_RATE)"
            )
        self.refuse(SlowRequest(text))

    def refuse(self, failure: ServiceError) -> None:
        """Answer the request that is being received with `failure`; it is the last one."""
        self._has_last_request = True
        cycle, parser = self._receiving, self._header
        if cycle is None:
            assert parser is not None, "a header is being received"
            scope = refusal_scope(self._scope, parser, failure)
            self._add(AsgiCycle(self, scope, SizedBody(0), keep_alive=False))
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
        unread, at = self._drop_unread()
        self._num_dropped += len(unread) - at
        if self._num_dropped or self._is_in_request:
            self.linger()
        else:
            self._transport.close()
        self._watch.schedule_writing()

    def linger(self) -> None:
        """Send the FIN, and drop what the client still sends until it closes or a limit is met."""
        self._has_last_request = self._is_lingering = True
        self._header = self._receiving = None
        self.flow.resume_reading()
        self._transport.write_eof()
        self._start_waiting()

    def end_response(self) -> None:
        """Start the next request."""
        self.server_state.total_requests += 1
        if self._cycles:
            self._cycles.popleft()
        if self.is_closing():
            self._cycles.clear()
            return
        if self._unread is not None:
            self._loop.call_soon(self._read_unread)
        else:
            self.flow.resume_reading()
        if self._cycles:
            self._start(self._cycles[0])
        elif self._unread is None:
            self._watch.start_idle()

    def shutdown(self) -> None:
        """Close when no request is in flight; called when the service ends.

        A client that has just connected is about to send a request. So its connection closes after
        the answer, or at the deadline of the first request: closing it earlier would reset the
        connection of a slow client.
        """
        if self._cycles or self._watch.is_used:
            self._close_after_requests()

    def _read_header(self, data: bytes, at: int) -> int:
        headers, parser, start = self._limits.headers, self._header, at
        if parser is None:
            found = headers.find(data, at)
            if found is not None:
                self._begin(found[0])
                return found[1]
            parser = self._header = HeaderParser(headers.limits)
            self._is_new = True
        try:
            at = parser.feed(data, at)
            header = parser.result()
        except ServiceError as failure:
            self.refuse(failure)
            return at
        if header is not None:
            if at - start == parser.num_bytes:
                headers.add(data[start:at], header)
            self._header = None
            self._begin(header)
        return at

    def _begin(self, header: RequestHeader) -> None:
        length = header.content_length
        scope = request_scope(self._scope, header)
        refusal = self._refusal(header)
        upgrades = self._limits.upgrades
        route = None if upgrades is None else upgrades.route(header)
        if upgrades is not None and route is not None:
            scope["path"] = route
            try:
                self._upgraded = None if refusal else self._open(upgrades, header)
            except ServiceError as failure:
                refusal = failure
        if self._upgraded is not None:
            self._has_last_request = True
            return
        if refusal is not None:
            scope[io.REFUSAL] = refusal
        cycle = AsgiCycle(
            self,
            scope,
            ChunkedBody() if length is None else SizedBody(length),
            keep_alive=header.keep_alive and refusal is None,
            expects_continue=header.expects_continue,
        )
        self._add(cycle)
        if cycle.body_reader.is_complete:
            self._end_request(cycle)
        else:
            self._receiving = cycle
            self._is_new = True

    def _open(self, upgrades: Upgrades, header: RequestHeader) -> UpgradedConnection:
        """Return the connection that answers a handshake.

        Raises:
            ServiceError: the handshake is refused.
        """
        if self._cycles:
            raise BadRequest("a WebSocket handshake must wait for the answers before it")
        return upgrades.open(header)

    def _upgrade(self, upgraded: UpgradedConnection, data: memoryview) -> None:
        """Hand the transport over after a handshake; `data` is what follows the handshake."""
        self._watch.stop()
        self.server_state.connections.discard(cast(Any, self._transport.get_protocol()))
        upgraded.start(self._transport, self.server_state, self._limits, data)

    def _refusal(self, header: RequestHeader) -> ServiceError | None:
        """Return the error of a request that the server refuses; None: the request is accepted."""
        if self._only_status is not None and header.path not in QUIET:
            return self._only_status
        hosts, name = self._allowed_hosts, header.host
        if hosts is None or header.path in PUBLIC_PATHS or is_allowed(name, hosts):
            return None
        return BadHeader("Host must be localhost, or a name in ROPE_ALLOWED_HOSTS")

    def _read_body(self, data: bytes, at: int) -> int:
        cycle = self._receiving
        assert cycle is not None, "checked by the caller"
        is_answered = cycle.response_complete
        body = bytearray() if is_answered else cycle.body
        start = at
        try:
            at = cycle.body_reader.feed(data, at, body)
            self._num_received += at - start
        except ServiceError as failure:
            self.refuse(failure)
            return at
        if len(body) > HIGH_WATER_LIMIT and not is_answered:
            self.flow.pause_reading()
        if cycle.body_reader.is_complete:
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

    def _add(self, cycle: AsgiCycle) -> None:
        """Add a request, which the application answers after those before it."""
        self._cycles.append(cycle)
        if len(self._cycles) == 1:
            self._start(cycle)
        else:
            self.flow.pause_reading()

    def _start(self, cycle: AsgiCycle) -> None:
        task = self._loop.create_task(cycle.run_asgi(self._app))
        self.server_state.tasks.add(task)
        task.add_done_callback(self.server_state.tasks.discard)

    def _start_waiting(self) -> None:
        """Note that the connection waits for the client from now on."""
        self._since, self._num_received = self._limits.deadlines.time(), 0
        self._is_new = False
        self._watch.schedule()

    def _restart_body(self) -> None:
        """Give the client time: nothing of what it sent was received for a while."""
        if self._is_in_request:
            self._start_waiting()

    def _close_after_requests(self) -> None:
        """Close after the answer to a request in flight or partly received, else now."""
        if self._cycles:
            self._cycles[-1].keep_alive = False
        elif not (self.is_closing() or self._is_in_request or has_unread_bytes(self._transport)):
            close_idle(self._transport)  # else the answer to the partly received request closes
            self._watch.schedule_writing()
