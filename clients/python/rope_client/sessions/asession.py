"""A session and its stream, awaited."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import anyio

from rope_client.attempts import Answered, Attempts, Request
from rope_client.call import Call, Response
from rope_client.errors import ConnectionFailed, RopeClientError, UnexpectedAnswer
from rope_client.methods import described_by
from rope_client.rope_warning import Caller
from rope_client.sessions import calls, transfer
from rope_client.sessions.aconnection import AsyncConnection
from rope_client.sessions.bound import AsyncOperations, SessionProperties
from rope_client.sessions.document import SessionDocument
from rope_client.sessions.operation import Operation
from rope_client.sessions.session import DELETE_TIMEOUT_S
from rope_client.sessions.state import SessionState

if TYPE_CHECKING:
    from rope_client.aio import AsyncClient

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")


def _call_method(
    build: Callable[Concatenate[str, P], Call[T]], then: Callable[[AsyncSession, T], R]
) -> Callable[Concatenate[AsyncSession, P], Coroutine[Any, Any, R]]:
    """Make a method that sends a call, and returns what `then` makes of its answer."""

    @described_by(build, num_bound=1)
    def method(self: AsyncSession, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        caller = Caller.of(sys._getframe(1))

        async def send() -> R:
            async with self.lock:
                call = build(self.id, *args, **kwargs)
                return then(self, await self.client._send(lambda: call, caller))

        return send()

    return method


def _export_method(
    build: Callable[Concatenate[str, P], tuple[Call[int], transfer.ExportTarget]],
) -> Callable[Concatenate[AsyncSession, P], Coroutine[Any, Any, int]]:
    """Make a method that writes an export."""

    @described_by(build, num_bound=1)
    def method(
        self: AsyncSession, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, int]:
        caller = Caller.of(sys._getframe(1))
        call, target = build(self.id, *args, **kwargs)

        async def export() -> int:
            async with self.lock:
                return await self.client._export(call, target, caller)

        return export()

    return method


def _unchanged(_: AsyncSession, answer: T) -> T:
    return answer


def _update_state(session: AsyncSession, document: SessionDocument) -> SessionDocument:
    session.state.adopt(document)
    return document


def _make_sessions(session: AsyncSession, documents: list[SessionDocument]) -> list[AsyncSession]:
    return [AsyncSession(session.client, document) for document in documents]


class AsyncSession(SessionProperties, AsyncOperations):
    """A cache of keys and values that the service keeps; `Session` for `AsyncClient`."""

    def __init__(self, client: AsyncClient, document: SessionDocument) -> None:
        self.client = client
        self.state = SessionState(document)
        self.lock = anyio.Lock()
        """Held while an operation runs: each one has the guards of the answer before."""

    inspect = _call_method(calls.inspect, _update_state)
    fork = _call_method(calls.fork, _make_sessions)
    update = _call_method(calls.update, _unchanged)
    touch = _call_method(calls.touch, _unchanged)
    freeze = _call_method(calls.freeze, _unchanged)
    delete = _call_method(calls.delete, _unchanged)
    export = _export_method(transfer.export)

    def stream(self) -> AsyncStream:
        """Return the operations over a WebSocket, which takes a quarter of the time of HTTP."""
        return AsyncStream(self)

    async def _run(self, build: Callable[[], Operation[T]], caller: Caller) -> T:
        async with self.lock:
            call = build().as_request()
            return await self.client._send(lambda: call, caller)

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True), suppress(RopeClientError):
            await self.delete(timeout_s=DELETE_TIMEOUT_S)


class SessionOpening:
    """A session that is being made: `await` it, or enter it with `async with`."""

    def __init__(self, opening: Coroutine[Any, Any, AsyncSession]) -> None:
        self._opening = opening
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, Any, AsyncSession]:
        return self._opening.__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._opening
        return self._session

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session is not None:
            await self._session.__aexit__(*exc_info)


class AsyncStream(AsyncOperations):
    """The operations of a session over one WebSocket connection; `Stream` for `AsyncClient`."""

    def __init__(self, session: AsyncSession) -> None:
        self.state = session.state
        self._client = session.client
        self._lock = session.lock
        self._connection: AsyncConnection | None = None
        self._num_sent = 0
        self._is_closed = False

    async def _run(self, build: Callable[[], Operation[T]], caller: Caller) -> T:
        client = self._client
        async with self._lock:
            if self._is_closed:
                raise RuntimeError("the stream is closed")
            self._num_sent += 1
            call = build().as_frame(self._num_sent, client._settings.timeout_s)
            client._warn(call.warnings, caller)
            attempts = Attempts(call, client._settings, client._outage_log)
            try:
                while True:
                    outcome = attempts.receive(await self._attempt(attempts.request()))
                    if isinstance(outcome, Answered):
                        break
                    await client._sleep(outcome.seconds)
            except UnexpectedAnswer:
                await self._drop()
                raise
        client._warn(outcome.warnings, caller)
        return outcome.answer

    async def _attempt(self, request: Request) -> Response | RopeClientError:
        was_idle = self._connection is not None
        try:
            return await self._exchange(request)
        except ConnectionFailed as error:
            if not was_idle:
                return error
        except RopeClientError as error:
            return error
        try:  # an idle connection may have been closed long ago: another one at once
            return await self._exchange(request)
        except RopeClientError as error:
            return error

    async def _exchange(self, request: Request) -> Response:
        try:
            if self._connection is None:
                self._connection = await AsyncConnection.open(
                    self._client._stream_endpoint,
                    request.path,
                    {"X-Session-Id": self.state.id},
                    request.timeout_s,
                )
            return await self._connection.exchange(request.content or b"", request.timeout_s)
        except BaseException:  # also a cancellation: the answer would be taken for the next one
            await self._drop()
            raise

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def aclose(self) -> None:
        """Close the connection; the session goes on."""
        async with self._lock:
            self._is_closed = True
            await self._drop()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.aclose()
