"""Failures as statuses of gRPC: those of HTTP, by one table."""

from collections.abc import Mapping
from types import MappingProxyType

from google.protobuf.message import DecodeError
from grpc import StatusCode

from service.errors import BadMessage
from service.oip.errors import AlreadyExists, classify

CODES: Mapping[int, StatusCode] = MappingProxyType(
    {
        400: StatusCode.INVALID_ARGUMENT,
        404: StatusCode.NOT_FOUND,
        413: StatusCode.RESOURCE_EXHAUSTED,
        500: StatusCode.INTERNAL,
        501: StatusCode.UNIMPLEMENTED,
        503: StatusCode.UNAVAILABLE,
        504: StatusCode.DEADLINE_EXCEEDED,
    }
)
"""What the statuses of `/v2` are over gRPC."""

MAX_BYTES = 1024
"""Of a text, each of which may take three in a header; clients take headers of 8 KiB."""


def status_of(failure: Exception) -> tuple[StatusCode, str]:
    """Return the status and the text that answer a failure."""
    if isinstance(failure, DecodeError):
        failure = BadMessage("the request is not a message of this method")
    status, text = classify(failure)
    code = StatusCode.ALREADY_EXISTS if isinstance(failure, AlreadyExists) else CODES[status]
    return code, text.encode()[:MAX_BYTES].decode(errors="ignore")
