"""Conversion between the pure calls and httpx; only this module knows httpx's exceptions."""

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from rope_client.attempts import Request
from rope_client.call import Response
from rope_client.errors import ConnectionFailed, RopeClientError, TimedOut, UnexpectedAnswer

# the first row that the exception is an instance of wins
FAILURES: tuple[tuple[type[httpx.RequestError], type[RopeClientError], str], ...] = (
    (
        httpx.PoolTimeout,
        TimedOut,
        "all connections of 'transport' to {} stayed in use: "
        "give it a larger limit of connections, or the client a smaller max_concurrency",
    ),
    (httpx.ConnectTimeout, ConnectionFailed, "no connection to {}"),
    (httpx.TimeoutException, TimedOut, "no answer in time from {}"),
    (httpx.ConnectError, ConnectionFailed, "no connection to {}"),
    (httpx.UnsupportedProtocol, UnexpectedAnswer, "the address {} cannot be used"),
    (httpx.LocalProtocolError, UnexpectedAnswer, "the request to {} is not valid HTTP"),
    (httpx.TransportError, ConnectionFailed, "the connection to {} broke"),
    (httpx.RequestError, UnexpectedAnswer, "the answer of {} cannot be read"),
)

_BROKEN_TLS = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

StrPath = str | os.PathLike[str]

_PIECE_BYTES = 1 << 20

CONNECT_TIMEOUT_S = 3.0
"""Then another attempt is made: the address of a host that restarts may drop packets."""


@dataclass(frozen=True, slots=True)
class Address:
    """Address of a service."""

    text: str
    """The address as the caller wrote it."""

    url: str
    """Base of the URLs of requests."""

    socket_path: str | None
    """Path of a Unix-domain socket; None: TCP."""

    @classmethod
    def of(cls, base_url: str) -> "Address":
        """Return the address `http://host:port`, `https://host:port`, `unix:/path`.

        Raises:
            ValueError: `base_url` has another form.
        """
        scheme, _, rest = base_url.partition(":")
        if scheme == "unix":
            return cls(base_url, "http://localhost", rest.removeprefix("//"))
        if scheme in ("http", "https") and httpx.URL(base_url).host:
            return cls(base_url, base_url, None)
        raise ValueError(
            f"base_url must be http://host:port, https://host:port or unix:/path, got {base_url!r}"
        )


def places(max_concurrency: int) -> int:
    """Return the number of places for calls.

    Raises:
        ValueError: it is not positive.
    """
    if max_concurrency < 1:
        raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
    return max_concurrency


def key_header(api_key: str | None) -> dict[str, str]:
    """Return the header Authorization for an API key; empty without a key.

    Raises:
        ValueError: the key is empty or has other characters than printable ASCII. The message does
            not contain the key.
    """
    if api_key is None:
        return {}
    key = api_key.strip()
    if not (key and key.isascii() and key.isprintable()):
        raise ValueError(
            "api_key must be printable ASCII characters in one line, got others or none"
        )
    return {"Authorization": f"Bearer {key}"}


def tls_context(
    ca_file: StrPath | None, client_cert: tuple[StrPath, StrPath] | None, *, has_transport: bool
) -> ssl.SSLContext | bool:
    """Return the argument `verify` of httpx: the TLS context that all connections share.

    Without files the context is httpx's default one; True with a transport, which has its own.

    Raises:
        ValueError: a transport is given as well, which has its own TLS options.
        OSError: a file cannot be read.
    """
    if ca_file is None and client_cert is None:
        return has_transport or httpx.create_ssl_context()
    if has_transport:
        raise ValueError("'ca_file' and 'client_cert' cannot be combined with 'transport'")
    context = ssl.create_default_context(cafile=ca_file)
    if client_cert is not None:
        context.load_cert_chain(*client_cert)
    return context


def arguments(request: Request) -> dict[str, Any]:
    """Return the arguments of `httpx.Client.request`, without the content."""
    return {
        "method": request.method,
        "url": request.path,
        "headers": request.headers,
        "timeout": httpx.Timeout(
            request.timeout_s, connect=min(request.timeout_s, CONNECT_TIMEOUT_S)
        ),
    }


def in_pieces(content: bytes | None) -> Iterator[bytes] | None:
    """Return the content in slices: httpcore copies the rest of one whole body at each `send`.

    That is quadratic: 600 MB took 20 s, and 1 s in slices. Asynchronous httpcore does not copy.
    """
    if content is None:
        return None
    return (content[start : start + _PIECE_BYTES] for start in range(0, len(content), _PIECE_BYTES))


def outcome_of(response: httpx.Response) -> Response:
    """Return the response of httpx as ours."""
    return Response(response.status_code, response.headers, response.content)


def failure_of(error: httpx.RequestError, address: Address) -> RopeClientError:
    """Return our error for an exception of httpx; the error names the address and the cause."""
    error_class, text = next(row[1:] for row in FAILURES if isinstance(error, row[0]))
    cause = _first_cause(error)
    detail = f"{text.format(address.text)}: {type(error).__name__}: {error}"
    if str(cause) not in detail:
        detail += f" ({type(cause).__name__}: {cause})"
    failure = error_class(detail)
    failure.__cause__ = error
    return lasting_if_tls(failure, cause)


def lasting_if_tls(failure: RopeClientError, cause: BaseException) -> RopeClientError:
    """Return the failure; one of TLS is not transient, unless the connection only broke."""
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, _BROKEN_TLS):
        failure.is_transient = False  # a certificate that is not valid, or a server without TLS
    return failure


def _first_cause(error: BaseException) -> BaseException:
    """Return the exception that others were raised from, usually of the operating system."""
    if isinstance(error, BaseExceptionGroup):
        return _first_cause(error.exceptions[0])
    cause = error.__cause__
    if type(error).__module__ == "httpcore":
        cause = cause or error.__context__  # its pool raises from None
    return error if cause is None else _first_cause(cause)
