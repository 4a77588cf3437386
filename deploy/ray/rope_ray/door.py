"""The way of requests from Ray's proxy into the service, and its start and end, as ASGI."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from service.asgi import problems
from service.asgi.io import Event, Receive, Scope, Send
from service.sessions import paths
from service.sessions.errors import SessionGone

App = Callable[[Scope, Receive, Send], Awaitable[None]]

WRONG_OWNER = 421


class Door:
    """Wraps the application of the service.

    Args:
        app: the application.
        lifespan: entered before the first request, left after the last.
        is_alive: whether the owner with this name is a running replica.
        endpoint: URL of this replica's own port, shown to those who create sessions; None: not
            shown. It is called for each of these answers.
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
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})  # Ray answers 403
        elif scope["path"].startswith(paths.SESSIONS):
            await _SessionAnswer(send, self._is_alive, self._endpoint).run(
                self._app, scope, receive
            )
        else:
            await self._app(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with self._lifespan:
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Exception as failure:
            await send({"type": "lifespan.startup.failed", "message": str(failure)})
            raise
        await send({"type": "lifespan.shutdown.complete"})


class _SessionAnswer:
    """The answer to one request of a session."""

    def __init__(
        self,
        send: Send,
        is_alive: Callable[[str], Awaitable[bool]],
        endpoint: Callable[[], str | None],
    ) -> None:
        self._send = send
        self._is_alive = is_alive
        self._endpoint = endpoint
        self._is_replaced = False

    async def run(self, app: App, scope: Scope, receive: Receive) -> None:
        await app(scope, receive, self._pass_on)

    async def _pass_on(self, event: Event) -> None:
        if event["type"] == "http.response.start":
            headers: list[Any] = event["headers"]
            if event["status"] == WRONG_OWNER:
                owner = dict(headers).get(b"x-session-owner", b"").decode()
                if not await self._is_alive(owner):
                    await self._send_lost(headers)
                    return
            elif event["status"] == 201 and (endpoint := self._endpoint()):
                headers.append((b"x-session-endpoint", endpoint.encode()))
        if not self._is_replaced:
            await self._send(event)

    async def _send_lost(self, headers: list[Any]) -> None:
        """Answer 410: the router chose this replica because the owner is none of the replicas."""
        self._is_replaced = True
        answer = problems.describe(SessionGone("owner_lost"))
        kept = [(name, value) for name, value in headers if name == b"x-request-id"]
        start = {"status": answer.status, "headers": [*answer.headers, *kept]}
        await self._send({"type": "http.response.start", **start})
        await self._send({"type": "http.response.body", "body": answer.body})
