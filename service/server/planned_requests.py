"""Charge, receive, submit and record planned requests, for all connections of a server."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from itertools import count
from typing import Any

from service.access.tenant import ANONYMOUS
from service.asgi.io import Headers
from service.asgi.middleware import CLIENT_LEFT, CLIENT_LEFT_FIELDS
from service.batching.admission import Admission
from service.batching.batcher import Batcher
from service.batching.run import Completed
from service.errors import ClientLeft, Overloaded, QuotaExceeded, ServiceError
from service.lifecycle import Lifecycle
from service.observability import ids
from service.observability.request_log import Record, RequestLog
from service.planned.header import MAX_HEADER_BYTES, NO_IDENTIFIERS
from service.planned.plan import Plan, PlannedEntry, PlannedJob
from service.planned.planner import MAX_DESCRIPTION_BYTES, Match, Planner
from service.server.received_body import ReceivedBody
from service.slab_pool import SlabPool

log = logging.getLogger("rope.failures")

LANDING_BYTES = 2**20
"""Size of the buffer in which all connections receive."""

MAX_PREFIX_BYTES = MAX_HEADER_BYTES + MAX_DESCRIPTION_BYTES
"""Longest header and description of tensors that have a plan."""

_STATUS_LINES = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}

SendAnswer = Callable[[PlannedEntry, Completed[Any] | Exception], None]
"""Sends the answer to a request."""


class PlannedRequests:
    """What all connections of a server share for planned requests.

    An unexpected failure is logged, and the request is answered the ordinary way.

    Args:
        planner: finds and makes plans.
        slab_pool: memory of the bodies.
        batcher: the queue of the device, for all requests.
        admission: the memory budget of all requests.
        lifecycle: no request is planned once the service is ending.
        request_log: where requests are counted and logged.
    """

    def __init__(
        self,
        planner: Planner,
        slab_pool: SlabPool,
        batcher: Batcher[Any, Any],
        admission: Admission,
        lifecycle: Lifecycle,
        request_log: RequestLog,
    ) -> None:
        self.planner = planner
        self.gate = planner.gate
        self.slab_pool = slab_pool
        self.batcher = batcher
        self.load = batcher.load
        self.admission = admission
        self.lifecycle = lifecycle
        self.landing = bytearray(LANDING_BYTES)
        """One buffer for all connections: each packet is handled before the next one is read. Bytes
        of earlier packets remain behind the last one."""
        self.landing_view = memoryview(self.landing)
        self.header_view = self.landing_view[:MAX_PREFIX_BYTES]
        self._request_log = request_log
        self._records: list[Record] = []
        self.default_headers: Headers = []
        self.start_of_success = b""
        """Status line and `default_headers` of answers of status 200."""
        self.new_id = map(f"{secrets.token_hex(4)}{{:08x}}".format, count()).__next__
        """Returns an identifier for a request that has none."""

    def match(self, data: memoryview) -> Match | None:
        """Return what is known of the request at the start of `data`; None: it is not planned."""
        if self.lifecycle.ending:
            return None
        try:
            match = self.planner.match(bytes(data[:MAX_PREFIX_BYTES]))
        except Exception:
            log.exception("a request has no plan because of a failure")
            return None
        if match is None or match.plan is not None or match.header.tenant is ANONYMOUS:
            return match
        # without a plan the description may not have arrived yet: the ordinary way refuses at once
        header = match.header
        return match if self.gate.quotas.allows(header.tenant, header.num_body_bytes) else None

    def refusal(self, plan: Plan, arrived: float) -> Overloaded | QuotaExceeded | None:
        """Return the error of a request that must be refused now; None: the request is accepted.

        A request is refused if its predicted wait is too long, or if it exceeds a quota.

        Args:
            plan: plan of the request.
            arrived: time of `time.monotonic` when the request arrived.
        """
        tenant = plan.tenant
        try:
            if tenant is not ANONYMOUS:
                self.gate.quotas.check(tenant, plan.num_body_bytes)
            deadline = arrived + plan.timeout_s
            spare_s = deadline - time.monotonic() - plan.job.seconds
            if self.load.outstanding_s > self.load.max_outstanding_s(spare_s):
                self.batcher.check(deadline, tenant, plan.job)
        except (Overloaded, QuotaExceeded) as refusal:
            return refusal
        return None

    def receive(
        self,
        plan: Plan | None,
        match: Match | None,
        data: memoryview,
        start: int,
        end: int,
        arrived: float | None = None,
    ) -> ReceivedBody | None:
        """Return a body with its received bytes; None: the request must go the ordinary way.

        None is returned if memory is short, the keys have just changed, or a quota is exceeded.

        Args:
            plan: plan of the request; None: it is made when the body is complete.
            match: match of the request; None if the header is that of `plan`.
            data: received bytes of the request, and bytes behind the request.
            start: offset in `data` at which the tensors begin.
            end: offset in `data` at which the request ends.
            arrived: time of `time.monotonic` when the header arrived; now if None.
        """
        now = time.monotonic()
        gate = self.gate
        if now >= gate.file.next_look and gate.refresh(now):
            return None
        num_bytes = end - start
        if plan is not None:
            tenant, num_body_bytes = plan.tenant, plan.num_body_bytes
        else:
            assert match is not None, "a request has a plan or a match"
            tenant, num_body_bytes = match.header.tenant, match.header.num_body_bytes
        # without a plan the body may be handed on, which copies it
        charged_bytes = 2 * num_bytes if plan is None else plan.charge_bytes
        try:
            self.admission.charge(charged_bytes, 0, tenant)
        except ServiceError:
            return None
        try:
            slab = self.slab_pool.lease(num_bytes)
        except Exception:
            log.exception("there is no memory for a body")
            self.admission.release(charged_bytes, tenant)
            return None
        if tenant is not ANONYMOUS and not self.gate.quotas.try_begin(tenant, num_body_bytes):
            self.admission.release(charged_bytes, tenant)
            return None
        part = data[start:end]
        num_received = len(part)
        slab.memory[:num_received] = part
        return ReceivedBody(
            plan,
            match,
            plan.prefix if match is None and plan is not None else bytes(data[:start]),
            slab,
            num_bytes,
            num_body_bytes,
            num_received,
            charged_bytes,
            tenant,
            now if arrived is None else arrived,
        )

    def release(self, body: ReceivedBody) -> None:
        """Free the charged memory and the quota of a request that is over or refused."""
        self.admission.release(body.charged_bytes, body.tenant)
        if body.tenant is not ANONYMOUS:
            self.gate.quotas.end(body.tenant)

    def give_back(self, body: ReceivedBody) -> None:
        """Undo the charges of a request that starts again on the ordinary way."""
        self.admission.release(body.charged_bytes, body.tenant)
        if body.tenant is not ANONYMOUS:
            self.gate.quotas.cancel(body.tenant, body.num_body_bytes)

    def submit(self, body: ReceivedBody, send_answer: SendAnswer) -> PlannedEntry | None:
        """Put a request whose body is complete into the queue.

        Returns:
            None: the request must be answered the ordinary way.
        """
        try:
            plan = body.plan or self._make_plan(body)
            if plan is None:
                return None
            match = body.match
            entry = PlannedEntry(
                PlannedJob(plan, body.slab),
                body.arrived,
                body.arrived + plan.timeout_s,
                body.charged_bytes,
                send_answer,
                self.new_id() if match is None else self.request_id(match.identifiers),
                b"" if match is None else match.description.message_id,
                NO_IDENTIFIERS if match is None else match.identifiers,
                tenant=plan.tenant,
            )
            try:
                self.batcher.enqueue(entry)
            except ServiceError as refusal:  # the ordinary way would copy the body
                asyncio.get_running_loop().call_soon(entry.resolve, refusal)
        except ServiceError:  # the ordinary way raises it again, and answers with it
            return None
        except Exception:
            log.exception("a request is answered without its plan because of a failure")
            return None
        return entry

    def request_id(self, identifiers: Mapping[bytes, bytes]) -> str:
        """Return the client's identifier of a request, or a new one."""
        return ids.request_id(identifiers) if b"x-request-id" in identifiers else self.new_id()

    def start_of_response(self, status: int, default_headers: Headers) -> bytes:
        """Return the status line and the server's own headers, which have the time in seconds."""
        start = _STATUS_LINES[HTTPStatus(status)] + render_headers(default_headers)
        if status == HTTPStatus.OK:
            self.default_headers, self.start_of_success = default_headers, start
        return start

    def timeout_s(self, body: ReceivedBody) -> float:
        """Return how long the client of a request waits."""
        if body.plan is not None:
            return body.plan.timeout_s
        assert body.match is not None, "a body without a plan has the match of its header"
        return self.planner.timeout_s(body.match.header)

    def record(
        self,
        route: str,
        request_id: str,
        status: int,
        arrived: float,
        identifiers: Mapping[bytes, bytes],
        backend_call: tuple[str, str] | None = None,
        failure: Mapping[str, object] | None = None,
    ) -> None:
        """Record an answered request, with all others of this iteration of the event loop."""
        if not self._records:
            asyncio.get_running_loop().call_soon(self._flush_records)
        seconds = time.monotonic() - arrived
        self._records.append(
            Record(
                request_id,
                "POST",
                route,
                route,
                status,
                seconds,
                identifiers,
                backend_call,
                failure,
            )
        )

    def record_left(self, match: Match | None, plan: Plan | None, arrived: float) -> None:
        """Record a request whose client left before its body was complete."""
        if plan is not None and plan.answer_format.statistics is not None:
            plan.answer_format.statistics.add_failure(ClientLeft(), arrived)
        failure: dict[str, object] = {**CLIENT_LEFT_FIELDS}
        if plan is not None:
            failure |= plan.log_fields
        if match is None:
            assert plan is not None, "a request has a plan or a match"
            route, identifiers = plan.answer_format.route, NO_IDENTIFIERS
            request_id = self.new_id()
        else:
            route, identifiers = match.header.target.decode(), match.identifiers
            request_id = self.request_id(identifiers)
            failure["bytes"] = match.header.num_body_bytes
        self.record(route, request_id, CLIENT_LEFT, arrived, identifiers, None, failure)

    def _flush_records(self) -> None:
        records, self._records = self._records, []
        self._request_log.record_all(records)

    def _make_plan(self, body: ReceivedBody) -> Plan | None:
        """Return the plan of a request, None if it can have none.

        Raises:
            Overloaded: there is too little memory for the answer.
        """
        assert body.match is not None, "a body without a plan has the match of its header"
        plan = self.planner.make(body.match, body.slab.memory[: body.num_bytes])
        if plan is not None:
            self.admission.charge(
                plan.charge_bytes - body.charged_bytes, body.charged_bytes, body.tenant
            )
            body.charged_bytes = plan.charge_bytes
        return plan


def render_headers(headers: Headers) -> bytes:
    """Return the lines of headers."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])
