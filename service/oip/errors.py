"""Failures in the form of the protocol: one status, and a body that is `{"error": text}`."""

import orjson

from service import failures
from service.errors import ServiceError, printable
from service.http import Headers


class UnknownModel(ServiceError):
    """There is no model of that name or version."""


class UnknownRegion(ServiceError):
    """No region of shared memory is registered by that name."""


class AlreadyExists(ServiceError):
    """A region of shared memory is registered by that name already."""


class BadRegion(ServiceError):
    """A region of shared memory is not there, not allowed, or too small."""


class SharedMemoryOff(ServiceError):
    """The operator has not turned shared memory on."""

    def __init__(self) -> None:
        super().__init__("shared memory is not served here")


STATUSES: dict[type[Exception], int] = {
    UnknownModel: 404,
    UnknownRegion: 404,
    AlreadyExists: 400,
    BadRegion: 400,
    SharedMemoryOff: 501,
}
"""Statuses of the protocol's own failures."""


def describe(failure: Exception) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of the answer to a failure."""
    if type(failure) in STATUSES:
        return STATUSES[type(failure)], *refusal(printable(failure, failures.MAX_DETAIL))
    status, headers, body = failures.describe(failure)
    more = [(n, v) for n, v in headers if n not in (b"content-type", b"content-length")]
    own, told = refusal(orjson.loads(body)["error"])
    return 400 if status in (406, 422) else status, own + more, told


def refusal(text: str) -> tuple[Headers, bytes]:
    """Return headers and body of an answer that says why not."""
    body = orjson.dumps({"error": text})
    length = str(len(body)).encode()
    return [(b"content-type", b"application/json"), (b"content-length", length)], body
