"""What is kept of every answered request, over whatever protocol: metrics, and one line of log."""

import time
from functools import lru_cache

from prometheus_client import Counter, Histogram

from service.asgi import io
from service.observability import logs
from service.observability.metrics import Metrics


class RequestLog:
    """Counts requests, and writes a line for each.

    Args:
        metrics: where requests are counted.
        logged: write lines.
        quiet: routes that machines ask every few seconds: counted, not logged.
    """

    def __init__(self, metrics: Metrics, *, logged: bool, quiet: frozenset[str]) -> None:
        self._metrics = metrics
        self._logged = logged
        self._quiet = quiet
        self._labelled = lru_cache(maxsize=512)(self._label)

    def keep(
        self,
        *,
        request_id: str,
        method: str,
        path: str,
        route: str,
        status: int | str,
        begun: float,
        headers: dict[bytes, bytes],
    ) -> None:
        """Keep what an answered request was, and how long it took since `begun`.

        Args:
            request_id: its name.
            method: how it came.
            path: what it asked for.
            route: what metrics call that.
            status: of its answer.
            begun: what `time.perf_counter` said at its head.
            headers: of which the trace is read.
        """
        took = time.perf_counter() - begun
        counter, histogram = self._labelled(route, status)
        counter.inc()
        histogram.observe(took)
        if self._logged and route not in self._quiet:
            line = {
                "time": time.time(),
                "level": "info",
                "message": "request",
                "request_id": request_id,
                "method": method,
                "path": path[:128],
                "status": status,
                "ms": round(took * 1e3, 3),
            }
            if b"traceparent" in headers:
                line["trace_id"] = io.trace_id(headers)
            logs.write(line)

    def _label(self, route: str, status: int | str) -> tuple[Counter, Histogram]:
        metrics = self._metrics
        return metrics.requests.labels(route, str(status)), metrics.request_seconds.labels(route)
