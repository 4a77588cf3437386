"""Counts every answered request of every protocol, and writes one log line for each."""

import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import Counter

from service.observability import ids, logs
from service.observability.histogram import Histogram
from service.observability.metrics import Metrics


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
        seconds: dict[tuple[str, int | str, tuple[str, str] | None], list[float]] = {}
        for _, _, _, route, status, request_seconds, _, backend_call in records:
            labels = route, status, backend_call  # most requests of a turn have the same
            if labels in seconds:
                seconds[labels].append(request_seconds)
            else:
                seconds[labels] = [request_seconds]
        for (route, status, backend_call), values in seconds.items():
            counter, histogram = self._labelled(route, status)
            counter.inc(len(values))
            histogram.observe_all(values)
            if backend_call is not None:
                self._metrics.backend_calls(*backend_call).inc(len(values))
        if self._logged:
            now = f'{{"time":{time.time()!r},"level":"info","message":"request","request_id":"'
            logs.output.write([now + _line(r) for r in records if r.route not in self._quiet])

    def _label(self, route: str, status: int | str) -> tuple[Counter, Histogram]:
        metrics = self._metrics
        return metrics.requests.labels(route, str(status)), metrics.request_seconds.labels(route)


def _line(record: Record) -> str:
    """Return the line of a request, from its identifier on."""
    request_id, method, path, _, status, seconds, headers, _ = record
    line = f'{request_id}",{_constant_fields(method, path[:128], status)},"ms":{seconds * 1e3:.3f}'
    if b"traceparent" in headers:
        line += "," + logs.render_fields({"trace_id": ids.trace_id(headers)})
    return line + "}\n"


@lru_cache(maxsize=512)
def _constant_fields(method: str, path: str, status: int | str) -> str:
    """Return the fields that are equal in the lines of many requests."""
    # ASCII only: terminals interpret some characters that JSON does not escape
    return json.dumps({"method": method, "path": path, "status": status}, separators=(",", ":"))[
        1:-1
    ]
