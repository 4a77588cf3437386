"""What all connections of a server share for planned requests."""

import asyncio
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from itertools import count
from typing import Any

from service.asgi.io import Headers
from service.batching.admission import Admission
from service.batching.batcher import Batcher
from service.lifecycle import Lifecycle
from service.observability import ids
from service.observability.request_log import Record, RequestLog
from service.planned.planner import Planner
from service.slab_pool import SlabPool

LANDING_BYTES = 2**20
"""Size of the buffer in which all connections receive."""

_STATUS_LINES = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}


class PlannedRequests:
    """What all connections of a server share for planned requests.

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
        self.slab_pool = slab_pool
        self.batcher = batcher
        self.admission = admission
        self.lifecycle = lifecycle
        self.landing = bytearray(LANDING_BYTES)
        """Reading a packet and handling it follow each other at once, so one buffer is enough. It
        has bytes of earlier packets behind those of the last one."""
        self.landing_view = memoryview(self.landing)
        self._request_log = request_log
        self._records: list[Record] = []
        self._default_headers: Headers = []
        self._start_of_success = b""
        self._process_id = secrets.token_hex(4)
        self._next_id = count()

    def request_id(self, identifiers: Mapping[bytes, bytes]) -> str:
        """Return the client's identifier of a request, or a new one."""
        if b"x-request-id" in identifiers:
            return ids.request_id(identifiers)
        return f"{self._process_id}{next(self._next_id) & 0xFFFFFFFF:08x}"

    def start_of_response(self, status: int, default_headers: Headers) -> bytes:
        """Return the status line and the server's own headers, which have the time in seconds."""
        if status != HTTPStatus.OK:
            return _STATUS_LINES[HTTPStatus(status)] + render_headers(default_headers)
        if default_headers is not self._default_headers:
            self._default_headers = default_headers
            self._start_of_success = _STATUS_LINES[HTTPStatus.OK] + render_headers(default_headers)
        return self._start_of_success

    def record(self, record: Record) -> None:
        """Record an answered request, with all others of this iteration of the event loop."""
        if not self._records:
            asyncio.get_running_loop().call_soon(self._flush_records)
        self._records.append(record)

    def _flush_records(self) -> None:
        records, self._records = self._records, []
        self._request_log.record_all(records)


def render_headers(headers: Headers) -> bytes:
    """Return the lines of headers."""
    return b"".join([b"%s: %s\r\n" % header for header in headers])
