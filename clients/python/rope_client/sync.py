"""The blocking client."""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack

import httpx

from rope_client import calls
from rope_client.attempts import Answered, Attempts, OutageLog, Request, Settings
from rope_client.call import Call, Options, Response
from rope_client.connections import ONE_CONNECTION, Connections
from rope_client.errors import RopeClientError
from rope_client.methods import described_by
from rope_client.retry import RetryPolicy
from rope_client.rope_warning import Caller, WarnOnce
from rope_client.sessions import calls as session_calls
from rope_client.sessions import transfer
from rope_client.sessions.document import SessionDocument
from rope_client.sessions.endpoint import StreamEndpoint
from rope_client.sessions.many import step_many
from rope_client.sessions.session import Session
from rope_client.transport import (
    Address,
    StrPath,
    arguments,
    failure_of,
    in_pieces,
    key_header,
    outcome_of,
    places,
    tls_context,
)
from rope_client.wire import Encoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rope_client.transformers import RopeSessionCache

P = ParamSpec("P")
T = TypeVar("T")


def _sends(build: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    """Make a method that builds a call and sends it."""

    @described_by(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._send(build(*args, **kwargs), Caller.of(sys._getframe(1)))

    return method


def _opens(
    build: Callable[P, Call[SessionDocument]],
) -> Callable[Concatenate["Client", P], Session]:
    """Make a method that sends a call and returns the session of its answer."""

    @described_by(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> Session:
        return Session(self, self._send(build(*args, **kwargs), Caller.of(sys._getframe(1))))

    return method


class Client:
    """Blocking client of a rope-service; threads may share one.

    Args:
        base_url: address of the service: `http://host:port`, `https://host:port`, or `unix:/path`
            for its Unix-domain socket.
        api_key: API key, sent as `Authorization: Bearer` with each request; None: no key.
        encoding: `"safetensors"`, or `"json"` for people to read.
        timeout_s: deadline of a call, with all attempts and pauses, from the time it has a place.
        retry: when to retry.
        max_concurrency: number of calls that are sent at a time, each over a connection of its own;
            further threads wait for a place, without a limit of time.
        ca_file: PEM file with the CA certificates that verify the certificate of the service; None:
            those of httpx.
        client_cert: PEM files of the client's certificate and its private key, for a service that
            requires one.
        transport: transport of httpx, for tests or for other TLS options.
        clock: returns monotonic seconds.
        sleep: pauses for a number of seconds.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        encoding: Encoding = "safetensors",
        timeout_s: float = 30.0,
        retry: RetryPolicy | None = None,
        max_concurrency: int = 64,
        ca_file: StrPath | None = None,
        client_cert: tuple[StrPath, StrPath] | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = Settings(
            encoding=encoding, timeout_s=timeout_s, retry=retry or RetryPolicy(), clock=clock
        )
        self._address = address = Address.of(base_url)
        verify = tls_context(ca_file, client_cert, has_transport=transport is not None)
        headers = key_header(api_key)
        self._stream_endpoint = StreamEndpoint.of(address, verify, headers)

        def open_client() -> httpx.Client:
            own = transport
            if own is None and address.socket_path is not None:
                own = httpx.HTTPTransport(
                    uds=address.socket_path, verify=verify, limits=ONE_CONNECTION
                )
            return httpx.Client(
                base_url=address.url,
                verify=verify,
                limits=ONE_CONNECTION,
                transport=own,
                headers=headers,
            )

        self._connections = Connections(open_client)
        self._places = threading.BoundedSemaphore(places(max_concurrency))
        self._warn = WarnOnce()
        self._outage_log = OutageLog()
        self._sleep = sleep

    def send(self, call: Call[T]) -> T:
        """Send a call, with retries, and return its answer."""
        return self._send(call, Caller.of(sys._getframe(1)))

    rotate = _sends(calls.rotate)
    attention = _sends(calls.attention)
    cos_sin = _sends(calls.cos_sin)
    shift = _sends(calls.shift)
    merge = _sends(calls.merge)
    resolve = _sends(calls.resolve)
    diagnose = _sends(calls.diagnose)
    compare = _sends(calls.compare)
    positions = _sends(calls.positions)
    presets = _sends(calls.presets)
    variants = _sends(calls.variants)
    ready = _sends(calls.ready)
    version = _sends(calls.version)

    session = _opens(session_calls.create)
    open_session = _opens(session_calls.inspect)
    step_many = _sends(step_many)

    def sessions(
        self,
        label: str | Sequence[str] = (),
        *,
        name: str | None = None,
        **options: Unpack[Options],
    ) -> list[SessionDocument]:
        """All sessions of the API key that have all labels, or the one with a name."""
        caller, cursor = Caller.of(sys._getframe(1)), None
        documents: list[SessionDocument] = []
        while True:
            page, cursor = self._send(session_calls.page(label, name, cursor, options), caller)
            documents += page
            if cursor is None:
                return documents

    def session_cache(
        self, model: "PreTrainedModel", **configuration: Any
    ) -> "AbstractContextManager[RopeSessionCache]":
        """Return a cache for a model of transformers; see `rope_client.transformers`."""
        from rope_client.transformers import session_cache

        return session_cache(self, model, **configuration)

    def import_session(
        self,
        path: StrPath,
        *,
        ttl_s: float | None = None,
        name: str | None = None,
        **options: Unpack[Options],
    ) -> Session:
        """Make a session of a file that `Session.export` wrote in the form `stored`.

        It answers with the same bits as the exported one. The file is streamed; `timeout_s` bounds
        the attempts and the pauses, not the transfer.

        Args:
            path: of the file.
            ttl_s: seconds without use after which the session ends.
            name: of the session.
            options: of the call.
        """
        call = transfer.import_session(path, ttl_s=ttl_s, name=name, **options)

        def attempt(http: httpx.Client, request: Request) -> Response | RopeClientError:
            asked = arguments(transfer.without_timeout(request))
            try:
                return outcome_of(http.request(**asked, content=transfer.pieces_of(path)))
            except httpx.RequestError as error:
                return failure_of(error, self._address)

        return Session(self, self._send(call, Caller.of(sys._getframe(1)), attempt))

    def _export(self, call: Call[int], target: transfer.ExportTarget, caller: Caller) -> int:
        def attempt(http: httpx.Client, request: Request) -> Response | RopeClientError:
            try:
                with http.stream(**arguments(request)) as response:
                    if response.status_code != call.answered_with:
                        response.read()
                        return outcome_of(response)
                    with target.attempt() as writer:
                        for piece in response.iter_bytes(transfer.PIECE_BYTES):
                            writer.write(piece)
                        writer.check(response.headers.get("content-length"))
                    return Response(response.status_code, response.headers, b"")
            except httpx.RequestError as error:
                return failure_of(error, self._address)

        return self._send(call, caller, attempt)

    def _send(
        self,
        call: Call[T],
        caller: Caller,
        attempt: Callable[[httpx.Client, Request], Response | RopeClientError] | None = None,
    ) -> T:
        attempt = attempt or self._attempt
        self._warn(call.warnings, caller)
        with self._places, self._connections.one() as http:
            attempts = Attempts(call, self._settings, self._outage_log)
            while True:
                outcome = attempts.receive(attempt(http, attempts.request()))
                if isinstance(outcome, Answered):
                    break
                self._sleep(outcome.seconds)
        self._warn(outcome.warnings, caller)
        return outcome.answer

    def _attempt(self, http: httpx.Client, request: Request) -> Response | RopeClientError:
        try:
            return outcome_of(
                http.request(**arguments(request), content=in_pieces(request.content))
            )
        except httpx.RequestError as error:
            return failure_of(error, self._address)

    def close(self) -> None:
        """Close the connections; the client cannot be used after that."""
        with ExitStack() as stack:  # an error of one leaves no other open
            for http in self._connections.end():
                stack.callback(http.close)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
