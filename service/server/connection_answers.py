"""The sending half of a connection: answers to planned requests, and refusals."""

import asyncio
import logging
import time
from abc import abstractmethod
from typing import Any

from uvicorn.server import ServerState

from service.access.tenant import ANONYMOUS
from service.asgi.middleware import CLIENT_LEFT, CLIENT_LEFT_FIELDS
from service.batching.run import Completed
from service.planned.plan import Plan, PlannedEntry
from service.planned.planner import Match
from service.server.asgi_protocol import AsgiProtocol
from service.server.connection_deadlines import Watch
from service.server.connection_draining import has_unread_bytes, seconds_unread
from service.server.connection_pacer import ConnectionPacer
from service.server.discard import discard
from service.server.planned_answer import render_answer, render_refusal, send
from service.server.planned_requests import PlannedRequests
from service.wire import Buffer

log = logging.getLogger("rope.failures")

MAX_DISCARDED_BYTES = 2**20
"""Most bytes of a refused body that are received and discarded to keep the connection open."""


class AnsweringConnection(asyncio.BufferedProtocol):
    """Base class of `Connection`: sends answers and refusals; the subclass receives requests."""

    _transport: asyncio.Transport
    _fd: int
    _watch: Watch

    def __init__(
        self, planned: PlannedRequests, pacer: ConnectionPacer, server_state: ServerState
    ) -> None:
        self._planned = planned
        self._pacer = pacer
        self._server_state = server_state
        self._ordinary: AsgiProtocol | None = None
        self._entry: PlannedEntry | None = None
        self._status = 0
        """Status of the answer that is being sent; else 0."""
        self._unread: Buffer = b""
        """Bytes behind the request in progress, or those of an incomplete description."""
        self._num_to_discard = 0
        """Bytes of a refused body that are still to be discarded."""
        self._waited_s = 0.0
        """Seconds that the next request waited in the kernel while reading was paused, or before
        the connection was accepted."""
        self._is_reading_paused = False
        self._has_received_eof = False
        """Whether the client has sent its FIN."""
        self._is_ending = False
        """Whether the connection closes after the next answer, which has `Connection: close`."""
        self._closes = False
        """Whether the answer that is being sent has `Connection: close`."""

    def _answer(self, entry: PlannedEntry, outcome: Completed[Any] | Exception) -> None:
        """Send the answer of a request."""
        transport, planned, started = self._transport, self._planned, time.monotonic()
        statistics = entry.call.plan.answer_format.statistics
        if statistics is not None and isinstance(outcome, Exception):
            statistics.add_failure(outcome, entry.arrived)
        if transport.is_closing():
            self._status = CLIENT_LEFT
            entry.failure = {**CLIENT_LEFT_FIELDS, **entry.call.plan.log_fields}
            self._finish(entry)
            return
        closes = self._closes = self._is_ending or planned.lifecycle.ending
        headers = self._server_state.default_headers
        try:
            status, parts = render_answer(planned, entry, outcome, headers, closes=closes)
            is_sent = send(transport, self._fd, parts)
        except Exception:  # the other requests of the batch must get their answers
            log.exception("an answer could not be sent")
            transport.abort()
            status, is_sent = CLIENT_LEFT, True
            entry.failure = {**CLIENT_LEFT_FIELDS, **entry.call.plan.log_fields}
        if not isinstance(outcome, Exception):
            entry.backend_call = entry.call.plan.operation_name, outcome.result.backend
            if statistics is not None:
                statistics.add_success(outcome, entry.arrived, started)
        self._status = status
        if is_sent:
            self._finish(entry)

    def pause_writing(self) -> None:
        """Start the deadline of a client that does not read."""
        (self._ordinary or self._watch).pause_writing()

    def resume_writing(self) -> None:
        """Finish the request: the kernel has its whole answer."""
        (self._ordinary or self._watch).resume_writing()
        if self._entry is not None and self._status:
            self._transport.set_write_buffer_limits()
            self._finish(self._entry)

    def _finish(self, entry: PlannedEntry) -> None:
        """Record an answered request, free its memory, and go on with the next one."""
        planned, transport = self._planned, self._transport
        status, self._status, self._entry = self._status, 0, None
        planned.admission.release(entry.charged_bytes, entry.tenant)
        if entry.tenant is not ANONYMOUS:
            planned.gate.quotas.end(entry.tenant)
        self._server_state.total_requests += 1
        route = entry.call.plan.answer_format.route
        planned.record(
            route,
            entry.request_id,
            status,
            entry.arrived,
            entry.identifiers,
            entry.backend_call,
            entry.failure,
        )
        if transport.is_closing():
            return
        if self._closes:
            self._close()
            return
        if self._is_reading_paused:
            self._resume_reading()
        if self._unread:
            asyncio.get_running_loop().call_soon(self._read_unread)
        else:
            self._watch.start_idle()
            if self._is_ending:
                self.shutdown()

    def _refuse(
        self, plan: Plan, match: Match | None, data: memoryview, end: int, arrived: float
    ) -> bool:
        """Refuse a request before its body is received, if `PlannedRequests.refusal` has a reason.

        Args:
            plan: plan of the request.
            match: match of the request; None if the header is that of `plan`.
            data: received bytes of the request, and bytes behind the request.
            end: offset in `data` at which the request ends.
            arrived: time of `time.monotonic` when the request arrived.

        Returns:
            Whether the request was refused.
        """
        planned, transport = self._planned, self._transport
        refusal = planned.refusal(plan, arrived)
        if refusal is None:
            return False
        num_missing = end - len(data)
        if num_missing > MAX_DISCARDED_BYTES or transport.get_write_buffer_size():
            # `AsgiProtocol` closes the connection, and waits for clients that read slowly
            self._read_ordinary(bytes(data))
            return True
        self._closes = self._is_ending
        default_headers = self._server_state.default_headers
        answer, response, request_id, identifiers = render_refusal(
            planned, plan.answer_format, match, refusal, default_headers, closes=self._closes
        )
        send(transport, self._fd, [response])
        if plan.answer_format.statistics is not None:
            plan.answer_format.statistics.add_failure(refusal, arrived)
        failure = {**answer.log_fields, **plan.log_fields}
        route = plan.answer_format.route
        planned.record(route, request_id, answer.status, arrived, identifiers, None, failure)
        self._server_state.total_requests += 1
        if num_missing > 0:
            self._num_to_discard = num_missing
        else:
            self._unread = bytes(data[end:])
        if self._closes:
            self._watch.start_idle()
            if num_missing > 0:
                self._watch.schedule()
            else:
                self._close()
        else:
            self._wait_after_refusal()
        return True

    def _resume_reading(self) -> None:
        self._is_reading_paused = False
        self._transport.resume_reading()

    def _close(self) -> None:
        """Close; linger first if the client has sent more, as the kernel would send a reset."""
        if not self._has_received_eof and (self._unread or has_unread_bytes(self._transport)):
            self._unread = b""
            if self._is_reading_paused:
                self._resume_reading()
            self._make_ordinary().linger()
        else:
            self._transport.close()

    def _discard(self, data: memoryview) -> None:
        """Discard received bytes of a refused body, and handle what follows."""
        num_discarded = min(len(data), self._num_to_discard)
        self._num_to_discard -= num_discarded
        if self._num_to_discard and self._fd >= 0:
            self._num_to_discard -= discard(self._fd, self._num_to_discard)
        if not self._num_to_discard and self._closes:
            self._close()
        elif not self._num_to_discard:
            self._watch.start_idle()
            self._unread = bytes(data[num_discarded:])
            if self._unread:
                self._read_unread()
            elif self._is_ending:
                self.shutdown()

    def _wait_after_refusal(self) -> None:
        """Pause reading until the pacer resumes it."""
        self._watch.start_idle()
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._pacer.hold(self._resume_after_refusal)

    def _resume_after_refusal(self) -> bool:
        """Resume reading after a refusal; return whether another request waits to be read."""
        if self._transport.is_closing():
            return False
        if self._num_to_discard and self._fd >= 0:
            self._num_to_discard -= discard(self._fd, self._num_to_discard)
        self._transport.resume_reading()
        if self._unread:
            self._read_unread()
            return True
        if self._is_ending:
            self.shutdown()
        has_request = not self._num_to_discard and has_unread_bytes(self._transport)
        self._waited_s = seconds_unread(self._transport) if has_request else 0.0
        return has_request

    @abstractmethod
    def _read_unread(self) -> None:
        """Handle the bytes behind the request that has been answered."""

    @abstractmethod
    def _read_ordinary(self, data: bytes) -> None:
        """Hand bytes to `AsgiProtocol`."""

    @abstractmethod
    def _make_ordinary(self) -> AsgiProtocol:
        """Return the `AsgiProtocol` of this connection; make it at first use."""

    @abstractmethod
    def shutdown(self) -> None:
        """Close when no request is in progress; called when the service ends."""
