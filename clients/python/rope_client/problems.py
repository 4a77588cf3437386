"""The error for an answer that is a failure."""

import json
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from rope_client.call import Response
from rope_client.errors import (
    BadRequest,
    NoSession,
    Overloaded,
    RopeClientError,
    SessionConflict,
    SessionFrozen,
    SessionGone,
    SessionMemoryFull,
    SessionTooLong,
    TimedOut,
    UnexpectedAnswer,
)

_BY_STATUS: dict[int, type[RopeClientError]] = {
    429: Overloaded,
    503: Overloaded,
    504: TimedOut,
    507: SessionMemoryFull,
}

_BY_CODE: dict[str, type[RopeClientError]] = {
    "no_session": NoSession,
    "session_gone": SessionGone,
    "session_conflict": SessionConflict,
    "layers_differ": SessionConflict,
    "rolled_past": SessionConflict,
    "name_taken": SessionConflict,
    "session_too_long": SessionTooLong,
    "frozen": SessionFrozen,
}
"""Codes of KV sessions; the other codes of a status are no error of their own."""


def refusal(response: Response) -> RopeClientError:
    """Return the error for a response that is no answer."""
    problem = members_of(response.content)
    request_id = response.headers.get("x-request-id")
    failure = failure_of_problem(problem, response.status, request_id)
    if isinstance(failure, Overloaded):
        seconds = problem.get("retry_after_s")  # in frames, which have no headers
        is_number = isinstance(seconds, int | float)
        failure.retry_after_s = seconds if is_number else _retry_after_s(response.headers)
    if response.status == 502:
        failure.is_transient = True  # of a proxy whose replica restarts
    return failure


def failure_of_problem(
    problem: Mapping[str, Any], status: int, request_id: str | None = None
) -> RopeClientError:
    """Return the error for a problem document."""
    code = _text(problem, "code")
    of_status = BadRequest if 400 <= status < 500 else UnexpectedAnswer
    error_class = _BY_CODE.get(code or "") or _BY_STATUS.get(status, of_status)
    failure = error_class(
        _text(problem, "detail") or f"answered {status}",
        status=status,
        code=code,
        request_id=request_id,
    )
    if isinstance(failure, SessionGone):
        failure.reason = _text(problem, "reason")
    if isinstance(failure, SessionConflict):
        failure.length, failure.generation = problem.get("length"), problem.get("generation")
    return failure


def members_of(body: bytes) -> Mapping[str, Any]:
    """Return a problem document; empty if a proxy answered in HTML."""
    try:
        members = json.loads(body)
    except ValueError:
        return {}
    return members if isinstance(members, dict) else {}


def _text(problem: Mapping[str, Any], name: str) -> str | None:
    value = problem.get(name)
    return value if isinstance(value, str) else None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of Retry-After; None if there are none, or they cannot be read.

    A date counts from the header Date, so that the clocks of the two machines may differ.
    """
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        seconds = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, seconds.total_seconds())
