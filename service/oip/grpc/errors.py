"""Failures as statuses of gRPC, from the statuses of HTTP by one table."""

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError
from grpc import StatusCode

from service.errors import BadMessage
from service.oip.errors import AlreadyExists, classify

CODES: Mapping[int, StatusCode] = {
    400: StatusCode.INVALID_ARGUMENT,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.NOT_FOUND,
    409: StatusCode.ABORTED,
    410: StatusCode.NOT_FOUND,
    413: StatusCode.RESOURCE_EXHAUSTED,
    421: StatusCode.FAILED_PRECONDITION,
    423: StatusCode.FAILED_PRECONDITION,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    501: StatusCode.UNIMPLEMENTED,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.DEADLINE_EXCEEDED,
    507: StatusCode.RESOURCE_EXHAUSTED,
}
"""The status of gRPC for each status of `/v2`."""

MAX_DETAILS_BYTES = 1024
"""Longest text of a failure. Escaped, it may take three times as much of a client's 8 KiB."""


class RpcFailure(NamedTuple):
    """The end of an RPC that has failed."""

    status: StatusCode
    details: str
    code: str
    """For the log."""


def status_of(failure: Exception) -> RpcFailure:
    """Return the status and the text of the answer to a failure, and its code."""
    if isinstance(failure, DecodeError):
        failure = BadMessage("the request is not a message of this method")
    number, text, code = classify(failure)
    status = StatusCode.ALREADY_EXISTS if isinstance(failure, AlreadyExists) else CODES[number]
    details = text.encode()[:MAX_DETAILS_BYTES].decode(errors="ignore")
    return RpcFailure(status, details, code)
