"""Failures in the form of the protocol: one status, and a body that is `{"error": text}`."""

from collections.abc import Mapping

import orjson

from service.asgi import problems
from service.asgi.io import Headers
from service.errors import ServiceError, printable


class UnknownModel(ServiceError):
    """There is no model of that name or version."""


class UnknownService(ServiceError):
    """There is no service of gRPC of that name."""


class UnknownRegion(ServiceError):
    """No region of shared memory is registered by that name."""


class AlreadyExists(ServiceError):
    """A region of shared memory is registered by that name already."""


class BadRegion(ServiceError):
    """A region of shared memory is not there, not allowed, or too small."""


class NotServed(ServiceError):
    """A part of the protocol that is not served here."""


class NotLoadable(ServiceError):
    """A model that shall be loaded or unloaded."""

    def __init__(self) -> None:
        super().__init__("models are loaded with the service, and not by requests")


class SharedMemoryOff(ServiceError):
    """The operator has not turned shared memory on."""

    def __init__(self) -> None:
        super().__init__("shared memory is not served here")


STATUSES: Mapping[type[Exception], int] = {
    UnknownModel: 404,
    UnknownRegion: 404,
    UnknownService: 404,
    AlreadyExists: 400,
    BadRegion: 400,
    NotServed: 501,
    SharedMemoryOff: 501,
    NotLoadable: 503,
}
"""Statuses of the protocol's own failures."""

_OTHER_HEADERS: Mapping[int, Headers] = {415: [(b"accept-encoding", b"gzip, deflate")]}


def classify(failure: Exception) -> tuple[int, str]:
    """Return the status of a failure, and the one line that tells it."""
    if type(failure) in STATUSES:
        return STATUSES[type(failure)], printable(failure, problems.MAX_DETAIL)
    row = problems.problem_for(failure)
    return status_of(row.status), row.detail


def status_of(status: int) -> int:
    """Return what a status of `/v1` is here, where all that a request says wrongly is 400."""
    return 400 if status in (406, 422) else status


def describe(failure: Exception) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of the answer to a failure."""
    status, text = classify(failure)
    more = _OTHER_HEADERS.get(status, problems.STATUS_HEADERS.get(status, []))
    headers, body = refusal(text)
    return status, [*headers, *more], body


def refusal(text: str) -> tuple[Headers, bytes]:
    """Return headers and body of an answer that says why not."""
    body = orjson.dumps({"error": text})
    length = str(len(body)).encode()
    return [(b"content-type", b"application/json"), (b"content-length", length)], body
