"""Which shapes cuDNN gets a plan for: those that come again, and not more than a few."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

SIGHTS = 3
"""How often a shape comes before it recurs: a plan takes up to 0.4 s, and is worth many calls."""

REMEMBERED = 256
"""Shapes that are counted; the one that has not come for longest is forgotten."""

MOST_SHAPES = 64
"""Shapes that get a plan in the life of a process: torch drops no plan, and each thread has its
own."""


class PlannedShapes:
    """Counts the shapes of calls, and remembers those that have a plan. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: OrderedDict[Hashable, int] = OrderedDict()
        self._planned: set[Hashable] = set()

    def recurs(self, shape: Hashable) -> bool:
        """Count that `shape` comes; tell whether it has a plan, or came `SIGHTS` times lately."""
        with self._lock:
            if shape in self._planned:
                return True
            count = self._counts.pop(shape, 0) + 1
            self._counts[shape] = count
            if len(self._counts) > REMEMBERED:
                self._counts.popitem(last=False)
            return count > SIGHTS

    def admit(self, shape: Hashable) -> bool:
        """Tell whether `shape` has a plan, or gets one of those that are left."""
        with self._lock:
            if shape not in self._planned and len(self._planned) >= MOST_SHAPES:
                return False
            self._planned.add(shape)
            self._counts.pop(shape, None)
            return True
