"""The table: which failure is answered with which status and code."""

import logging
from http import HTTPStatus

import orjson

from rope_core import ConfigError, NoBackend, RopeError, ShapeError
from service import errors

log = logging.getLogger("rope.failures")

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
    (RopeError, HTTPStatus.UNPROCESSABLE_ENTITY, "rope"),
    (errors.Overloaded, HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    (errors.ShuttingDown, HTTPStatus.SERVICE_UNAVAILABLE, "shutting_down"),
    (errors.TimedOut, HTTPStatus.GATEWAY_TIMEOUT, "timed_out"),
)

HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}
"""Codes of what the router itself refuses."""

RETRY_AFTER_S = 1


def describe(failure: Exception) -> tuple[int, str, str]:
    """Return status, code and the text for the client."""
    for kind, status, code in RESPONSES:
        if isinstance(failure, kind):
            return status.value, code, str(failure)
    # not in the table: our bug, of which the client learns nothing more
    log.error("unexpected failure", exc_info=failure)
    return 500, "internal", "internal error"


def problem(status: int, code: str, detail: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return headers and body of an RFC 9457 problem document."""
    body = orjson.dumps(
        {
            "type": f"urn:rope-service:problem:{code}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "code": code,
            "detail": detail,
            "error": detail,
        }
    )
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    if status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        headers.append((b"accept-encoding", b"identity"))
    return headers, body
