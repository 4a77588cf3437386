"""The table: which failure is answered with which status and code."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import orjson

from rope_core import ConfigError, NoBackend, ShapeError
from rope_core.errors import KernelFailed, KernelNotBuilt
from service import errors
from service.asgi.io import Headers

log = logging.getLogger("rope.failures")

MAX_DETAIL = 1024
"""Characters of a detail, which may show what a client sent."""

# the first class that the failure is an instance of wins; codes never change
RESPONSES: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (errors.BadMessage, HTTPStatus.BAD_REQUEST, "bad_message"),
    (errors.BadHeader, HTTPStatus.BAD_REQUEST, "bad_header"),
    (errors.NotAcceptable, HTTPStatus.NOT_ACCEPTABLE, "not_acceptable"),
    (errors.TooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large"),
    (errors.UnsupportedMediaType, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
    (errors.BadTensor, HTTPStatus.UNPROCESSABLE_ENTITY, "shape"),
    (ShapeError, HTTPStatus.UNPROCESSABLE_ENTITY, "shape"),
    (ConfigError, HTTPStatus.UNPROCESSABLE_ENTITY, "config"),
    (errors.UnknownName, HTTPStatus.UNPROCESSABLE_ENTITY, "unknown"),
    (NoBackend, HTTPStatus.UNPROCESSABLE_ENTITY, "no_backend"),
    (KernelFailed, HTTPStatus.UNPROCESSABLE_ENTITY, "no_backend"),
    (KernelNotBuilt, HTTPStatus.SERVICE_UNAVAILABLE, "kernel_not_built"),
    (errors.Overloaded, HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    (errors.Expired, HTTPStatus.SERVICE_UNAVAILABLE, "expired"),
    (errors.ShuttingDown, HTTPStatus.SERVICE_UNAVAILABLE, "shutting_down"),
    (errors.DeviceFull, HTTPStatus.SERVICE_UNAVAILABLE, "device_memory"),
    (errors.DeviceLost, HTTPStatus.SERVICE_UNAVAILABLE, "device_lost"),
    (errors.DeviceStuck, HTTPStatus.SERVICE_UNAVAILABLE, "device_stuck"),
    (errors.TimedOut, HTTPStatus.GATEWAY_TIMEOUT, "timed_out"),
)

MORE_HEADERS: Mapping[int, Headers] = {
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: [(b"accept-encoding", b"identity")],
    HTTPStatus.SERVICE_UNAVAILABLE: [(b"retry-after", b"1")],
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure, as the client may know it."""

    status: int
    code: str
    title: str
    detail: str


def problem_for(failure: Exception) -> Problem:
    """Return the row of a failure."""
    for kind, status, code in RESPONSES:
        if isinstance(failure, kind):
            title = (kind.__doc__ or code).partition(".")[0]
            return Problem(status.value, code, title, errors.printable(failure, MAX_DETAIL))
    # not in the table: our bug, of which the client learns nothing more
    log.error("unexpected failure", exc_info=failure)
    return Problem(500, "internal", "Internal error", "internal error")


def describe(failure: Exception) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of the answer to a failure."""
    row = problem_for(failure)
    return row.status, *problem(row.status, row.code, row.title, row.detail)


def refuse(status: int, detail: str) -> tuple[Headers, bytes]:
    """Return headers and body of the answer to what the router refuses."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "http")
    return problem(status, code, HTTPStatus(status).phrase, detail)


def problem(status: int, code: str, title: str, detail: str) -> tuple[Headers, bytes]:
    """Return headers and body of an RFC 9457 problem document."""
    body = orjson.dumps(
        {
            "type": f"urn:rope-service:problem:{code}",
            "title": title,
            "status": status,
            "code": code,
            "detail": detail,
            "error": detail,
        }
    )
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *MORE_HEADERS.get(status, ()),
    ]
    return headers, body
