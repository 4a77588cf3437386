"""When to retry."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to retry: as long as the next pause ends before the deadline of the call."""

    max_attempts: int | None = None
    """Largest number of attempts. 1: no retries; None: retry until the deadline."""

    first_pause_s: float = 0.05
    """Longest pause after the first attempt; it doubles with each attempt."""

    max_pause_s: float = 2.0
    """Longest pause after any attempt."""

    uniform: Callable[[], float] = random.random
    """Random number in [0, 1), so that clients that were refused together do not retry together."""

    def pause_s(self, attempts: int, retry_after_s: float | None) -> float:
        """Return the pause in seconds after `attempts` failures: exponential, with full jitter.

        The pause that the service asks for, `retry_after_s`, is added.
        """
        doublings = min(attempts - 1, 32)  # floats end at 2 ** 1023
        backoff_s = min(self.max_pause_s, self.first_pause_s * 2.0**doublings)
        return (retry_after_s or 0.0) + backoff_s * self.uniform()
