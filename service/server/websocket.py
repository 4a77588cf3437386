"""One WebSocket: its handshake is over, its messages are received here.

The library `websockets` has the frames (its protocol without input and output); this module has the
socket, the limits and the deadlines.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from uvicorn.server import ServerState
from websockets.frames import CloseCode
from websockets.protocol import OPEN

from service.batching.admission import Charge
from service.observability.request_log import RequestLog
from service.server.connection_deadlines import Pending, Phase
from service.server.connection_draining import has_unread_bytes
from service.server.connection_limits import ConnectionLimits
from service.server.websocket_answers import AnsweringWebSocket
from service.server.websocket_handshake import Accepted
from service.server.websocket_pings import Pings
from service.server.websocket_reader import MessageReader
from service.v1.session_stream import SessionStream

log = logging.getLogger("rope.failures")

MAX_UNANSWERED = 32
"""Messages without a sent answer; then the socket is not read."""

PIECE_BYTES = 2**14
"""Received bytes are parsed in pieces of this size: frames may have two bytes."""

MAX_WAITING_PONGS = 2**12
"""Bytes of pongs for a client that does not read; then the socket is not read."""


class Handshake(NamedTuple):
    """What the log line of a stream says of its beginning."""

    request_id: str
    route: str
    started: float
    """Time of `time.perf_counter`."""
    headers: Mapping[bytes, bytes]


class WebSocketConnection(AnsweringWebSocket):
    """One client's connection after the handshake.

    Args:
        accepted: the protocol, and the response to the handshake.
        stream: answers the messages.
        handshake: for the log.
        request_log: gets a line at the end.
        receive_buffer: shared by all streams: each packet is handled before the next is read.
        ping_s: seconds between pings, and until the answer to one.
        ends_session: whether the session is deleted at the end.
    """

    def __init__(
        self,
        accepted: Accepted,
        stream: SessionStream,
        handshake: Handshake,
        request_log: RequestLog,
        receive_buffer: memoryview,
        *,
        ping_s: float,
        ends_session: bool,
    ) -> None:
        super().__init__(accepted.protocol, stream)
        self._response = accepted.response
        self._handshake = handshake
        self._request_log = request_log
        self._receive_buffer = receive_buffer
        self._pings = Pings(self, ping_s)
        charge = Charge(stream.admission, stream.tenant)
        self._reader = MessageReader(self._protocol, self._pings, charge)
        self._ends_session = ends_session
        self._unparsed: memoryview = memoryview(b"")
        """Received bytes that wait for answers to the messages before them."""
        self._num_received = 0
        """Bytes of a part of a message since `_since`."""

    # as an `UpgradedConnection`

    def start(
        self,
        transport: asyncio.Transport,
        server_state: ServerState,
        limits: ConnectionLimits,
        data: memoryview,
    ) -> None:
        """Become the protocol of the transport, and answer the handshake."""
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        is_plain = transport.get_extra_info("sslcontext") is None
        self._fd = transport.get_extra_info("socket").fileno() if is_plain else -1
        self._limits = limits
        self._server_state = server_state
        self._watch = limits.deadlines.watch(self, transport)
        server_state.connections.add(cast(Any, self))
        server_state.total_requests += 1
        transport.set_protocol(self)
        self._send([self._response])
        self._pings.start()
        transport.resume_reading()
        if data:
            self._receive(data)

    # as the protocol of the transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the receive buffer."""
        return self._receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes."""
        self._receive(self._receive_buffer[:nbytes])

    def eof_received(self) -> bool:
        """Close the connection: a WebSocket cannot be half-closed."""
        self._protocol.receive_eof()
        self._write()
        self._end_calls()
        return False

    def resume_writing(self) -> None:
        """Send more: the kernel has all that was sent."""
        self._reader.num_ping_bytes = 0
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the calls in progress, and record the stream."""
        self._watch.stop()
        self._pings.stop()
        self._limits.pacer.closed()
        self._server_state.connections.discard(cast(Any, self))
        tasks = [*self._tasks.values()]
        self._end_calls()
        for call in self._sent:
            call.end()
        self._sent.clear()
        protocol, handshake = self._protocol, self._handshake
        if not protocol.reader.eof:
            protocol.receive_eof()
        close = protocol.close_sent or protocol.close_rcvd
        self._request_log.record(
            request_id=handshake.request_id,
            method="GET",
            path=handshake.route,
            route=handshake.route,
            status=101,
            started=handshake.started,
            headers=handshake.headers,
            failure={
                "close_code": int(CloseCode.ABNORMAL_CLOSURE if close is None else close.code),
                "messages": self._num_messages,
                "failures": self._num_failures,
            },
        )
        if self._ends_session:
            task = self._loop.create_task(self._delete_session(tasks))
            self._server_state.tasks.add(task)
            task.add_done_callback(self._server_state.tasks.discard)

    # as a connection with deadlines

    def pending(self) -> Pending | None:
        """Return what the connection waits for; None: nothing but pongs."""
        if self._protocol.state is not OPEN:
            return Pending(Phase.CLOSE, self._since)
        if self._reader.is_in_message and not self._is_reading_paused:
            return Pending(Phase.BODY, self._since, self._num_received)
        return None

    def refuse_slow(self, phase: Phase) -> None:
        """Close because a message arrives too slowly."""
        self.fail(CloseCode.POLICY_VIOLATION, "a message arrives too slowly")

    def shutdown(self) -> None:
        """Answer what was read, then close; called when the service ends."""
        self._is_ending = True
        self._pump()

    # as a connection with pings

    def ping(self, payload: bytes) -> bool:
        """Send a ping, unless the client does not read; return whether it was sent."""
        self._reader.num_small_frames = 0
        if self._protocol.state is not OPEN or self._is_writing_paused:
            return False
        self._protocol.send_ping(payload)
        self._write()
        return True

    @property
    def hears_pongs(self) -> bool:
        """Whether a pong would have been received by now."""
        return not (
            self._reader.is_in_message
            or self._is_reading_paused
            or has_unread_bytes(self._transport)
        )

    # receiving

    def _receive(self, data: memoryview) -> None:
        """Parse received bytes; keep a copy of what must wait."""
        if self._protocol.state is not OPEN:
            self._discard(data)
            return
        self._unparsed = memoryview(bytes(self._unparsed) + data) if self._unparsed else data
        self._pump()
        if self._unparsed and self._unparsed.obj is self._receive_buffer.obj:
            self._unparsed = memoryview(bytes(self._unparsed))

    def _pump(self) -> None:
        """Begin calls and parse more, as long as few calls are without an answer."""
        messages = self._reader.messages
        while not self._is_over:
            if messages:
                if len(self._calls) >= MAX_UNANSWERED:
                    break
                self._begin(messages.popleft())
            elif self._unparsed:
                piece, self._unparsed = self._unparsed[:PIECE_BYTES], self._unparsed[PIECE_BYTES:]
                self._parse(piece)
            else:
                break
        if self._is_ending and not (self._is_over or self._calls):
            self._close(CloseCode.SERVICE_RESTART, "the service is shutting down")
        self._control_reading()

    def _parse(self, piece: memoryview) -> None:
        """Parse bytes into messages."""
        reader = self._reader
        was_in_message = reader.is_in_message
        violation = reader.parse(piece)
        self._num_received += len(piece)
        if not self._is_writing_paused:
            reader.num_ping_bytes = 0
        self._write()
        if violation is not None:
            self.fail(*violation)
        elif self._protocol.state is not OPEN:
            self._end_calls()
        elif reader.is_in_message and (reader.messages or not was_in_message):
            self._start_waiting()

    def _start_waiting(self) -> None:
        """Note that the connection waits for the client from now on."""
        self._since, self._num_received = self._limits.deadlines.time(), 0
        self._watch.schedule()

    def _discard(self, data: memoryview) -> None:
        """Parse bytes while the connection closes: only the client's close frame matters."""
        self._protocol.receive_data(cast(bytes, data))
        self._protocol.events_received()
        self._write()

    def _drop_received(self) -> None:
        """Drop what was received and has no call."""
        self._reader.drop()
        self._unparsed = memoryview(b"")
        if not self._transport.is_closing():
            self._control_reading()

    def _control_reading(self) -> None:
        """Pause reading while messages wait, and while pongs do."""
        must_wait = not self._is_over and bool(
            self._reader.messages
            or self._unparsed
            or self._is_ending
            or self._reader.num_ping_bytes > MAX_WAITING_PONGS
        )
        if must_wait and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()
        elif not must_wait and self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()
            if self._reader.is_in_message:
                self._start_waiting()

    async def _delete_session(self, tasks: list[asyncio.Task[None]]) -> None:
        """Delete the session when the calls in progress have ended."""
        if tasks:
            await asyncio.wait(tasks)
        try:
            await self._stream.delete()
        except Exception as failure:
            log.info("a session was not deleted at the end of its stream: %s", failure)
