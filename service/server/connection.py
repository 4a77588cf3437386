"""One client's connection over HTTP/1.1: planned requests here, all others by `AsgiProtocol`.

uvloop hands the buffers of `get_buffer` to the kernel only for protocols that are no
`asyncio.Protocol`, so `AsgiProtocol` is a delegate and not the base class.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import count
from typing import Any, NamedTuple, cast

import uvicorn
from uvicorn.server import ServerState

from service.asgi import io
from service.asgi.middleware import CLIENT_LEFT
from service.batching.admission import Admission, Charge
from service.batching.batcher import Batcher
from service.batching.run import Completed
from service.errors import ClientLeft, Overloaded, ServiceError
from service.lifecycle import Lifecycle
from service.observability import ids
from service.observability.request_log import RequestLog
from service.planned.plan import Plan, PlannedEntry, PlannedJob, answer_parts
from service.planned.planner import Match, Planner
from service.server.asgi_protocol import AsgiProtocol
from service.server.connection_deadlines import Pending, Phase
from service.server.connection_limits import STATUS_CONNECTIONS, ConnectionLimits
from service.slab_pool import Slab, SlabPool
from service.wire import Buffer

LANDING = bytearray(2**20)
"""Where all connections receive: reading and handling a packet follow each other at once."""

_LANDING_VIEW = memoryview(LANDING)

MAX_PIPELINED_BYTES = 2**16
"""Bytes of later requests that are kept while a request is answered; then reading pauses."""


class PlannedRequests(NamedTuple):
    """What all connections need for planned requests."""

    planner: Planner
    slab_pool: SlabPool
    batcher: Batcher[Any, Any]
    admission: Admission
    lifecycle: Lifecycle
    request_log: RequestLog


class _Body:
    """The tensors of a request that is being received."""

    __slots__ = (
        *("arrived", "charge", "identifiers", "match", "message_id", "num_bytes", "num_received"),
        *("plan", "prefix", "slab"),
    )

    def __init__(
        self,
        plan: Plan | None,
        match: Match | None,
        prefix: bytes,
        charge: Charge,
        slab: Slab,
        num_bytes: int,
    ) -> None:
        self.plan = plan
        self.match = match
        self.prefix = prefix
        self.charge = charge
        self.slab = slab
        self.num_bytes = num_bytes
        self.num_received = 0
        self.arrived = time.monotonic()
        self.identifiers = match.identifiers if match is not None else {}
        self.message_id = match.description.message_id if match is not None else b""


class Connection(asyncio.BufferedProtocol):
    """One client's connection."""

    def __init__(
        self,
        planned: PlannedRequests,
        limits: ConnectionLimits,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._planned = planned
        self._limits = limits
        self._server_state = server_state
        self._ordinary_arguments = limits, config, server_state, app_state
        self._only_status = False
        """Whether the service has so many connections that this one gets its status only."""
        self._ordinary: AsgiProtocol | None = None
        self._plan: Plan | None = None
        self._body: _Body | None = None
        self._entry: PlannedEntry | None = None
        self._pipelined = b""
        self._closes = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._fd = transport.get_extra_info("socket").fileno()
        connections = self._server_state.connections
        connections.add(cast(Any, self))
        self._watch = self._limits.deadlines.watch(self, self._transport)
        self._watch.check()
        num_surplus = len(connections) - self._limits.max_connections
        self._only_status = num_surplus > 0
        if num_surplus > STATUS_CONNECTIONS:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Withdraw the request."""
        self._watch.stop()
        self._server_state.connections.discard(cast(Any, self))
        if self._ordinary is not None:
            self._ordinary.connection_lost(exc)
        body, self._body = self._body, None
        if body is not None:
            body.charge.release()
        self._pipelined = b""
        entry = self._entry
        if entry is not None and not entry.is_answered:
            self._planned.batcher.withdraw(entry, ClientLeft())
        elif entry is not None:
            self._finish(entry, CLIENT_LEFT)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where to receive: the rest of the body, else the landing buffer."""
        body = self._body
        if body is None:
            return _LANDING_VIEW
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
        plan = self._plan
        # the landing buffer has bytes of earlier packets behind these
        if (
            plan is not None
            and nbytes >= len(plan.prefix)
            and LANDING.startswith(plan.prefix)
            and self._is_free
            and not self._planned.lifecycle.ending
        ):
            start = len(plan.prefix)
            if self._receive(plan, None, _LANDING_VIEW[:nbytes], start, start + plan.num_bytes):
                return
        self._read(bytes(_LANDING_VIEW[:nbytes]))

    @property
    def _is_free(self) -> bool:
        """Whether no request is in progress."""
        ordinary = self._ordinary
        return self._entry is None and (ordinary is None or ordinary.is_free)

    def _read(self, data: bytes) -> None:
        """Handle bytes at the start of a request, or those for `AsgiProtocol`."""
        ordinary = self._ordinary
        if ordinary is not None and not ordinary.is_free:
            ordinary.data_received(data)
            return
        if self._entry is not None:
            self._pipelined += data
            if len(self._pipelined) > MAX_PIPELINED_BYTES:
                self._transport.pause_reading()
            return
        is_ordinary = self._planned.lifecycle.ending or self._only_status
        match = None if is_ordinary else self._planned.planner.match(data)
        if match is not None:
            if not (match.identifiers or match.description.message_id or match.plan is None):
                self._plan = match.plan
            if self._receive(match.plan, match, memoryview(data), match.start, match.end):
                return
        self._read_ordinary(data)

    def _receive(
        self, plan: Plan | None, match: Match | None, data: memoryview, start: int, end: int
    ) -> bool:
        """Begin to receive the body; return False if there is no memory for it."""
        charge = Charge(self._planned.admission)
        num_bytes = end - start
        try:
            charge.add(num_bytes if plan is None else plan.charge_bytes)
        except Overloaded:
            return False
        prefix = bytes(data[:start])
        body = _Body(
            plan, match, prefix, charge, self._planned.slab_pool.lease(num_bytes), num_bytes
        )
        part = data[start:end]
        body.slab.memory[: len(part)] = part
        body.num_received = len(part)
        if len(part) < num_bytes:
            self._body = body
            self._watch.check()
            return True
        self._pipelined = bytes(data[end:])
        self._submit(body)
        return True

    def _submit(self, body: _Body) -> None:
        """Put a request whose body is complete into the queue."""
        planned, plan = self._planned, body.plan
        if plan is None:
            assert body.match is not None, "a body without a plan has the match of its header"
            plan = planned.planner.make(body.match, body.slab.memory[: body.num_bytes])
            if plan is None:
                self._replay(body)
                return
            body.charge.add(plan.charge_bytes - body.num_bytes)
        entry = PlannedEntry(
            PlannedJob(plan, body.slab),
            body.arrived,
            body.arrived + plan.timeout_s,
            body.charge,
            self._answer,
            _request_id(body.identifiers),
            body.message_id,
            body.identifiers,
        )
        self._entry = entry
        try:
            planned.batcher.enqueue(entry)
        except ServiceError:  # refused: the ordinary way says why
            self._entry = None
            self._replay(body)

    def _replay(self, body: _Body) -> None:
        """Answer a request the ordinary way."""
        body.charge.release()
        data = body.prefix + bytes(body.slab.memory[: body.num_bytes]) + self._pipelined
        self._pipelined = b""
        self._read_ordinary(data)

    def _read_ordinary(self, data: bytes) -> None:
        self._make_ordinary().data_received(data)

    def _make_ordinary(self) -> AsgiProtocol:
        if self._ordinary is None:
            self._ordinary = AsgiProtocol(
                *self._ordinary_arguments, watch=self._watch, only_status=self._only_status
            )
            self._ordinary.connection_made(self._transport)
            self._server_state.connections.discard(cast(Any, self._ordinary))
        return self._ordinary

    def _answer(self, entry: PlannedEntry, outcome: Completed[Any] | Exception) -> None:
        """Send the answer of a request."""
        plan, backend, written_from = entry.call.plan, "", time.perf_counter()
        statistics = plan.answer.statistics
        if statistics is not None and isinstance(outcome, Exception):
            statistics.add_failure(outcome, entry.arrived)
        if self._transport.is_closing():
            self._finish(entry, CLIENT_LEFT)
            return
        if isinstance(outcome, Exception):
            status, headers, text = plan.answer.describe(outcome)
            fields, parts = b"".join(b"%s: %s\r\n" % field for field in headers), [text]
        else:
            status, result = 200, outcome.result
            backend = result.backend
            fields, preamble = plan.answer.fields, plan.answer.preamble
            if entry.message_id and plan.answer.with_id is not None:
                fields, preamble = plan.answer.with_id(entry.message_id)
            parts = [preamble, *answer_parts(result)]
            ((name, value),) = io.server_timing(outcome, backend)
            fields += b"%s: %s\r\n" % (name, value)
        if self._planned.lifecycle.ending:
            self._closes = True
        ending = b"connection: close\r\n\r\n" if self._closes else b"\r\n"
        self._write(
            [
                b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode()),
                *(b"%s: %s\r\n" % header for header in self._server_state.default_headers),
                fields,
                b"x-request-id: %s\r\n" % entry.request_id.encode(),
                ending,
                *parts,
            ]
        )
        if statistics is not None and not isinstance(outcome, Exception):
            statistics.add_success(outcome, entry.arrived, written_from)
        self._status = status
        if not self._transport.get_write_buffer_size():
            self._finish(entry, status)

    def _write(self, parts: Sequence[Buffer]) -> None:
        """Send parts at once; those that the kernel does not take are sent later."""
        transport, num_sent = self._transport, 0
        if not transport.get_write_buffer_size():
            try:
                num_sent = os.writev(self._fd, parts)
            except BlockingIOError:
                pass
            except OSError:
                transport.abort()
                return
        for part in parts:
            if num_sent >= len(part):
                num_sent -= len(part)
                continue
            transport.set_write_buffer_limits(high=0)  # tells when all is sent
            transport.write(memoryview(part)[num_sent:])
            num_sent = 0

    def pause_writing(self) -> None:
        """Pass on that the client does not read."""
        (self._ordinary or self._watch).pause_writing()

    def resume_writing(self) -> None:
        """Finish a request whose answer is with the kernel now."""
        (self._ordinary or self._watch).resume_writing()
        entry = self._entry
        if entry is not None and entry.is_answered:
            self._transport.set_write_buffer_limits()
            self._finish(entry, self._status)

    def _finish(self, entry: PlannedEntry, status: int) -> None:
        """Record a request, free its memory, and go on with the next one."""
        self._entry = None
        entry.charge.release()
        plan = entry.call.plan
        self._planned.request_log.record(
            request_id=entry.request_id,
            method="POST",
            path=plan.answer.route,
            route=plan.answer.route,
            status=status,
            started=entry.arrived,
            headers=entry.header,
        )
        if self._transport.is_closing():
            return
        if self._closes:
            self._transport.close()
            return
        self._watch.start_idle()
        self._transport.resume_reading()
        data, self._pipelined = self._pipelined, b""
        if data:
            self._read(data)

    def pending(self) -> Pending | None:
        """Return what the connection waits for; None: the client waits for the connection."""
        body, ordinary = self._body, self._ordinary
        if body is not None:
            return Pending(Phase.BODY, body.arrived, body.num_received)
        if ordinary is not None and not ordinary.is_free:
            return ordinary.pending()
        return None if self._entry is not None else self._watch.idle()

    def refuse_slow(self, phase: Phase) -> None:
        """Refuse the request whose header or body arrives too slowly."""
        body, self._body = self._body, None
        if body is not None:
            body.charge.release()
            self._read_ordinary(body.prefix)
        self._make_ordinary().refuse_slow(phase)

    def shutdown(self) -> None:
        """Close when no request is in flight; called when the service ends."""
        self._closes = True
        if self._entry is None and self._body is None:
            self._make_ordinary().shutdown()


_process_id = secrets.token_hex(4)
_next_id = count()


def _request_id(identifiers: Mapping[bytes, bytes]) -> str:
    """Return the client's identifier, or a new one."""
    if b"x-request-id" in identifiers:
        return ids.request_id(identifiers)
    return f"{_process_id}{next(_next_id) & 0xFFFFFFFF:08x}"
