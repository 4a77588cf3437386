"""POSIX shared memory objects: opened once, read with pread and written with pwrite.

Objects are never mapped: a client may truncate an object at any time, and access to a mapping
beyond the end kills the process with SIGBUS. Clients may also change the bytes at any time, so
validate a copy. The service never creates, resizes or unlinks an object.
"""

import errno
import os
import stat
from dataclasses import dataclass

from service.errors import Overloaded, printable
from service.oip.errors import BadRegion
from service.wire import Buffer

SHM_DIR = "/dev/shm/"
"""Directory of the objects on Linux."""

_NOT_AN_OBJECT = "is not a shared memory object"
_NO_PERMISSION = "cannot be opened: the service has no permission to read and write it"
_REASONS = {
    errno.ENOENT: "is missing: no such object exists on the host of the service",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.ELOOP: _NOT_AN_OBJECT,
    errno.EISDIR: _NOT_AN_OBJECT,
    errno.ENXIO: _NOT_AN_OBJECT,
}


class SharedMemoryFile:
    """A file descriptor that is closed with the last reference, so never during an access."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class RegionSlice:
    """Bytes of a region; usable also after the region is unregistered."""

    region: str
    offset: int
    """Bytes from the start of the region."""
    byte_size: int
    start: int
    """Bytes from the start of the object."""
    file: SharedMemoryFile

    def read(self) -> bytes:
        """Return a copy of the bytes; the caller accounts for its memory.

        Raises:
            BadRegion: the object was truncated.
        """
        pieces: list[bytes] = []
        offset, end = self.start, self.start + self.byte_size
        try:
            while offset < end and (piece := os.pread(self.file.fd, end - offset, offset)):
                pieces.append(piece)
                offset += len(piece)
        except OSError as error:
            raise self._failed("read", error) from None
        if offset < end:
            raise self._truncated()
        return b"".join(pieces)

    def write(self, data: Buffer) -> None:
        """Write all of `data` to the beginning of the slice.

        Raises:
            BadRegion: the slice is smaller than `data`, or the object was truncated.
        """
        if len(data) > self.byte_size:
            sizes = f"{self.byte_size} bytes are too small for {len(data)}"
            raise BadRegion(f"region {printable(self.region)}: {sizes}")
        rest, offset = memoryview(data), self.start
        try:
            # a write beyond the end would extend the object
            if os.fstat(self.file.fd).st_size < offset + len(rest):
                raise self._truncated()
            while rest:
                written = os.pwrite(self.file.fd, rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError as error:
            raise self._failed("written", error) from None

    def _truncated(self) -> BadRegion:
        return BadRegion(f"region {printable(self.region)}: its object has become too small")

    def _failed(self, access: str, error: OSError) -> BadRegion:
        return BadRegion(f"region {printable(self.region)} cannot be {access}: {error.strerror}")


def open_shared_memory(name: str, min_bytes: int) -> SharedMemoryFile:
    """Open an object of at least `min_bytes` bytes.

    Raises:
        BadRegion: the object is missing, not accessible, not shared memory, or smaller.
        Overloaded: too many files are open.
    """
    text = f"the object {printable(name)}"
    # O_NONBLOCK: a pipe, or a lease that a client holds on the file, must not block the service
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        file = SharedMemoryFile(os.open(f"{SHM_DIR}{name}".encode(), flags))
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise Overloaded("too many files are open") from None
        reason = _REASONS.get(error.errno or 0, f"cannot be opened: {error.strerror}")
        raise BadRegion(f"{text} {reason}") from None
    status = os.fstat(file.fd)
    # a second hard link is another name, which the prefix may not allow
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise BadRegion(f"{text} {_NOT_AN_OBJECT}")
    if status.st_size < min_bytes:
        raise BadRegion(f"{text} is too small: it has {status.st_size} bytes, not {min_bytes}")
    return file
