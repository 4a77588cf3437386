"""Counts every answered request of every protocol, and writes one log line for each."""

import time
from collections.abc import Mapping
from functools import lru_cache

from prometheus_client import Counter, Histogram

from service.observability import ids, logs
from service.observability.metrics import Metrics


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
        counter, histogram = self._labelled(route, status)
        counter.inc()
        histogram.observe(seconds)
        if self._logged and route not in self._quiet:
            line = {
                "time": time.time(),
                "level": "info",
                "message": "request",
                "request_id": request_id,
                "method": method,
                "path": path[:128],
                "status": status,
                "ms": round(seconds * 1e3, 3),
            }
            if b"traceparent" in headers:
                line["trace_id"] = ids.trace_id(headers)
            logs.write(line)

    def _label(self, route: str, status: int | str) -> tuple[Counter, Histogram]:
        metrics = self._metrics
        return metrics.requests.labels(route, str(status)), metrics.request_seconds.labels(route)
