"""Detect changes of files that are replaced while the service runs, such as certificates."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

LOOK_INTERVAL_S = 1.0
"""Least time between two checks of the files."""


class _FileState(NamedTuple):
    """Metadata by which a change of a file is detected; links are followed."""

    device: int
    inode: int
    modified_ns: int
    changed_ns: int
    num_bytes: int


class WatchedFiles:
    """Detects whether files have changed since the last check. No timer and no thread is used.

    Kubernetes replaces a mounted secret by a symbolic link and sends no signal, so the owner of the
    files calls `have_changed` before each use. Create this object before the first read of the
    files: a change between the two is then detected.

    Args:
        paths: paths of the files. A file may be missing.
        now: current time in seconds.

    Attributes:
        next_look: time of the next check; before that `have_changed` returns False.
    """

    def __init__(self, paths: Iterable[Path], now: float) -> None:
        self._paths = tuple(paths)
        self._states = self._look()
        self.next_look = now + LOOK_INTERVAL_S if self._paths else math.inf

    def have_changed(self, now: float) -> bool:
        """Return whether a file has changed since the last check.

        False within LOOK_INTERVAL_S after a check: the files are not checked then.
        """
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
