"""When to retry."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to retry: until the deadline, if the pause that the service asks for ends before."""

    max_attempts: int | None = None
    """Largest number of attempts. 1: no retries; None: retry until the deadline."""

    first_pause_s: float = 0.05
    """Longest pause after the first attempt; it doubles with each attempt."""

    max_pause_s: float = 2.0
    """Longest pause after any attempt."""

    uniform: Callable[[], float] = random.random
    """Random number in [0, 1), so that clients that were refused together do not retry together."""

    def __post_init__(self) -> None:
        if self.max_attempts is not None and self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, or None, got {self.max_attempts}")

    def pause_s(
        self, attempts: int, retry_after_s: float | None, left_s: float = math.inf
    ) -> float:
        """Return the pause in seconds after `attempts` failures: exponential, with full jitter.

        The pause that the service asks for, `retry_after_s`, is added. The rest is at most half of
        what is then left of the time until the deadline, `left_s`, so that an attempt follows.
        """
        doublings = min(attempts - 1, 32)  # floats end at 2 ** 1023
        backoff_s = min(self.max_pause_s, self.first_pause_s * 2.0**doublings)
        backoff_s = min(backoff_s, max(0.0, left_s - (retry_after_s or 0.0)) / 2)
        return (retry_after_s or 0.0) + backoff_s * self.uniform()
