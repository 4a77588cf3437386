"""Problem documents (RFC 9457): the status and the code that answer each exception."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from http import HTTPStatus
from typing import Any, NamedTuple

import orjson

from rope_core import ConfigError, NoBackend, ShapeError
from rope_core.errors import KernelFailed, KernelNotBuilt
from service import errors
from service.asgi.io import Headers
from service.sessions import errors as session_errors

log = logging.getLogger("rope.failures")

MAX_DETAIL = 1024
"""Longest detail, in characters; a detail may contain what a client sent."""

PROBLEMS: Mapping[type[Exception], tuple[HTTPStatus, str]] = {
    errors.BadMessage: (HTTPStatus.BAD_REQUEST, "bad_message"),
    errors.BadRequest: (HTTPStatus.BAD_REQUEST, "bad_request"),
    errors.BadHeader: (HTTPStatus.BAD_REQUEST, "bad_header"),
    errors.BadQuery: (HTTPStatus.BAD_REQUEST, "bad_query"),
    errors.Unauthenticated: (HTTPStatus.UNAUTHORIZED, "unauthenticated"),
    errors.Forbidden: (HTTPStatus.FORBIDDEN, "forbidden"),
    errors.NotAcceptable: (HTTPStatus.NOT_ACCEPTABLE, "not_acceptable"),
    errors.TooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large"),
    errors.SlowRequest: (HTTPStatus.REQUEST_TIMEOUT, "slow_request"),
    errors.TargetTooLong: (HTTPStatus.REQUEST_URI_TOO_LONG, "target_too_long"),
    errors.ExpectationFailed: (HTTPStatus.EXPECTATION_FAILED, "expectation_failed"),
    errors.UpgradeRequired: (HTTPStatus.UPGRADE_REQUIRED, "upgrade_required"),
    errors.QuotaExceeded: (HTTPStatus.TOO_MANY_REQUESTS, "quota_exceeded"),
    errors.HeaderTooLarge: (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "header_too_large"),
    errors.UnsupportedMediaType: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type"),
    session_errors.NoSession: (HTTPStatus.NOT_FOUND, "no_session"),
    session_errors.SessionGone: (HTTPStatus.GONE, "session_gone"),
    session_errors.SessionConflict: (HTTPStatus.CONFLICT, "session_conflict"),
    session_errors.LayersDiffer: (HTTPStatus.CONFLICT, "layers_differ"),
    session_errors.RolledPast: (HTTPStatus.CONFLICT, "rolled_past"),
    session_errors.NameTaken: (HTTPStatus.CONFLICT, "name_taken"),
    session_errors.SessionTooLong: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "session_too_long"),
    session_errors.WrongOwner: (HTTPStatus.MISDIRECTED_REQUEST, "wrong_owner"),
    session_errors.Frozen: (HTTPStatus.LOCKED, "frozen"),
    session_errors.SessionQuota: (HTTPStatus.TOO_MANY_REQUESTS, "quota"),
    session_errors.NoKVMemory: (HTTPStatus.SERVICE_UNAVAILABLE, "kv_memory"),
    session_errors.KVMemoryFull: (HTTPStatus.INSUFFICIENT_STORAGE, "kv_memory"),
    session_errors.SessionsOff: (HTTPStatus.NOT_FOUND, "sessions_off"),
    errors.BadTensor: (HTTPStatus.UNPROCESSABLE_ENTITY, "shape"),
    ShapeError: (HTTPStatus.UNPROCESSABLE_ENTITY, "shape"),
    ConfigError: (HTTPStatus.UNPROCESSABLE_ENTITY, "config"),
    errors.UnknownName: (HTTPStatus.UNPROCESSABLE_ENTITY, "unknown"),
    NoBackend: (HTTPStatus.UNPROCESSABLE_ENTITY, "no_backend"),
    KernelFailed: (HTTPStatus.UNPROCESSABLE_ENTITY, "no_backend"),
    KernelNotBuilt: (HTTPStatus.SERVICE_UNAVAILABLE, "kernel_not_built"),
    errors.Overloaded: (HTTPStatus.SERVICE_UNAVAILABLE, "overloaded"),
    errors.Expired: (HTTPStatus.SERVICE_UNAVAILABLE, "expired"),
    errors.ShuttingDown: (HTTPStatus.SERVICE_UNAVAILABLE, "shutting_down"),
    errors.DeviceFull: (HTTPStatus.SERVICE_UNAVAILABLE, "device_memory"),
    errors.DeviceLost: (HTTPStatus.SERVICE_UNAVAILABLE, "device_lost"),
    errors.DeviceStuck: (HTTPStatus.SERVICE_UNAVAILABLE, "device_stuck"),
    errors.TimedOut: (HTTPStatus.GATEWAY_TIMEOUT, "timed_out"),
}
"""Status and code by class; codes never change. A subclass has the row of its base class."""

STATUSES: Mapping[str, int] = {
    code: status.value for status, code in reversed([*PROBLEMS.values()])
}
"""Status by code; of a code that has several, the first."""

_STATUS_HEADERS: Mapping[int, Headers] = {
    HTTPStatus.UNAUTHORIZED: [(b"www-authenticate", b"Bearer")],
    HTTPStatus.UPGRADE_REQUIRED: [(b"upgrade", b"websocket"), (b"connection", b"upgrade")],
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: [(b"accept-encoding", b"identity")],
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a request failed: a problem document of RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    error: str
    members: Mapping[str, Any] = field(default_factory=dict)
    """Further members of the document."""

    @classmethod
    def of(
        cls,
        status: int,
        code: str,
        title: str,
        detail: str,
        members: Mapping[str, Any] | None = None,
    ) -> "Problem":
        """Return the document; clients of the Open Inference Protocol read `error`."""
        kind = f"urn:rope-service:problem:{code}"
        return cls(kind, title, status, code, detail, detail, members or {})

    def as_dict(self) -> dict[str, Any]:
        """Return the document as a JSON object."""
        document = {each.name: getattr(self, each.name) for each in fields(self)}
        members: Mapping[str, Any] = document.pop("members")
        return {**document, **members}


class ErrorAnswer(NamedTuple):
    """The answer to a failure, in the form of its protocol."""

    status: int
    headers: Headers
    body: bytes
    code: str
    """Code of the problem, for the log."""
    detail: str

    @property
    def log_fields(self) -> dict[str, object]:
        """Return the log fields of the failure."""
        return {"code": self.code, "detail": self.detail}


def problem_for(failure: Exception) -> Problem:
    """Return the problem that answers a failure.

    A class without a row is a bug: the client gets 500 `internal`, the log has the traceback.
    """
    for kind in type(failure).__mro__:
        if kind in PROBLEMS:
            status, code = PROBLEMS[kind]
            title = (kind.__doc__ or code).partition(".")[0]
            detail = errors.printable(failure, MAX_DETAIL)
            members = getattr(failure, "members", None)
            return Problem.of(status.value, code, title, detail, members)
    log.error("unexpected failure", exc_info=failure)
    return Problem.of(500, "internal", "Internal error", "internal error")


def code_of(failure: BaseException) -> str:
    """Return the code of the problem that answers a failure, `client_left` if nobody gets it."""
    if isinstance(failure, errors.ClientLeft) or not isinstance(failure, Exception):
        return "client_left"
    return next(
        (PROBLEMS[kind][1] for kind in type(failure).__mro__ if kind in PROBLEMS), "internal"
    )


def describe(failure: Exception) -> ErrorAnswer:
    """Return the answer to a failure."""
    problem = problem_for(failure)
    headers, body = render(problem)
    headers += status_headers(problem.status, failure)
    return ErrorAnswer(problem.status, headers, body, problem.code, problem.detail)


def status_headers(status: int, failure: Exception) -> Headers:
    """Return the headers that an answer of this status has in addition."""
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        retry_after_s = failure.retry_after_s if isinstance(failure, errors.ServiceError) else 1
        return [(b"retry-after", b"%d" % retry_after_s)]
    if isinstance(failure, session_errors.WrongOwner):
        return [(b"x-session-owner", failure.owner.encode("latin-1", "replace"))]
    return [*_STATUS_HEADERS.get(status, ())]


def refuse(status: int, detail: str) -> ErrorAnswer:
    """Return the answer to a request that matches no route."""
    code = {404: "not_found", 405: "method_not_allowed"}.get(status, "http")
    headers, body = render(Problem.of(status, code, HTTPStatus(status).phrase, detail))
    return ErrorAnswer(status, headers, body, code, detail)


def render(problem: Problem) -> tuple[Headers, bytes]:
    """Return the headers and body of a problem document."""
    body = orjson.dumps(problem.as_dict())
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
    ]
    return headers, body
