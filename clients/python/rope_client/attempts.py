"""The attempts of one call, without network: the clients send and receive.

A client sends `Attempts.request()` and gives the response to `Attempts.receive()`, which returns
the answer or a pause before the next request, or raises if there is no other attempt.
"""

import logging
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from rope_client.call import Call, Response
from rope_client.errors import Overloaded, RopeClientError, UnexpectedAnswer
from rope_client.problems import refusal
from rope_client.retry import RetryPolicy
from rope_client.wire import CODECS, Encoding

T = TypeVar("T")

MAX_TIMEOUT_MS = 10**12 - 1
"""Largest timeout that a request may name; the service has a smaller limit of its own."""

log = logging.getLogger("rope_client")

ATTEMPTS_BEFORE_LOG = 5


class OutageLog:
    """Logs once per outage that calls are retried, to show why a program waits."""

    def __init__(self) -> None:
        self._is_logged = False

    def failed(self, failure: RopeClientError) -> None:
        """Record a failure after which the call is retried."""
        if failure.attempts >= ATTEMPTS_BEFORE_LOG and not self._is_logged:
            self._is_logged = True
            log.warning("calls are retried until their deadline: %s", failure)

    def answered(self) -> None:
        """Record an answer."""
        self._is_logged = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of all calls of a client."""

    encoding: Encoding
    timeout_s: float
    retry: RetryPolicy
    clock: Callable[[], float]
    """Returns seconds since a fixed moment; monotonic."""


@dataclass(frozen=True, slots=True)
class Request:
    """One attempt, ready to send."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes | None
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """The call is over."""

    answer: T

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the service; answers of the catalogue have none."""
        warnings: tuple[str, ...] = getattr(self.answer, "warnings", ())
        return warnings


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, then send the next request."""

    seconds: float


class Attempts(Generic[T]):
    """The attempts of one call: one identifier, one deadline, one encoded body."""

    def __init__(self, call: Call[T], settings: Settings, outage_log: OutageLog) -> None:
        self._call = call
        self._settings = settings
        self._outage_log = outage_log
        self._request_id = call.options.get("request_id") or uuid.uuid4().hex
        timeout_s = call.options.get("timeout_s", settings.timeout_s)
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s must be positive and finite, got {timeout_s}")
        self._timeout_s = timeout_s
        self._deadline_s = settings.clock() + timeout_s
        self._codec = CODECS[call.encoding or settings.encoding]
        self._content = None if call.message is None else self._codec.encode(call.message)
        self._count = 0

    def request(self) -> Request:
        """Return the next attempt, with the time that is left as its timeout.

        The header of the first attempt has the whole timeout, whatever the encoding took: the
        service is faster for requests whose header repeats.
        """
        self._count += 1
        left_s = max(self._deadline_s - self._settings.clock(), 1e-3)
        header_ms = 1e3 * (self._timeout_s if self._count == 1 else left_s)
        whole_ms = min(max(1, round(header_ms)), MAX_TIMEOUT_MS)
        call = self._call
        headers = {"X-Request-Id": self._request_id, "X-Request-Timeout-Ms": str(whole_ms)}
        headers |= call.headers
        if self._content is None:
            return Request(call.method or "GET", call.path, headers, None, left_s)
        headers |= {
            "Accept": self._codec.MEDIA_TYPE,
            "Content-Type": self._codec.MEDIA_TYPE,
            "Content-Length": str(len(self._content)),
        }
        return Request(call.method or "POST", call.path, headers, self._content, left_s)

    def receive(self, outcome: Response | RopeClientError) -> Answered[T] | Pause:
        """Return the answer, or a pause before the next attempt.

        Raises:
            RopeClientError: the call failed, and there is no other attempt.
        """
        if isinstance(outcome, Response) and outcome.status == self._call.answered_with:
            self._outage_log.answered()
            return Answered(self._read(outcome))
        failure = refusal(outcome) if isinstance(outcome, Response) else outcome
        failure.request_id = failure.request_id or self._request_id
        failure.attempts = self._count
        if self._call.read_failure is not None:
            return Answered(self._call.read_failure(failure))
        return self._pause_after(failure)

    def _pause_after(self, failure: RopeClientError) -> Pause:
        retry = self._settings.retry
        if not (failure.is_transient and self._call.is_idempotent):
            raise failure
        retry_after_s = failure.retry_after_s if isinstance(failure, Overloaded) else None
        left_s = self._deadline_s - self._settings.clock()
        is_late = left_s - (retry_after_s or 0.0) <= retry.first_pause_s
        if is_late or self._count == retry.max_attempts:
            raise failure
        self._outage_log.failed(failure)
        return Pause(retry.pause_s(self._count, retry_after_s, left_s))

    def _read(self, response: Response) -> T:
        try:
            return self._call.read(response)
        except Exception as error:  # the body of another program can break a parser in any way
            raise UnexpectedAnswer(
                f"the answer cannot be read: {error!r}",
                status=response.status,
                request_id=self._request_id,
            ) from error
