"""A session and its stream, blocking."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from rope_client.attempts import Answered, Attempts, Request
from rope_client.call import Call, Response
from rope_client.errors import ConnectionFailed, RopeClientError, UnexpectedAnswer
from rope_client.methods import described_by
from rope_client.rope_warning import Caller
from rope_client.sessions import calls, transfer
from rope_client.sessions.bound import Operations, SessionProperties
from rope_client.sessions.connection import Connection
from rope_client.sessions.document import SessionDocument
from rope_client.sessions.operation import Operation
from rope_client.sessions.state import SessionState

if TYPE_CHECKING:
    from rope_client.sync import Client

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

DELETE_TIMEOUT_S = 5.0
"""At the end of a block; a session that is not deleted ends with its lease."""


def _call_method(
    build: Callable[Concatenate[str, P], Call[T]], then: Callable[[Session, T], R]
) -> Callable[Concatenate[Session, P], R]:
    """Make a method that sends a call, and returns what `then` makes of its answer."""

    @described_by(build, num_bound=1)
    def method(self: Session, /, *args: P.args, **kwargs: P.kwargs) -> R:
        caller = Caller.of(sys._getframe(1))
        with self.lock:
            return then(self, self.client._send(build(self.id, *args, **kwargs), caller))

    return method


def _export_method(
    build: Callable[Concatenate[str, P], tuple[Call[int], transfer.ExportTarget]],
) -> Callable[Concatenate[Session, P], int]:
    """Make a method that writes an export."""

    @described_by(build, num_bound=1)
    def method(self: Session, /, *args: P.args, **kwargs: P.kwargs) -> int:
        caller = Caller.of(sys._getframe(1))
        call, target = build(self.id, *args, **kwargs)
        with self.lock:
            return self.client._export(call, target, caller)

    return method


def _unchanged(_: Session, answer: T) -> T:
    return answer


def _update_state(session: Session, document: SessionDocument) -> SessionDocument:
    session.state.adopt(document)
    return document


def _make_sessions(session: Session, documents: list[SessionDocument]) -> list[Session]:
    return [Session(session.client, document) for document in documents]


class Session(SessionProperties, Operations):
    """A cache of keys and values that the service keeps. The end of a `with` block deletes it.

    `Client.session` and `Client.open_session` make sessions. Each change is guarded: if another
    client has changed the session, `SessionConflict` is raised and nothing changes; `inspect` takes
    the other's changes over.
    """

    def __init__(self, client: Client, document: SessionDocument) -> None:
        self.client = client
        self.state = SessionState(document)
        self.lock = threading.Lock()
        """Held while an operation runs: each one has the guards of the answer before."""

    inspect = _call_method(calls.inspect, _update_state)
    fork = _call_method(calls.fork, _make_sessions)
    update = _call_method(calls.update, _unchanged)
    touch = _call_method(calls.touch, _unchanged)
    freeze = _call_method(calls.freeze, _unchanged)
    delete = _call_method(calls.delete, _unchanged)
    export = _export_method(transfer.export)

    def stream(self) -> Stream:
        """Return the operations over a WebSocket, which takes a quarter of the time of HTTP."""
        return Stream(self)

    def _run(self, build: Callable[[], Operation[T]], caller: Caller) -> T:
        with self.lock:
            return self.client._send(build().as_request(), caller)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(RopeClientError):
            self.delete(timeout_s=DELETE_TIMEOUT_S)


class Stream(Operations):
    """The operations of a session over one WebSocket connection.

    The connection is made by the first operation. If it is lost, it is made again and the operation
    that was not answered is sent again, until the deadline of the call; the service recognises it.
    """

    def __init__(self, session: Session) -> None:
        self.state = session.state
        self._client = session.client
        self._lock = session.lock
        self._connection: Connection | None = None
        self._num_sent = 0
        self._is_closed = False

    def _run(self, build: Callable[[], Operation[T]], caller: Caller) -> T:
        client = self._client
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the stream is closed")
            self._num_sent += 1
            call = build().as_frame(self._num_sent, client._settings.timeout_s)
            client._warn(call.warnings, caller)
            attempts = Attempts(call, client._settings, client._outage_log)
            try:
                while True:
                    outcome = attempts.receive(self._attempt(attempts.request()))
                    if isinstance(outcome, Answered):
                        break
                    client._sleep(outcome.seconds)
            except UnexpectedAnswer:
                self._drop()
                raise
        client._warn(outcome.warnings, caller)
        return outcome.answer

    def _attempt(self, request: Request) -> Response | RopeClientError:
        was_idle = self._connection is not None
        try:
            return self._exchange(request)
        except ConnectionFailed as error:
            if not was_idle:
                return error
        except RopeClientError as error:
            return error
        try:  # an idle connection may have been closed long ago: another one at once
            return self._exchange(request)
        except RopeClientError as error:
            return error

    def _exchange(self, request: Request) -> Response:
        try:
            if self._connection is None:
                self._connection = Connection(
                    self._client._stream_endpoint,
                    request.path,
                    {"X-Session-Id": self.state.id},
                    request.timeout_s,
                )
            return self._connection.exchange(request.content or b"", request.timeout_s)
        except BaseException:  # also an interrupt: the answer would be taken for the next one
            self._drop()
            raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def close(self) -> None:
        """Close the connection; the session goes on."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
