"""Leases: how long an unused session is kept."""

from dataclasses import dataclass


@dataclass(slots=True)
class Lease:
    """The times of a session, in seconds of a monotonic clock. Each operation renews the lease.

    A session never expires while an operation runs or waits for its turn.
    """

    ttl_s: float
    max_age_s: float
    """0: no limit."""
    created: float
    renewed: float
    num_running: int = 0
    """Operations that run or wait for their turn."""

    def expires_in_s(self, now: float) -> float:
        """Return the seconds until the session expires if nothing uses it; at least 0."""
        raise NotImplementedError
