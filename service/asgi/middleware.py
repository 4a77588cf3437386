"""Around every request: its id, the answer to its failure, one line of log and its metrics."""

import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

from service.asgi import io, problems
from service.asgi.io import Event, Receive, Scope, Send
from service.errors import ClientLeft
from service.observability.request_log import RequestLog

CLIENT_LEFT = 499
"""What a log line says where the client did not wait for an answer (nginx's number)."""

QUIET = frozenset(("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"))
"""Routes asked by machines every few seconds."""

App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Requests:
    """Pure ASGI, outside of FastAPI's own layers.

    Args:
        app: answers what is not hot.
        hot: applications by path, for POST: reached without a walk through the router.
        paths: what a metric may name as a route; the rest is "other".
        request_log: where requests are kept.
        is_ending: tells whether the next request of a connection should go elsewhere.
    """

    def __init__(
        self,
        app: App,
        *,
        hot: Mapping[str, App],
        paths: frozenset[str],
        request_log: RequestLog,
        is_ending: Callable[[], bool],
    ) -> None:
        self.app = app
        self._is_ending = is_ending
        self._hot = hot
        self._paths = paths
        self._request_log = request_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        path = scope["path"]
        headers = scope[io.HEADERS_BY_NAME] = dict(scope["headers"])
        request_id = io.request_id(headers) or secrets.token_hex(8)
        status = 0

        async def send_named(event: Event) -> None:
            nonlocal status
            if not status:
                status = event["status"]
                named = (b"x-request-id", request_id.encode())
                event["headers"] = [*event.get("headers", ()), named]
                if self._is_ending():
                    event["headers"].append((b"connection", b"close"))
            await send(event)

        app = (self._hot.get(path) if scope["method"] == "POST" else None) or self.app
        try:
            await app(scope, receive, send_named)
        except ClientLeft:
            status = CLIENT_LEFT
        except Exception as failure:
            if status:
                raise  # the answer had begun: uvicorn breaks the connection off
            told, problem_headers, body = problems.describe(failure)
            await io.send(send_named, told, problem_headers, [body])
        self._request_log.keep(
            request_id=request_id,
            method=scope["method"],
            path=path,
            route=path if path in self._paths else "other",
            status=status,
            begun=begun,
            headers=headers,
        )
