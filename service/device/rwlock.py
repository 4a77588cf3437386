"""Who may be on the device together, and who has it alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedExclusiveLock:
    """Any number at a time, or one alone, for whom newcomers wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._together = 0
        self._wanting_alone = 0
        self._alone = False

    @contextmanager
    def together(self) -> Iterator[None]:
        """Be there with others."""
        with self._changed:
            self._changed.wait_for(lambda: not self._wanting_alone)
            self._together += 1
        try:
            yield
        finally:
            with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Be there with nobody else. Not from within `together`."""
        with self._changed:
            self._wanting_alone += 1
            self._changed.wait_for(lambda: not self._together and not self._alone)
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._wanting_alone -= 1
                self._changed.notify_all()
