"""Failures as the protocol answers them: a status, and the body `{"error": text}`."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import orjson

from service.asgi import problems
from service.asgi.io import Headers
from service.asgi.problems import ErrorAnswer
from service.errors import ServiceError, TensorTooLarge, printable


class UnknownModel(ServiceError):
    """No model has that name or version."""


class SequencesOff(UnknownModel):
    """The operator has not enabled sequence ids."""

    def __init__(self) -> None:
        super().__init__(
            "model rope_session is off: its clients choose the ids of sequences, so it needs API "
            "keys, or ROPE_SEQUENCE_IDS"
        )


class UnknownService(ServiceError):
    """No gRPC service has that name."""


class UnknownRegion(ServiceError):
    """No region of shared memory is registered under that name."""


class AlreadyExists(ServiceError):
    """A region of shared memory is already registered under that name."""


class SequenceExists(AlreadyExists):
    """A request with `sequence_start` names a sequence that lives."""


class UnknownSequence(ServiceError):
    """A request without `sequence_start` names no sequence that was started."""


class BadRegion(ServiceError):
    """A region of shared memory is missing, not allowed, or too small."""


class NotServed(ServiceError):
    """A part of the protocol that is not served here."""


class NotLoadable(ServiceError):
    """A request to load or unload a model."""

    def __init__(self) -> None:
        super().__init__("models are loaded when the service starts, not by requests")


class SharedMemoryOff(ServiceError):
    """The operator has not enabled shared memory."""

    def __init__(self) -> None:
        super().__init__("shared memory is not enabled on this service")


STATUSES: Mapping[type[Exception], int] = {
    UnknownModel: 404,
    SequencesOff: 404,
    UnknownRegion: 404,
    UnknownService: 404,
    AlreadyExists: 400,
    SequenceExists: 400,
    UnknownSequence: 400,
    BadRegion: 400,
    TensorTooLarge: 400,
    NotServed: 501,
    SharedMemoryOff: 501,
    NotLoadable: 503,
}
"""Statuses of the failures that only this protocol has, or answers in another way than `/v1`."""

_OTHER_HEADERS: Mapping[int, Headers] = {415: [(b"accept-encoding", b"gzip, deflate")]}


class Classified(NamedTuple):
    """A failure in the terms of this protocol."""

    status: int
    text: str
    """One line."""
    code: str
    """As in the problem documents of `/v1`, for the log."""


def classify(failure: Exception) -> Classified:
    """Return the status, the text and the code of a failure."""
    kind = type(failure)
    if kind in STATUSES:
        code = re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
        return Classified(STATUSES[kind], printable(failure, problems.MAX_DETAIL), code)
    row = problems.problem_for(failure)
    return Classified(status_of(row.status), row.detail, row.code)


def status_of(status: int) -> int:
    """Return the protocol's status for a status of `/v1`: all wrong requests are 400."""
    return 400 if status in (406, 422) else status


def describe(failure: Exception) -> ErrorAnswer:
    """Return the answer to a failure."""
    status, text, code = classify(failure)
    headers, body = refusal(text)
    headers += _OTHER_HEADERS.get(status) or problems.status_headers(status, failure)
    return ErrorAnswer(status, headers, body, code, text)


def refusal(text: str) -> tuple[Headers, bytes]:
    """Return headers and body of the answer to a refused request."""
    body = orjson.dumps({"error": text})
    length = str(len(body)).encode()
    return [(b"content-type", b"application/json"), (b"content-length", length)], body
