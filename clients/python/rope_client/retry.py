"""When to try again."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often to try again and how long to pause before; the call's deadline ends it earlier."""

    max_attempts: int = 5
    """Attempts in all; 1 never tries again."""

    first_pause_s: float = 0.05
    """Longest pause after the first attempt; it doubles with each further one."""

    max_pause_s: float = 2.0
    """Where the doubling ends."""

    uniform: Callable[[], float] = random.random
    """Chance, in [0, 1): clients that were refused together should not come back together."""

    def pause_s(self, attempts: int, retry_after_s: float | None) -> float:
        """Return how long to wait after `attempts` failures: never less than was asked for."""
        doublings = min(attempts - 1, 32)  # floats end at 2 ** 1023
        backoff_s = min(self.max_pause_s, self.first_pause_s * 2.0**doublings)
        return (retry_after_s or 0.0) + backoff_s * (0.5 + 0.5 * self.uniform())
