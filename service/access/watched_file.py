"""Files that another program replaces while the service runs, such as certificates and keys."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

LOOK_INTERVAL_S = 1.0
"""Shortest time between two looks at the files."""


class _FileState(NamedTuple):
    """What differs between two contents of a file. A link is followed."""

    inode: int
    modified_ns: int
    changed_ns: int
    num_bytes: int


class WatchedFiles:
    """Tells whether files have changed; nothing runs between two questions.

    Kubernetes replaces a mounted secret through a link, without a signal: so the owner of the
    files asks when it is about to use them. Create the object before reading the files: what
    changes in between then counts as a change.

    Args:
        paths: of the files; one that is missing is a state like any other.
        clock: returns seconds.
    """

    def __init__(self, paths: Iterable[Path], clock: Callable[[], float] = time.monotonic) -> None:
        self._paths = tuple(paths)
        self._clock = clock
        self._states = self._look()
        self._next_look = clock() + LOOK_INTERVAL_S

    def have_changed(self) -> bool:
        """Return whether a file has changed since the last look, at most once in a second."""
        now = self._clock()
        if now < self._next_look:
            return False
        self._next_look = now + LOOK_INTERVAL_S
        states, self._states = self._states, self._look()
        return states != self._states

    def _look(self) -> list[_FileState | None]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> _FileState | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _FileState(status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
