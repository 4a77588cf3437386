"""The blocking client."""

import time
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

import httpx

from rope_client import calls
from rope_client.attempts import Answered, Attempts, Request, Settings
from rope_client.calls import Call, Response
from rope_client.errors import RopeClientError
from rope_client.methods import described_by
from rope_client.retry import RetryPolicy
from rope_client.transport import (
    SOCKET_URL,
    StrPath,
    arguments,
    failure_of,
    in_pieces,
    key_header,
    outcome_of,
    tls_context,
    unix_socket_of,
)
from rope_client.wire import Encoding

P = ParamSpec("P")
T = TypeVar("T")


def _sends(build: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    """Make a method that builds a call and sends it."""

    @described_by(build)
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.send(build(*args, **kwargs))

    return method


class Client:
    """Blocking client of a rope-service; threads may share one.

    Args:
        base_url: address of the service: `http://host:port`, `https://host:port`, or `unix:/path`
            for its Unix-domain socket.
        api_key: API key, sent as `Authorization: Bearer` with each request; None: no key.
        encoding: `"safetensors"`, or `"json"` for people to read.
        timeout_s: deadline of a call, with all attempts and pauses.
        retry: when to retry.
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
        ca_file: StrPath | None = None,
        client_cert: tuple[StrPath, StrPath] | None = None,
        transport: httpx.BaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = Settings(
            encoding=encoding, timeout_s=timeout_s, retry=retry or RetryPolicy(), clock=clock
        )
        verify = tls_context(ca_file, client_cert, has_transport=transport is not None)
        socket_path = unix_socket_of(base_url)
        if socket_path is not None:
            base_url = SOCKET_URL
            transport = transport or httpx.HTTPTransport(uds=socket_path)
        self._http = httpx.Client(
            base_url=base_url, verify=verify, transport=transport, headers=key_header(api_key)
        )
        self._sleep = sleep

    def send(self, call: Call[T]) -> T:
        """Send a call, with retries, and return its answer."""
        attempts = Attempts(call, self._settings)
        while True:
            outcome = attempts.receive(self._attempt(attempts.request()))
            if isinstance(outcome, Answered):
                return outcome.answer
            self._sleep(outcome.seconds)

    rotate = _sends(calls.rotate)
    attention = _sends(calls.attention)
    cos_sin = _sends(calls.cos_sin)
    shift = _sends(calls.shift)
    merge = _sends(calls.merge)
    resolve = _sends(calls.resolve)
    positions = _sends(calls.positions)
    presets = _sends(calls.presets)
    variants = _sends(calls.variants)
    ready = _sends(calls.ready)
    version = _sends(calls.version)

    def _attempt(self, request: Request) -> Response | RopeClientError:
        try:
            return outcome_of(
                self._http.request(**arguments(request), content=in_pieces(request.content))
            )
        except httpx.RequestError as error:
            return failure_of(error)

    def close(self) -> None:
        """Close the connections; the client cannot be used after that."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
