"""The asynchronous client."""

import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar, Unpack

import anyio
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
from rope_client.sessions.asession import AsyncSession, SessionOpening
from rope_client.sessions.document import SessionDocument
from rope_client.sessions.endpoint import StreamEndpoint
from rope_client.sessions.many import step_many
from rope_client.transport import (
    Address,
    StrPath,
    arguments,
    failure_of,
    key_header,
    outcome_of,
    places,
    tls_context,
)
from rope_client.wire import Encoding

P = ParamSpec("P")
T = TypeVar("T")


def _sends(
    build: Callable[P, Call[T]],
) -> Callable[Concatenate["AsyncClient", P], Coroutine[Any, Any, T]]:
    """Make a method that builds a call and sends it."""

    # not `async def`: the frame of the caller is known now, and not when a task of its own runs
    @described_by(build)
    def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._send(lambda: build(*args, **kwargs), Caller.of(sys._getframe(1)))

    return method


def _itself(call: Call[T]) -> Call[T]:
    return call


def _opens(
    build: Callable[P, Call[SessionDocument]],
) -> Callable[Concatenate["AsyncClient", P], SessionOpening]:
    """Make a method that sends a call and returns the session of its answer."""

    @described_by(build)
    def method(self: "AsyncClient", /, *args: P.args, **kwargs: P.kwargs) -> SessionOpening:
        caller = Caller.of(sys._getframe(1))

        async def opening() -> AsyncSession:
            return AsyncSession(self, await self._send(lambda: build(*args, **kwargs), caller))

        return SessionOpening(opening())

    return method


class AsyncClient:
    """Asynchronous client of a rope-service, for asyncio and trio.

    All tasks of an event loop may share one, however many they are.

    Args:
        base_url: address of the service: `http://host:port`, `https://host:port`, or `unix:/path`
            for its Unix-domain socket.
        api_key: API key, sent as `Authorization: Bearer` with each request; None: no key.
        encoding: `"safetensors"`, or `"json"` for people to read.
        timeout_s: deadline of a call, with all attempts and pauses, from the time it has a place.
        retry: when to retry.
        max_concurrency: number of calls that are sent at a time, each over a connection of its own;
            further calls wait for a place, without a limit of time.
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
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._settings = Settings(
            encoding=encoding, timeout_s=timeout_s, retry=retry or RetryPolicy(), clock=clock
        )
        self._address = address = Address.of(base_url)
        verify = tls_context(ca_file, client_cert, has_transport=transport is not None)
        headers = key_header(api_key)
        self._stream_endpoint = StreamEndpoint.of(address, verify, headers)

        def open_client() -> httpx.AsyncClient:
            own = transport
            if own is None and address.socket_path is not None:
                own = httpx.AsyncHTTPTransport(
                    uds=address.socket_path, verify=verify, limits=ONE_CONNECTION
                )
            return httpx.AsyncClient(
                base_url=address.url,
                verify=verify,
                limits=ONE_CONNECTION,
                transport=own,
                headers=headers,
            )

        self._connections = Connections(open_client)
        self._places = anyio.Semaphore(places(max_concurrency))
        self._warn = WarnOnce()
        self._outage_log = OutageLog()
        self._sleep = sleep

    def send(self, call: Call[T]) -> Coroutine[Any, Any, T]:
        """Send a call, with retries, and return its answer."""
        return self._send(lambda: call, Caller.of(sys._getframe(1)))

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

    async def sessions(
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
            call = session_calls.page(label, name, cursor, options)
            page, cursor = await self._send(partial(_itself, call), caller)
            documents += page
            if cursor is None:
                return documents

    def import_session(
        self,
        path: StrPath,
        *,
        ttl_s: float | None = None,
        name: str | None = None,
        **options: Unpack[Options],
    ) -> SessionOpening:
        """Make a session of a file that `AsyncSession.export` wrote in the form `stored`.

        It answers with the same bits as the exported one. The file is streamed; `timeout_s` bounds
        the attempts and the pauses, not the transfer.

        Args:
            path: of the file.
            ttl_s: seconds without use after which the session ends.
            name: of the session.
            options: of the call.
        """
        caller = Caller.of(sys._getframe(1))

        async def attempt(http: httpx.AsyncClient, request: Request) -> Response | RopeClientError:
            asked = arguments(transfer.without_timeout(request))
            try:
                content = transfer.pieces_of_async(path)
                return outcome_of(await http.request(**asked, content=content))
            except httpx.RequestError as error:
                return failure_of(error, self._address)

        async def opening() -> AsyncSession:
            call = transfer.import_session(path, ttl_s=ttl_s, name=name, **options)
            return AsyncSession(self, await self._send(lambda: call, caller, attempt))

        return SessionOpening(opening())

    async def _export(self, call: Call[int], target: transfer.ExportTarget, caller: Caller) -> int:
        async def attempt(http: httpx.AsyncClient, request: Request) -> Response | RopeClientError:
            try:
                async with http.stream(**arguments(request)) as response:
                    if response.status_code != call.answered_with:
                        await response.aread()
                        return outcome_of(response)
                    with target.attempt() as writer:
                        async for piece in response.aiter_bytes(transfer.PIECE_BYTES):
                            writer.write(piece)
                        writer.check(response.headers.get("content-length"))
                    return Response(response.status_code, response.headers, b"")
            except httpx.RequestError as error:
                return failure_of(error, self._address)

        return await self._send(lambda: call, caller, attempt)

    async def _send(
        self,
        build: Callable[[], Call[T]],
        caller: Caller,
        attempt: Callable[[httpx.AsyncClient, Request], Awaitable[Response | RopeClientError]]
        | None = None,
    ) -> T:
        attempt = attempt or self._attempt
        # built and encoded only with a place, so that waiting calls hold no copies of their tensors
        async with self._places:
            call = build()
            self._warn(call.warnings, caller)
            attempts = Attempts(call, self._settings, self._outage_log)
            with self._connections.one() as http:
                while True:
                    outcome = attempts.receive(await attempt(http, attempts.request()))
                    if isinstance(outcome, Answered):
                        break
                    await self._sleep(outcome.seconds)
        self._warn(outcome.warnings, caller)
        return outcome.answer

    async def _attempt(
        self, http: httpx.AsyncClient, request: Request
    ) -> Response | RopeClientError:
        try:
            return outcome_of(await http.request(**arguments(request), content=request.content))
        except httpx.RequestError as error:
            return failure_of(error, self._address)

    async def aclose(self) -> None:
        """Close the connections; the client cannot be used after that."""
        async with AsyncExitStack() as stack:  # an error of one leaves no other open
            for http in self._connections.end():
                stack.push_async_callback(http.aclose)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
