"""Around every HTTP request: identifier, error answer, log line and metrics."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from service.access.gate import Gate
from service.access.tenant import ANONYMOUS
from service.asgi import io
from service.asgi.io import Event, Receive, Scope, Send
from service.asgi.problems import ErrorAnswer
from service.errors import ClientLeft
from service.lifecycle import Lifecycle
from service.observability import ids
from service.observability.request_log import RequestLog
from service.sessions import paths

CLIENT_LEFT = 499
"""Logged status of a request whose client left before the answer (nginx's number)."""

CLIENT_LEFT_FIELDS = {"code": "client_left"}
"""Log fields of such a request."""

QUIET = frozenset(("/healthz", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready"))
"""Routes that machines call every few seconds."""

UNLOGGED = QUIET | {"/v1/recent", "/ui"}
"""Routes that have no log lines: also those that the page calls while somebody looks at it."""

App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RequestMiddleware:
    """Wraps every HTTP request, outside of FastAPI's layers. Hot routes bypass FastAPI."""

    app: App
    """FastAPI: answers all requests that no hot route answers."""
    hot: Mapping[str, App]
    """Applications by path, for POST; they are called without FastAPI's router."""
    pages: Mapping[str, App]
    """Applications by path, for GET; they are called without FastAPI's router."""
    sessions: App
    """Answers all requests below /v1/sessions."""
    paths: frozenset[str]
    """Names that metrics may show as a route; all others are "other"."""
    page: str | None
    """Path of the page and name of all its files in metrics; None: there is no page."""
    request_log: RequestLog
    describe: Callable[[str, Exception], ErrorAnswer]
    """Returns the answer to a failure on a path."""
    gate: Gate
    """Authenticates requests, and has the quotas."""
    lifecycle: Lifecycle
    """Once the service is ending, answers tell clients to close their connections."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        path = scope["path"]
        headers = scope[io.HEADERS_BY_NAME] = dict(scope["headers"])
        request_id = ids.request_id(headers)
        log_fields: dict[str, object] = {}
        scope[io.LOG_FIELDS] = log_fields
        status = 0

        async def send_with_id(event: Event) -> None:
            nonlocal status
            if not status:
                status = event["status"]
                id_header = (b"x-request-id", request_id.encode())
                event["headers"] = [*event.get("headers", ()), id_header]
                if self.lifecycle.ending:
                    event["headers"].append((b"connection", b"close"))
                    if path.startswith(paths.PREFIX):
                        event["headers"].append((b"x-session-export", b"possible"))
            await send(event)

        app = self.hot.get(path) if scope["method"] == "POST" else None
        if app is None:
            is_of_sessions = path.startswith(paths.PREFIX) or path == paths.SESSIONS
            app = self.sessions if is_of_sessions else self.app
            if path in self.pages and scope["method"] in ("GET", "HEAD"):
                app = self.pages[path]
        if io.REFUSAL in scope:
            app = _refuse
        try:
            if self.gate.needs_keys and app is not _refuse:
                app = self._authorized(app, scope)
            await app(scope, receive, send_with_id)
        except ClientLeft:
            status = CLIENT_LEFT
            log_fields |= CLIENT_LEFT_FIELDS
        except Exception as failure:
            if status:
                raise  # the answer had begun: uvicorn closes the connection
            answer = self.describe(path, failure)
            log_fields |= answer.log_fields
            await io.send(send_with_id, answer.status, answer.headers, [answer.body])
        route = path
        if path not in self.paths:
            route = "other"
            if path.startswith(paths.PREFIX):
                route, path = paths.route_of(path), paths.hide_id(path)
            elif self.page is not None and path.startswith(self.page + "/"):
                route = self.page
        self.request_log.record(
            request_id=request_id,
            method=scope["method"],
            path=path,
            route=route,
            status=status,
            started=started,
            headers=headers,
            failure=None if status < 400 else _with_length(log_fields, headers),
        )

    def _authorized(self, app: App, scope: Scope) -> App:
        """Authenticate a request; return an application that counts the request in the quota.

        Raises:
            Unauthenticated, Forbidden: as `Gate.authorize`.
        """
        tenant = scope[io.TENANT] = self.gate.authorize(scope["path"], io.authorization(scope))
        if tenant is ANONYMOUS:
            return app
        num_bytes = int(scope[io.HEADERS_BY_NAME].get(b"content-length", 0))

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            with self.gate.quotas.request(tenant, num_bytes):
                await app(scope, receive, send)

        return answer


def _with_length(
    log_fields: dict[str, object], headers: Mapping[bytes, bytes]
) -> dict[str, object]:
    """Return the fields with the declared length of the body, if the body has one."""
    length = headers.get(b"content-length", b"")[:20]
    return {"bytes": int(length), **log_fields} if length.isdigit() else log_fields


async def _refuse(scope: Scope, _receive: Receive, _send: Send) -> None:
    """Raise the error that answers a request which the server does not accept."""
    raise scope[io.REFUSAL]
