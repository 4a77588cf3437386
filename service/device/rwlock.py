"""A lock for runs that share the device's memory, and for one that needs all of it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedExclusiveLock:
    """Shared/exclusive lock that prefers the exclusive waiter."""

    def __init__(self) -> None:
        self._gate = threading.Lock()  # held by the exclusive holder, from its wait on
        self._changed = threading.Condition()
        self._num_shared = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold the lock together with other shared holders."""
        with self._gate, self._changed:
            self._num_shared += 1
        try:
            yield
        finally:
            with self._changed:
                self._num_shared -= 1
                self._changed.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock alone. Deadlocks within `shared`."""
        with self._gate:
            with self._changed:
                self._changed.wait_for(lambda: not self._num_shared)
            yield
