"""One client's connection over HTTP/1.1: planned requests here, all others by uvicorn's protocol.

uvloop hands the buffers of `get_buffer` to the kernel only for protocols that are no
`asyncio.Protocol`, so uvicorn's protocol is a delegate and not the base class.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from service.asgi.middleware import CLIENT_LEFT
from service.batching.run import Completed
from service.errors import ClientLeft, Overloaded, ServiceError
from service.observability.request_log import Record
from service.planned.header import MAX_HEADER_BYTES
from service.planned.plan import Plan, PlannedEntry, PlannedJob
from service.planned.planner import MAX_DESCRIPTION_BYTES, Match
from service.server import uvicorn_protocol
from service.server.planned_answer import render_answer, send
from service.server.planned_requests import PlannedRequests
from service.server.received_body import ReceivedBody
from service.wire import Buffer

log = logging.getLogger("rope.failures")

MAX_PREFIX_BYTES = MAX_HEADER_BYTES + MAX_DESCRIPTION_BYTES
"""Longest header and description of tensors that have a plan."""

MAX_PIPELINED_BYTES = 2**16
"""Bytes of later requests that are kept while a request is answered; then reading pauses."""


class Connection(asyncio.BufferedProtocol):
    """One client's connection.

    One request is in progress at a time: its body is received, it has an entry, or it is with
    uvicorn's protocol, which then gets all bytes. Whatever is not as a plan says goes there.
    """

    def __init__(
        self,
        planned: PlannedRequests,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._planned = planned
        self._landing = planned.landing
        self._server_state = server_state
        self._ordinary_arguments = config, server_state, app_state
        self._ordinary: uvicorn_protocol.Connection | None = None
        self._plan: Plan | None = None
        """That of the last request, as the next one probably is the same."""
        self._body: ReceivedBody | None = None
        self._entry: PlannedEntry | None = None
        self._status = 0
        """That of an answer which is being sent; else 0."""
        self._unread: Buffer = b""
        """What came behind the request in progress, or the start of a request."""
        self._begun: tuple[Match, float] | None = None
        """A request of which the description is not complete, and when its header arrived."""
        self._is_new = True
        """Whether the client has sent nothing yet."""
        self._is_reading_paused = False
        self._is_ending = False
        """Whether the connection closes after the next answer, which says so."""
        self._closes = False
        """Whether the answer that is being sent says that the connection closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        is_plain = transport.get_extra_info("sslcontext") is None
        self._fd = transport.get_extra_info("socket").fileno() if is_plain else -1
        self._server_state.connections.add(cast(Any, self))

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraw the request."""
        self._server_state.connections.discard(cast(Any, self))
        self._unread = b""
        entry, begun = self._entry, self._begun
        body, self._body = self._body, None
        if body is not None:
            self._planned.admission.release(body.charged_bytes)
            self._record_left(body.route, body.identifiers, body.arrived)
        elif begun is not None:
            match, arrived = begun
            self._record_left(match.header.target.decode(), match.identifiers, arrived)
        elif entry is not None and self._status:
            self._finish(entry)
        elif entry is not None:
            self._planned.batcher.withdraw(entry, ClientLeft())
        if self._ordinary is not None:
            self._ordinary.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive: the rest of the body, else the landing buffer."""
        body = self._body
        if body is None:
            return self._planned.landing_view
        return body.slab.memory[body.num_received : body.num_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes."""
        body = self._body
        if body is not None:
            body.num_received += nbytes
            if body.num_received == body.num_bytes:
                self._body = None
                self._submit(body)
            return
        plan, ordinary, planned = self._plan, self._ordinary, self._planned
        data = planned.landing_view[:nbytes]
        if (
            plan is not None
            and nbytes >= len(plan.prefix)  # the landing buffer has earlier packets behind this one
            and self._landing.startswith(plan.prefix)
            and self._entry is None
            and not self._unread
            and (ordinary is None or ordinary.is_free)
            and not planned.lifecycle.ending
        ):
            start = len(plan.prefix)
            if self._receive(plan, None, data, start, start + plan.num_bytes):
                return
        self._read(data)

    def _read(self, data: memoryview) -> None:
        """Handle bytes that are not the start of another request of the last plan."""
        self._is_new = False
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
        """Go on with what came behind a request that is answered now."""
        if self._unread and self._entry is None and not self._transport.is_closing():
            self._begin(memoryview(self._unread))

    def _begin(self, data: memoryview) -> None:
        """Handle bytes at the start of a request."""
        begun, self._begun, self._unread = self._begun, None, b""
        match = None if self._planned.lifecycle.ending else self._match(data)
        if match is None:
            self._read_ordinary(bytes(data))
            return
        arrived = time.monotonic() if begun is None else begun[1]
        if match.start > len(data):
            self._begun, self._unread = (match, arrived), bytes(data)
            return
        if match.plan is not None and not match.identifiers and not match.description.message_id:
            self._plan = match.plan
        if not self._receive(match.plan, match, data, match.start, match.end, arrived):
            self._read_ordinary(bytes(data))

    def _match(self, data: memoryview) -> Match | None:
        try:
            return self._planned.planner.match(bytes(data[:MAX_PREFIX_BYTES]))
        except Exception:
            log.exception("a request has no plan because of a failure")
            return None

    def _receive(
        self,
        plan: Plan | None,
        match: Match | None,
        data: memoryview,
        start: int,
        end: int,
        arrived: float | None = None,
    ) -> bool:
        """Begin to receive the body; return False if there is no memory for it."""
        planned, num_bytes = self._planned, end - start
        charged_bytes = num_bytes if plan is None else plan.charge_bytes
        try:
            planned.admission.charge(charged_bytes)
        except Overloaded:
            return False
        try:
            slab = planned.slab_pool.lease(num_bytes)
        except Exception:
            log.exception("no memory for a body")
            planned.admission.release(charged_bytes)
            return False
        prefix = plan.prefix if match is None and plan is not None else bytes(data[:start])
        body = ReceivedBody(plan, match, prefix, slab, num_bytes, charged_bytes, arrived)
        if self._ordinary is not None:
            self._ordinary.stop_keep_alive_timer()
        part = data[start:end]
        body.num_received = num_received = len(part)
        slab.memory[:num_received] = part
        if num_received < num_bytes:
            self._body = body
            return True
        if end < len(data):
            is_shared = data.obj is self._landing
            self._unread = bytes(data[end:]) if is_shared else data[end:]
        self._submit(body)
        return True

    def _submit(self, body: ReceivedBody) -> None:
        """Put a request whose body is complete into the queue."""
        planned, plan = self._planned, body.plan
        try:
            if plan is None:
                plan = self._make_plan(body)
            if plan is None:
                self._replay(body)
                return
            entry = PlannedEntry(
                PlannedJob(plan, body.slab),
                body.arrived,
                body.arrived + plan.timeout_s,
                body.charged_bytes,
                self._answer,
                planned.request_id(body.identifiers),
                body.message_id,
                body.identifiers,
            )
            planned.batcher.enqueue(entry)
            self._entry = entry
        except ServiceError:  # the ordinary way says why
            self._replay(body)
        except Exception:
            log.exception("a request is answered without its plan because of a failure")
            self._replay(body)

    def _make_plan(self, body: ReceivedBody) -> Plan | None:
        """Return the plan of a request, None if it can have none.

        Raises:
            Overloaded: there is too little memory for the answer.
        """
        assert body.match is not None, "a body without a plan has the match of its header"
        plan = self._planned.planner.make(body.match, body.slab.memory[: body.num_bytes])
        if plan is not None:
            more_bytes = plan.charge_bytes - body.charged_bytes
            self._planned.admission.charge(more_bytes, body.charged_bytes)
            body.charged_bytes = plan.charge_bytes
        return plan

    def _replay(self, body: ReceivedBody) -> None:
        """Answer a request the ordinary way."""
        self._planned.admission.release(body.charged_bytes)
        unread, self._unread = bytes(self._unread), b""
        self._read_ordinary(body.prefix)
        self._read_ordinary(bytes(body.slab.memory[: body.num_received]))
        self._read_ordinary(unread)

    def _read_ordinary(self, data: bytes) -> None:
        """Hand bytes to uvicorn's protocol."""
        if self._ordinary is None:
            self._ordinary = uvicorn_protocol.Connection(*self._ordinary_arguments)
            self._ordinary.connection_made(self._transport)
            self._server_state.connections.discard(self._ordinary)
        if data and not self._transport.is_closing():
            self._ordinary.data_received(data)

    def _answer(self, entry: PlannedEntry, outcome: Completed[Any] | Exception) -> None:
        """Send the answer of a request."""
        transport, planned, started = self._transport, self._planned, time.monotonic()
        statistics = entry.call.plan.answer.statistics
        if statistics is not None and isinstance(outcome, Exception):
            statistics.add_failure(outcome, entry.arrived)
        if transport.is_closing():
            self._status = CLIENT_LEFT
            self._finish(entry)
            return
        closes = self._closes = self._is_ending or planned.lifecycle.ending
        headers = self._server_state.default_headers
        try:
            try:
                status, parts = render_answer(planned, entry, outcome, headers, closes=closes)
            except Exception as failure:
                status, parts = render_answer(planned, entry, failure, headers, closes=closes)
            is_sent = send(transport, self._fd, parts)
        except Exception:
            log.exception("an answer could not be sent")
            transport.abort()
            status, is_sent = CLIENT_LEFT, True
        if statistics is not None and not isinstance(outcome, Exception):
            statistics.add_success(outcome, entry.arrived, started)
        self._status = status
        if is_sent:
            self._finish(entry)

    def pause_writing(self) -> None:
        """Pass on that the client does not read."""
        if self._ordinary is not None:
            self._ordinary.pause_writing()

    def resume_writing(self) -> None:
        """Finish a request whose answer is with the kernel now."""
        if self._ordinary is not None:
            self._ordinary.resume_writing()
        if self._entry is not None and self._status:
            self._transport.set_write_buffer_limits()
            self._finish(self._entry)

    def _finish(self, entry: PlannedEntry) -> None:
        """Record an answered request, free its memory, and go on with the next one."""
        planned, transport = self._planned, self._transport
        status, self._status, self._entry = self._status, 0, None
        planned.admission.release(entry.charged_bytes)
        self._server_state.total_requests += 1
        route = entry.call.plan.answer.route
        seconds = time.monotonic() - entry.arrived
        planned.record(
            Record(entry.request_id, "POST", route, route, status, seconds, entry.header)
        )
        if transport.is_closing():
            return
        if self._closes:
            transport.close()
            return
        if self._is_reading_paused:
            self._is_reading_paused = False
            transport.resume_reading()
        if self._unread:
            asyncio.get_running_loop().call_soon(self._read_unread)
        elif self._is_ending:
            self._close_if_idle()

    def _record_left(self, route: str, fields: Mapping[bytes, bytes], arrived: float) -> None:
        """Record a request whose client left before its body was complete."""
        request_id, seconds = self._planned.request_id(fields), time.monotonic() - arrived
        self._planned.record(Record(request_id, "POST", route, route, CLIENT_LEFT, seconds, fields))

    def shutdown(self) -> None:
        """Close when no request is in flight; called when the service ends.

        A client that has just connected is about to send a request, so it gets FIRST_REQUEST_S.
        """
        self._is_ending = True
        if self._is_new:
            loop = asyncio.get_running_loop()
            loop.call_later(uvicorn_protocol.FIRST_REQUEST_S, self._close_if_idle)
        else:
            self._close_if_idle()

    def _close_if_idle(self) -> None:
        """Close, unless a request is in progress or its first bytes are here: its answer closes.

        Closing a connection with unread bytes resets it: the request would be lost silently.
        """
        if self._ordinary is not None and not self._ordinary.is_free:
            self._ordinary.shutdown()
        elif (
            self._entry is None
            and self._body is None
            and not self._unread
            and not self._transport.is_closing()
            and not uvicorn_protocol.num_unread_bytes(self._transport)
        ):
            self._transport.close()
