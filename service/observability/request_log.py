"""Counts every answered request of every protocol, and writes one log line for each."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import Counter, Histogram

from service.observability import ids, logs
from service.observability.metrics import Metrics, observe_all


class Record(NamedTuple):
    """An answered request."""

    request_id: str
    method: str
    """HTTP method, or "gRPC"."""
    path: str
    """The path that the client wrote."""
    route: str
    """The path's name in metrics."""
    status: int | str
    seconds: float
    """From the request's header to the end of its answer."""
    headers: Mapping[bytes, bytes]
    """Of the request; `traceparent` is read."""
    backend_call: tuple[str, str] | None = None
    """Operation and backend of a call that was computed, where nothing else counts it."""


class RequestLog:
    """Metrics and log lines of requests.

    Args:
        metrics: where requests are counted.
        logged: whether lines are written.
        quiet: routes that are counted but not logged: machines call them every few seconds.
    """

    def __init__(self, metrics: Metrics, *, logged: bool, quiet: frozenset[str]) -> None:
        self._metrics = metrics
        self._logged = logged
        self._quiet = quiet
        self._labelled = lru_cache(maxsize=512)(self._label)

    def record(
        self,
        *,
        request_id: str,
        method: str,
        path: str,
        route: str,
        status: int | str,
        started: float,
        headers: Mapping[bytes, bytes],
    ) -> None:
        """Record an answered request.

        Args:
            request_id: its identifier.
            method: HTTP method, or "gRPC".
            path: the path that the client wrote.
            route: the path's name in metrics.
            status: of the answer.
            started: time of `time.perf_counter` at the request's header.
            headers: of the request; `traceparent` is read.
        """
        seconds = time.perf_counter() - started
        self.record_all([Record(request_id, method, path, route, status, seconds, headers)])

    def record_all(self, records: Sequence[Record]) -> None:
        """Record answered requests; their lines are written at once."""
        seconds = defaultdict(list)
        for record in records:
            seconds[record.route, record.status].append(record.seconds)
            if record.backend_call is not None:
                self._metrics.backend_calls(*record.backend_call).inc()
        for labels, values in seconds.items():
            counter, histogram = self._labelled(*labels)
            counter.inc(len(values))
            observe_all(histogram, values)
        if self._logged:
            now = time.time()
            logs.write(
                [_line(record, now) for record in records if record.route not in self._quiet]
            )

    def _label(self, route: str, status: int | str) -> tuple[Counter, Histogram]:
        metrics = self._metrics
        return metrics.requests.labels(route, str(status)), metrics.request_seconds.labels(route)


def _line(record: Record, now: float) -> dict[str, object]:
    line = {
        "time": now,
        "level": "info",
        "message": "request",
        "request_id": record.request_id,
        "method": record.method,
        "path": record.path[:128],
        "status": record.status,
        "ms": round(record.seconds * 1e3, 3),
    }
    if b"traceparent" in record.headers:
        line["trace_id"] = ids.trace_id(record.headers)
    return line
