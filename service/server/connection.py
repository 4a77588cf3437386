"""One client's connection over HTTP/1.1: planned requests here, all others by `AsgiProtocol`.

uvloop hands the buffers of `get_buffer` to the kernel only for protocols that are no
`asyncio.Protocol`, so `AsgiProtocol` is a delegate and not the base class.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import uvicorn
from uvicorn.server import ServerState

from service.errors import ClientLeft, Overloaded, TimedOut
from service.planned.plan import Plan
from service.planned.planner import Match
from service.server.asgi_protocol import AsgiProtocol
from service.server.connection_answers import AnsweringConnection
from service.server.connection_deadlines import Pending, Phase
from service.server.connection_draining import has_unread_bytes, seconds_unread
from service.server.connection_limits import ConnectionLimits
from service.server.connection_pacer import FREE_WORK_S
from service.server.half_close import Peer, peer_after_eof
from service.server.planned_requests import PlannedRequests
from service.server.received_body import ReceivedBody

log = logging.getLogger("rope.failures")

REPLAY_BYTES = 2**18
"""Size of the pieces in which a received body is handed to `AsgiProtocol`, which copies them: the
whole body is copied once."""

MAX_PIPELINED_BYTES = 2**16
"""Bytes of later requests that are kept while a request is answered; then reading pauses."""


class _Incomplete(NamedTuple):
    """A request whose description is not complete."""

    match: Match
    arrived: float
    """Time of `time.monotonic` when the header arrived."""
    timer: asyncio.TimerHandle
    """Fires at the deadline."""


class Connection(AnsweringConnection):
    """One client's connection.

    One request is in progress at a time. Either the description of its tensors is not complete
    (`_incomplete`), or its body is being received (`_body`), or it is in the queue or its answer is
    being sent (`_entry`), or `AsgiProtocol` handles it and gets all bytes (`_ordinary`). Requests
    without a plan go to `AsgiProtocol`: this is the ordinary way.
    """

    def __init__(
        self,
        planned: PlannedRequests,
        limits: ConnectionLimits,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(planned, limits.pacer, server_state)
        self._limits = limits
        self._ordinary_arguments = limits, config, server_state, app_state
        self._only_status = False
        """Whether this connection is over the limit, and may use the status routes only."""
        self._plan: Plan | None = None
        """The plan of the last request; the next request probably has the same."""
        self._body: ReceivedBody | None = None
        self._incomplete: _Incomplete | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        is_plain = transport.get_extra_info("sslcontext") is None
        self._fd = transport.get_extra_info("socket").fileno() if is_plain else -1
        connections = self._server_state.connections
        connections.add(cast(Any, self))
        self._watch = self._limits.deadlines.watch(self, self._transport)
        self._watch.schedule()
        self._only_status = len(connections) > self._limits.max_connections
        self._limits.pacer.opened()
        if not self._limits.pacer.is_free and has_unread_bytes(self._transport):
            self._waited_s = seconds_unread(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraw the request in progress, and record it."""
        self._watch.stop()
        self._limits.pacer.closed()
        self._server_state.connections.discard(cast(Any, self))
        self._unread = b""
        entry, incomplete = self._entry, self._incomplete
        body = self._detach_body()
        if body is not None:
            self._planned.release(body)
            self._planned.record_left(body.match, body.plan, body.arrived)
        elif incomplete is not None:
            incomplete.timer.cancel()
            self._planned.record_left(incomplete.match, None, incomplete.arrived)
        elif entry is not None and self._status:
            self._finish(entry)
        elif entry is not None:
            self._planned.batcher.withdraw(entry, ClientLeft())
        if self._ordinary is not None:
            self._ordinary.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive: the rest of the body, else the landing buffer.

        While much work is outstanding, only a header is received. If the request is refused, its
        body is discarded in the kernel, which costs less than receiving the body.
        """
        body, planned = self._body, self._planned
        if body is None:
            is_busy = self._num_to_discard or planned.load.outstanding_s > FREE_WORK_S
            return planned.header_view if is_busy else planned.landing_view
        return body.slab.memory[body.num_received : body.num_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes."""
        body = self._body
        if body is not None:
            body.num_received += nbytes
            if body.num_received == body.num_bytes:
                self._detach_body()
                self._submit(body)
            return
        if self._num_to_discard:
            self._discard(self._planned.landing_view[:nbytes])
            return
        # fast path: a request of the last plan; `_read` handles all others
        plan, ordinary, planned = self._plan, self._ordinary, self._planned
        data = planned.landing_view[:nbytes]
        if (
            plan is not None
            and plan.keys is planned.gate.keys
            and nbytes >= len(plan.prefix)  # the landing buffer has earlier packets behind this one
            and planned.landing.startswith(plan.prefix)
            and self._entry is None
            and not (self._unread or self._waited_s)
            and (ordinary is None or ordinary.is_free)
            and not planned.lifecycle.ending
        ):
            start = len(plan.prefix)
            is_busy = planned.load.outstanding_s > plan.max_outstanding_s
            end = start + plan.num_bytes
            if is_busy and self._refuse(plan, None, data, end, time.monotonic()):
                return
            body = planned.receive(plan, None, data, start, end)
            if body is not None and end == nbytes:
                self._entry = planned.submit(body, self._answer)
                if self._entry is None:
                    self._replay(body)
                return
            if body is not None:
                self._receive_rest(body, data, start)
                return
        self._read(data)

    def eof_received(self) -> bool:
        """Handle the client's FIN: return whether the connection stays open for its answers.

        It stays open for complete requests, except one that waits for a busy device if the client
        may have left: `connection_lost` withdraws that request.
        """
        entry, self._has_received_eof = self._entry, True
        if entry is not None:
            peer = peer_after_eof(self._transport.get_extra_info("socket"))
            is_waiting = entry.timer is not None and not self._status
            if peer is Peer.LEFT or (peer is Peer.UNKNOWN and is_waiting):
                return False
            self._is_ending = self._is_ending or not self._unread
            return True
        if self._unread and self._incomplete is None:
            return True  # `_read_unread` is about to read these requests
        return self._ordinary is not None and self._ordinary.eof_received()

    def _read(self, data: memoryview) -> None:
        """Handle bytes that are not the start of another request of the last plan."""
        if self._ordinary is not None and not self._ordinary.is_free:
            self._ordinary.data_received(bytes(data))
        elif self._entry is not None:
            self._unread = b"".join((self._unread, data))
            if len(self._unread) > MAX_PIPELINED_BYTES and not self._is_reading_paused:
                self._is_reading_paused = True
                self._transport.pause_reading()
        elif self._unread:
            self._begin(memoryview(b"".join((self._unread, data))))
        else:
            self._begin(data)

    def _read_unread(self) -> None:
        """Handle the bytes behind the request that has been answered."""
        if self._unread and self._entry is None and not self._transport.is_closing():
            self._begin(memoryview(self._unread))
            if self._has_received_eof and not self.eof_received():
                self._transport.close()

    def _begin(self, data: memoryview) -> None:
        """Handle bytes at the start of a request."""
        incomplete, self._incomplete, self._unread = self._incomplete, None, b""
        if incomplete is not None:
            incomplete.timer.cancel()
        waited_s, self._waited_s = self._waited_s, 0.0
        match = None if self._only_status else self._planned.match(data)
        if match is None:
            self._read_ordinary(bytes(data))
            return
        arrived = time.monotonic() - waited_s if incomplete is None else incomplete.arrived
        if match.start > len(data):
            deadline = arrived + self._planned.planner.timeout_s(match.header)
            timer = self._call_at(deadline, self._expire)
            self._incomplete, self._unread = _Incomplete(match, arrived, timer), bytes(data)
            self._watch.schedule()
            return
        plan = match.plan
        if plan is not None and not match.identifiers and not match.description.message_id:
            self._plan = plan
        self._is_ending = self._is_ending or not match.header.keep_alive
        is_busy = plan is not None and (
            waited_s or self._planned.load.outstanding_s > plan.max_outstanding_s
        )
        if plan is not None and is_busy and self._refuse(plan, match, data, match.end, arrived):
            return
        body = self._planned.receive(plan, match, data, match.start, match.end, arrived)
        if body is None:
            self._read_ordinary(bytes(data))
        else:
            self._receive_rest(body, data, match.start)

    def _receive_rest(self, body: ReceivedBody, data: memoryview, start: int) -> None:
        """Receive the rest of a body; if it is complete, put the request into the queue."""
        if body.num_received < body.num_bytes:
            self._body = body
            deadline = body.arrived + self._planned.timeout_s(body)
            body.timer = self._call_at(deadline, self._expire)
            self._watch.schedule()
            return
        end = start + body.num_bytes
        if end < len(data):
            is_shared = data.obj is self._planned.landing
            self._unread = bytes(data[end:]) if is_shared else data[end:]
        self._submit(body)

    def _call_at(self, deadline: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Call a function at a time of `time.monotonic`."""
        left_s = max(0.0, deadline - time.monotonic())
        return asyncio.get_running_loop().call_later(left_s, callback)

    def _detach_body(self) -> ReceivedBody | None:
        """Return the body that is being received, if any, and stop receiving it."""
        body, self._body = self._body, None
        if body is not None and body.timer is not None:
            body.timer.cancel()
        return body

    def _submit(self, body: ReceivedBody) -> None:
        """Put a request whose body is complete into the queue, or answer it the ordinary way."""
        self._entry = self._planned.submit(body, self._answer)
        if self._entry is None:
            self._replay(body)

    def _replay(self, body: ReceivedBody) -> None:
        """Answer a request the ordinary way: hand all its bytes to `AsgiProtocol`."""
        self._planned.give_back(body)
        unread, self._unread = bytes(self._unread), b""
        self._read_ordinary(body.prefix)
        for start in range(0, body.num_bytes, REPLAY_BYTES):
            end = min(start + REPLAY_BYTES, body.num_bytes)
            self._read_ordinary(bytes(body.slab.memory[start:end]))
        self._read_ordinary(unread)

    def _read_ordinary(self, data: bytes) -> None:
        """Hand bytes to `AsgiProtocol`."""
        ordinary = self._make_ordinary()
        if data and not self._transport.is_closing():
            ordinary.data_received(data)

    def _make_ordinary(self) -> AsgiProtocol:
        """Return the `AsgiProtocol` of this connection; make it at first use."""
        if self._ordinary is None:
            refusal = Overloaded("the service has too many connections (ROPE_MAX_CONNECTIONS)")
            self._ordinary = AsgiProtocol(
                *self._ordinary_arguments,
                watch=self._watch,
                only_status=refusal if self._only_status else None,
            )
            self._ordinary.connection_made(self._transport)
            self._server_state.connections.discard(cast(Any, self._ordinary))
        return self._ordinary

    def pending(self) -> Pending | None:
        """Return what the connection waits for; None: the client waits for the connection."""
        body, ordinary = self._body, self._ordinary
        if body is not None:
            return Pending(Phase.BODY, body.arrived, body.num_received)
        if self._incomplete is not None:
            return Pending(Phase.BODY, self._incomplete.arrived)
        if self._num_to_discard:
            return Pending(Phase.BODY, self._watch.idle().since)
        if ordinary is not None and not ordinary.is_free:
            return ordinary.pending()
        return None if self._entry is not None else self._watch.idle()

    def refuse_slow(self, phase: Phase) -> None:
        """Refuse the request whose header or body arrives too slowly."""
        if self._num_to_discard:
            self._transport.close()  # the request is refused already
        else:
            self._hand_over().refuse_slow(phase)

    def _expire(self) -> None:
        """Refuse the request whose body is not complete at its deadline."""
        self._hand_over().refuse(TimedOut())

    def _hand_over(self) -> AsgiProtocol:
        """Hand the received part of a request to `AsgiProtocol`, and return it."""
        body, incomplete = self._detach_body(), self._incomplete
        if body is not None:
            self._planned.release(body)
            self._read_ordinary(body.prefix)
        elif incomplete is not None:
            incomplete.timer.cancel()
            unread, self._incomplete, self._unread = bytes(self._unread), None, b""
            self._read_ordinary(unread)
        return self._make_ordinary()

    def shutdown(self) -> None:
        """Close when no request is in progress; called when the service ends."""
        self._is_ending = True
        has_bytes = self._unread or self._num_to_discard
        if self._entry is None and self._body is None and not has_bytes:
            self._make_ordinary().shutdown()
