"""Tombstones: why sessions have ended, for a while after their end."""

from collections import deque
from collections.abc import Callable
from typing import Final, get_args

from service.sessions.errors import GoneReason

KEPT_S = 3600.0
"""Time for which a tombstone is kept."""

MAX_TOMBSTONES = 65_536
"""Most tombstones; the oldest are removed first."""

_REASONS: Final[tuple[GoneReason, ...]] = get_args(GoneReason)


class Tombstones:
    """The reasons of ended sessions, by the random part of the id.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends: dict[str, int] = {}
        """Millisecond of the end, and the index of the reason, in one number."""
        self._oldest: deque[str] = deque()

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, random: str, reason: GoneReason) -> None:
        """Remember the end of a session."""
        self.forget_old()
        if len(self._oldest) == MAX_TOMBSTONES:
            del self._ends[self._oldest.popleft()]
        self._ends[random] = self._now_ms() * len(_REASONS) + _REASONS.index(reason)
        self._oldest.append(random)

    def find(self, random: str) -> GoneReason | None:
        """Return why a session has ended; None: no tombstone is kept."""
        end = self._ends.get(random)
        return None if end is None or self._is_old(end) else _REASONS[end % len(_REASONS)]

    def forget_old(self) -> None:
        """Remove the tombstones that have been kept for long enough."""
        while self._oldest and self._is_old(self._ends[self._oldest[0]]):
            del self._ends[self._oldest.popleft()]

    def _is_old(self, end: int) -> bool:
        return self._now_ms() - end // len(_REASONS) >= KEPT_S * 1000

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
