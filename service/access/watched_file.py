"""Files that another program replaces while the service runs, such as certificates and keys."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LOOK_INTERVAL_S = 1.0
"""Shortest time between two looks at the files."""


class _FileState(NamedTuple):
    """What differs between two contents of a file. A link is followed."""

    device: int
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
        now: the time in seconds.

    Attributes:
        next_look: before this time `have_changed` does not look at the files.
    """

    def __init__(self, paths: Iterable[Path], now: float) -> None:
        self._paths = tuple(paths)
        self._states = self._look()
        self.next_look = now + LOOK_INTERVAL_S if self._paths else math.inf

    def have_changed(self, now: float) -> bool:
        """Return whether a file has changed since the last look, at most once in a second."""
        if now < self.next_look:
            return False
        self.next_look = now + LOOK_INTERVAL_S
        states, self._states = self._states, self._look()
        return states != self._states

    def _look(self) -> list[_FileState | None]:
        return [_state(path) for path in self._paths]


def _state(path: Path) -> _FileState | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _FileState(
        status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size
    )
