"""Leases: how long an unused session is kept."""

from dataclasses import dataclass
from math import inf, isfinite
from typing import TypeGuard

from rope_core import ConfigError

DEFAULT_TTL_S = 300.0
"""Time to live of a session that does not ask for one, or the limit if that is shorter."""


@dataclass(slots=True)
class Lease:
    """The times of a session, in seconds of a monotonic clock. Each operation renews the lease.

    The time without use begins when the last operation has ended. A session does not expire while
    an operation runs or waits for its turn.
    """

    ttl_s: float
    """Longest time without use."""
    created: float
    renewed: float
    ends: float = inf
    """Time at which the session ends however much it is used."""

    @property
    def expires(self) -> float:
        """Time at which the session expires if nothing uses it after `renewed`."""
        return min(self.renewed + self.ttl_s, self.ends)

    def is_over(self, now: float, *, is_busy: bool) -> bool:
        """Return whether no operation may begin any more."""
        return now >= (self.ends if is_busy else self.expires)


@dataclass(frozen=True, slots=True)
class LeaseLimits:
    """What clients may ask for, in seconds."""

    max_ttl_s: float = 3600.0
    max_age_s: float = 3600.0
    """0: no limit."""

    def lease(self, ttl_s: float | None, max_age_s: float | None, now: float) -> Lease:
        """Return a lease that begins now.

        Raises:
            ConfigError: a time is over its limit, or no number.
        """
        ttl_s = min(DEFAULT_TTL_S, self.max_ttl_s) if ttl_s is None else self.ttl(ttl_s)
        max_age_s = self.max_age_s if max_age_s is None else self._age(max_age_s)
        return Lease(ttl_s, now, now, now + max_age_s if max_age_s else inf)

    def ttl(self, ttl_s: object) -> float:
        """Return a time to live that a client asks for. Raises ConfigError."""
        if not _is_time(ttl_s) or not 1 <= ttl_s <= self.max_ttl_s:
            expected = f"a number of seconds from 1 to {self.max_ttl_s:g}"
            raise ConfigError("ttl_s", expected, ttl_s)
        return float(ttl_s)

    def _age(self, max_age_s: object) -> float:
        limit = self.max_age_s
        if _is_time(max_age_s) and (
            1 <= max_age_s <= (limit or inf) or (max_age_s == 0 and not limit)
        ):
            return float(max_age_s)
        expected = f"a number of seconds from 1 to {limit:g}" if limit else "0, or at least 1"
        raise ConfigError("max_age_s", expected, max_age_s)


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
