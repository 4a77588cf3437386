"""Errors of calls.

RopeClientError
  +- BadRequest         the service refused the call; a retry would be refused as well
  |  +- NoSession           404: no KV session of this API key has the id
  |  +- SessionGone         410: the session has ended, see `reason`
  |  +- SessionConflict     409: the session is not in the state that the client expects
  |  +- SessionTooLong      413: a row would be longer than `max_tokens`
  |  +- SessionFrozen       423: the session is a snapshot
  |  +- SessionMemoryFull   507: no memory for the session to grow
  +- Overloaded         the service was full or shutting down, or over a quota, at all attempts
  +- TimedOut           no answer within the deadline
  +- ConnectionFailed   no connection, or it was closed, at all attempts
  +- UnexpectedAnswer   the answer is not of this API: another program, or a bug

A session is unchanged after each error of the service. After `TimedOut` and `ConnectionFailed` a
change may have happened: send the same step again, or read the session with `inspect`.
"""

from typing import Any


class RopeClientError(Exception):
    """Base of all errors of this library."""

    is_transient: bool = False
    """Whether a later attempt may succeed; the clients retry these errors and no others."""

    attempts: int = 1
    """Number of attempts of the call."""

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        """The reason; the service's text if it answered."""
        self.status = status
        """HTTP status; None without an answer."""
        self.code = code
        """The service's error code, for example `shape`; codes never change."""
        self.request_id = request_id
        """Identifier of this call in the service's log."""

    def __str__(self) -> str:
        facts = {"status": self.status, "code": self.code, "request": self.request_id}
        if self.attempts > 1:
            facts["attempts"] = self.attempts
        details = ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact is not None)
        return f"{self.detail} ({details})" if details else self.detail


class BadRequest(RopeClientError):
    """The service refused the call (4xx); a retry would be refused as well."""


class NoSession(BadRequest):
    """No session has the id: it never existed, or belongs to another API key (404)."""


class SessionGone(BadRequest):
    """The session has ended, and its tokens are lost (410)."""

    reason: str | None = None
    """`expired`, `evicted`, `deleted`, `device_lost`, `restarted` or `owner_lost`."""


class SessionConflict(BadRequest):
    """The session is not in the state that the client expects (409); it is unchanged.

    `code` is `session_conflict` (another client has changed the session), `layers_differ`,
    `rolled_past` or `name_taken`.
    """

    length: Any = None
    """Lengths as the service has them: of the layer for `append` and `step`."""

    generation: int | None = None
    """Number of operations that have changed tokens, as the service has it."""


class SessionTooLong(BadRequest):
    """A row would be longer than `max_tokens`, or the session larger than the memory (413)."""


class SessionFrozen(BadRequest):
    """The session is a snapshot: fork it, and change the fork (423)."""


class SessionMemoryFull(BadRequest):
    """The service has no memory for the session to grow; the session is unchanged (507)."""


class Overloaded(RopeClientError):
    """The service was full or shutting down (503), or over a quota (429), at all attempts."""

    is_transient = True

    retry_after_s: float | None = None
    """Seconds until a retry makes sense, if the service sent them."""


class TimedOut(RopeClientError):
    """No answer within the deadline: 504 from the service, or no response."""


class ConnectionFailed(RopeClientError):
    """No connection, or it was closed before the answer, at all attempts."""

    is_transient = True


class UnexpectedAnswer(RopeClientError):
    """The answer is not of this API: another program, or a bug."""
