"""Why a call has no answer.

RopeClientError
  +- BadRequest         the service refused the call itself; sent again it would be refused again
  +- Overloaded         the service has no room or is about to stop, after all attempts
  +- TimedOut           no answer within the deadline
  +- ConnectionFailed   the service was not reached or hung up, after all attempts
  +- UnexpectedAnswer   what answered does not speak the API: another program, or a fault of ours
"""


class RopeClientError(Exception):
    """Base of all errors of this library."""

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
        """What was wrong, in the service's words where it answered."""
        self.status = status
        """HTTP status; None where there was no answer."""
        self.code = code
        """The service's name of the failure, such as `shape`; it never changes."""
        self.request_id = request_id
        """What the service's log calls this call."""

    def __str__(self) -> str:
        facts = {"status": self.status, "code": self.code, "request": self.request_id}
        known = ", ".join(f"{name} {fact}" for name, fact in facts.items() if fact is not None)
        return f"{self.detail} ({known})" if known else self.detail


class BadRequest(RopeClientError):
    """The service refused the call itself (4xx); sent again it would be refused again."""


class Overloaded(RopeClientError):
    """The service has no room or is about to stop (503), after all attempts."""

    retry_after_s: float | None = None
    """When to come back, if the service said so."""


class TimedOut(RopeClientError):
    """No answer within the deadline: the service said so (504), or nothing came."""


class ConnectionFailed(RopeClientError):
    """The service was not reached or hung up before it answered, after all attempts."""


class UnexpectedAnswer(RopeClientError):
    """What answered does not speak the API: another program, or a fault of ours."""
