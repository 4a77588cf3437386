"""A listening socket in the file system, for clients on the same host."""

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

MODE = 0o660
"""The owner of the socket and its group may connect: nothing else checks clients."""


class UnixSocket:
    """A Unix-domain socket at a path. Until `listen`, clients are refused.

    Args:
        path: where to create it. The socket of a process that has ended is replaced.

    Raises:
        OSError: another process listens there, or the path is not usable; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            self.socket.bind(str(path))
            path.chmod(MODE)
            self._inode = path.stat().st_ino
        except OSError as failure:
            self.socket.close()
            reason = failure.strerror or str(failure)
            text = f"cannot listen at {path}: {reason}; set ROPE_UNIX_SOCKET to another path"
            raise OSError(failure.errno, text) from None

    def remove(self) -> None:
        """Remove the socket from the file system: new clients are refused.

        Does nothing where another process has replaced it.
        """
        with suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()

    def close(self) -> None:
        """Remove the socket and close it."""
        self.remove()
        self.socket.close()


def _remove_stale(path: Path) -> None:
    """Remove a socket where nobody listens.

    Raises:
        OSError: somebody listens, or it is not a socket.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the file is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)  # a full queue of a busy listener would block
        if client.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "another process listens there")
    path.unlink()
