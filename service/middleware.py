"""Around every request: its id, the answer to its failure, one line of log and its metrics."""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache

from prometheus_client import Counter, Histogram

from service import failures, http, logs
from service.errors import ClientLeft
from service.http import Event, Receive, Scope, Send
from service.metrics import Metrics

CLIENT_LEFT = 499
"""What a log line says where the client did not wait for an answer (nginx's number)."""

QUIET = frozenset(("/healthz", "/readyz", "/metrics"))
"""Asked by machines every few seconds: counted, not logged."""

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Requests:
    """Pure ASGI, outside of FastAPI's own layers.

    Args:
        app: answers what is not hot.
        hot: applications by path, for POST: reached without a walk through the router.
        paths: what a metric may name as a route; the rest is "other".
        metrics: where requests are counted.
        logged: write a line for each request.
    """

    def __init__(
        self,
        app: App,
        *,
        hot: Mapping[str, App],
        paths: frozenset[str],
        metrics: Metrics,
        logged: bool,
    ) -> None:
        self.app = app
        self._logged = logged
        self._hot = hot
        self._paths = paths
        self._metrics = metrics
        self._labelled = lru_cache(maxsize=512)(self._label)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        path = scope["path"]
        headers = dict(scope["headers"])
        request_id = http.request_id(headers) or secrets.token_hex(8)
        status = 0

        async def send_named(event: Event) -> None:
            nonlocal status
            if not status:
                status = event["status"]
                named = (b"x-request-id", request_id.encode())
                event["headers"] = [*event.get("headers", ()), named]
            await send(event)

        app = (self._hot.get(path) if scope["method"] == "POST" else None) or self.app
        try:
            await app(scope, receive, send_named)
        except ClientLeft:
            status = CLIENT_LEFT
        except Exception as failure:
            if status:
                raise  # the answer had begun: uvicorn breaks the connection off
            told, problem_headers, body = failures.describe(failure)
            await http.send(send_named, told, problem_headers, [body])
        took = time.perf_counter() - begun
        counter, histogram = self._labelled(path if path in self._paths else "other", status)
        counter.inc()
        histogram.observe(took)
        if self._logged and path not in QUIET:
            line = {
                "time": time.time(),
                "level": "info",
                "message": "request",
                "request_id": request_id,
                "method": scope["method"],
                "path": path[:128],
                "status": status,
                "ms": round(took * 1e3, 3),
            }
            if b"traceparent" in headers:
                line["trace_id"] = http.trace_id(headers)
            logs.write(line)

    def _label(self, route: str, status: int) -> tuple[Counter, Histogram]:
        metrics = self._metrics
        return metrics.requests.labels(route, str(status)), metrics.request_seconds.labels(route)
