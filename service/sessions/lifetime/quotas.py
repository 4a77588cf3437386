"""Limits of a tenant: sessions, reserved bytes, rows and pins."""

from math import ceil

from rope_core import ConfigError
from service.access.tenant import Tenant
from service.sessions.errors import SessionQuota
from service.sessions.lifetime.names import TenantSessions

MAX_ROWS = 1024
"""Most rows of a session."""

MAX_FORKS = 64
"""Most forks of one request."""

MAX_RETRY_AFTER_S = 60
"""Longest Retry-After of a refusal, in seconds."""


def check_rows(num_rows: object, parameter: str = "batch") -> int:
    """Return the number of rows of a session. Raises ConfigError if it is not 1 to 1,024."""
    return _check_count(parameter, "rows", num_rows, MAX_ROWS)


def check_max_tokens(max_tokens: int | None) -> None:
    """Raise ConfigError if a session cannot have rows of so many tokens."""
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError("max_tokens", "a whole number of at least 1", max_tokens)


def check_forks(count: object) -> int:
    """Return the number of forks of a request. Raises ConfigError if it is not 1 to 64."""
    return _check_count("count", "forks", count, MAX_FORKS)


def _check_count(parameter: str, what: str, number: object, limit: int) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= limit:
        raise ConfigError(parameter, f"a number of {what} from 1 to {limit}", number)
    return number


class TenantQuota:
    """The limits of one tenant, checked against its live sessions.

    Args:
        tenant: its `max_kv_bytes` and `max_pinned`, and its `max_sessions` if that is set.
        max_sessions: of tenants that set none.
        sessions: the live sessions of the tenant.
        now: monotonic seconds.
    """

    def __init__(
        self, tenant: Tenant, max_sessions: int, sessions: TenantSessions, now: float
    ) -> None:
        self._tenant = tenant
        limit = tenant.max_sessions
        self._max_sessions = max_sessions if limit is None else limit
        self._sessions = sessions
        self._now = now

    def check_sessions(self, num_new: int) -> None:
        """Check that the tenant may have `num_new` more sessions. Raises SessionQuota."""
        number = len(self._sessions) + len(self._sessions.arriving)
        if number + num_new > self._max_sessions:
            raise self._refusal(
                f"the tenant may have {self._max_sessions:,} sessions, and has {number:,}"
            )

    def check_bytes(self, num_new: int = 0) -> None:
        """Check that the tenant may reserve `num_new` more bytes. Raises SessionQuota."""
        limit = self._tenant.max_kv_bytes
        if limit is None:
            return
        reserved = sum(session.charged_bytes for session in self._sessions)
        reserved += sum(cache.reserved_bytes for cache in self._sessions.arriving)
        if reserved + num_new > limit:
            raise self._refusal(
                f"the tenant may reserve {limit:,} bytes for keys and values; {reserved:,} are "
                f"reserved, and {num_new:,} more are needed"
            )

    def check_pin(self) -> None:
        """Check that the tenant may pin one more session. Raises SessionQuota."""
        limit = self._tenant.max_pinned
        pinned = sum(session.is_pinned for session in self._sessions)
        if limit is not None and pinned + 1 > limit:
            raise self._refusal(f"the tenant may pin {limit:,} sessions, and has pinned {pinned:,}")

    def _refusal(self, text: str) -> SessionQuota:
        refusal = SessionQuota(text)
        ends = min((session.lease.expires for session in self._sessions), default=self._now)
        refusal.retry_after_s = min(max(1, ceil(ends - self._now)), MAX_RETRY_AFTER_S)
        return refusal
