"""Which shapes get a plan of cuDNN: those that recur, up to a limit."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock

CALLS_BEFORE_PLAN = 3
"""Calls of a shape that run without a plan. A plan takes up to 0.4 s, the time of many calls."""

MAX_COUNTED = 256
"""Shapes that are counted at a time; the least recently used one is dropped."""

MAX_PLANNED = 64
"""Shapes that get a plan in a process. torch never drops a plan, and each thread has its own."""


class PlannedShapes:
    """Counts the calls of each shape, and records which shapes have a plan. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: OrderedDict[Hashable, int] = OrderedDict()
        self._planned: set[Hashable] = set()

    def count_call(self, shape: Hashable) -> bool:
        """Count a call of `shape`; tell whether the shape has a plan or may get one."""
        with self._lock:
            if shape in self._planned:
                return True
            count = self._counts.pop(shape, 0) + 1
            self._counts[shape] = count
            if len(self._counts) > MAX_COUNTED:
                self._counts.popitem(last=False)
            return count > CALLS_BEFORE_PLAN

    def admit(self, shape: Hashable) -> bool:
        """Give `shape` a plan if it has none; tell whether it has one now. False at the limit."""
        with self._lock:
            if shape not in self._planned and len(self._planned) >= MAX_PLANNED:
                return False
            self._planned.add(shape)
            self._counts.pop(shape, None)
            return True
