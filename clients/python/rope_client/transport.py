"""Conversion between the pure calls and httpx; only this module knows httpx's exceptions."""

import os
import ssl
from collections.abc import Iterator
from typing import Any

import httpx

from rope_client.attempts import Request
from rope_client.calls import Response
from rope_client.errors import ConnectionFailed, RopeClientError, TimedOut, UnexpectedAnswer

# the first class that the exception is an instance of wins
FAILURES: tuple[tuple[type[httpx.RequestError], type[RopeClientError]], ...] = (
    (httpx.TimeoutException, TimedOut),
    (httpx.TransportError, ConnectionFailed),
    (httpx.RequestError, UnexpectedAnswer),
)

SOCKET_URL = "http://localhost"
"""Address in the requests to a Unix-domain socket."""

StrPath = str | os.PathLike[str]

_PIECE_BYTES = 1 << 20


def unix_socket_of(base_url: str) -> str | None:
    """Return the path of a Unix-domain socket, from `unix:/path` or `unix:///path`; else None."""
    scheme, _, path = base_url.partition(":")
    return path.removeprefix("//") if scheme == "unix" else None


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
    """Return the argument `verify` of httpx: a TLS context, or True for httpx's defaults.

    Raises:
        ValueError: a transport is given as well, which has its own TLS options.
        OSError: a file cannot be read.
    """
    if ca_file is None and client_cert is None:
        return True
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
        "timeout": request.timeout_s,
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


def failure_of(error: httpx.RequestError) -> RopeClientError:
    """Return the exception of httpx as an error of ours."""
    error_class = next(mapped for cause, mapped in FAILURES if isinstance(error, cause))
    failure = error_class(f"{type(error).__name__}: {error}")
    failure.__cause__ = error
    return failure
