"""The ASGI application that Ray's proxy calls: the service, with answers that Ray can pass on."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from service.asgi import problems
from service.asgi.io import Event, Receive, Scope, Send
from service.sessions import paths
from service.sessions.errors import SessionGone

App = Callable[[Scope, Receive, Send], Awaitable[None]]

WRONG_OWNER = 421


class ProxyApp:
    """Wraps the application of the service.

    Args:
        app: the application.
        lifespan: entered before the first request, left after the last.
        is_alive: whether the owner with this name is a running replica.
        endpoint: returns the URL of this replica's own port for the answer that creates a session;
            None: the answer has no URL.
    """

    def __init__(
        self,
        app: App,
        lifespan: AbstractAsyncContextManager[None],
        *,
        is_alive: Callable[[str], Awaitable[bool]],
        endpoint: Callable[[], str | None],
    ) -> None:
        self._app = app
        self._lifespan = lifespan
        self._is_alive = is_alive
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or start and end the service."""
        if scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # Ray answers 403
        else:
            answer = _Answer(scope, send, self._is_alive, self._endpoint)
            await self._app(scope, receive, answer.send)

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._lifespan:
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as failure:
            await send({"type": "lifespan.startup.failed", "message": str(failure)})
            raise
        await send({"type": "lifespan.shutdown.complete"})


class _Answer:
    """The answer to one request."""

    def __init__(
        self,
        scope: Scope,
        send: Send,
        is_alive: Callable[[str], Awaitable[bool]],
        endpoint: Callable[[], str | None],
    ) -> None:
        self._creates = scope["path"].startswith(paths.SESSIONS) and scope["method"] == "POST"
        self._send = send
        self._is_alive = is_alive
        self._endpoint = endpoint
        self._is_replaced = False

    async def send(self, event: Event) -> None:
        """Send an event of the service, or the start of another answer that replaces it."""
        if event["type"] == "http.response.start":
            # Ray's proxy gives each request its identifier, and adds it to the answer
            headers = [pair for pair in event["headers"] if pair[0] != b"x-request-id"]
            if event["status"] == WRONG_OWNER:
                owner = dict(headers).get(b"x-session-owner", b"").decode()
                self._is_replaced = not await self._is_alive(owner)
            elif event["status"] == 201 and self._creates and (endpoint := self._endpoint()):
                headers.append((b"x-session-endpoint", endpoint.encode()))
            event = {**event, "headers": headers}
            if self._is_replaced:
                await self._send_lost()
        elif event["type"] == "http.response.body":
            event = {**event, "body": bytes(event.get("body", b""))}  # Ray pickles no views
        if not self._is_replaced:
            await self._send(event)

    async def _send_lost(self) -> None:
        """Answer 410: no replica is the owner, so the router chose any replica."""
        answer = problems.describe(SessionGone("owner_lost"))
        start = {"status": answer.status, "headers": answer.headers}
        await self._send({"type": "http.response.start", **start})
        await self._send({"type": "http.response.body", "body": answer.body})
