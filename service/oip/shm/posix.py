"""Objects of POSIX shared memory, opened once, and copied from and to; never mapped.

Clients change them at any time, so that only what is checked in a copy is so; and they may cut one
short, of which a process that has it mapped dies by SIGBUS. Hence pread and pwrite. None is ever
made, resized or unlinked here.
"""

import errno
import os
import stat
from dataclasses import dataclass

from service.errors import Overloaded, printable
from service.oip.errors import BadRegion
from service.wire import Buffer

FOLDER = "/dev/shm/"
"""Where Linux keeps them."""

_NONE = "is not a shared memory object"
_DENIED = "may not be opened: the service has no permission to read and write it"
_WHY = {
    errno.ENOENT: "is missing: there is no such object where the service runs",
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.ELOOP: _NONE,
    errno.EISDIR: _NONE,
    errno.ENXIO: _NONE,
}


class File:
    """A descriptor, closed once nobody refers to it: so never under a read or a write."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a region: there for as long as anybody refers to this, registered or not."""

    region: str
    byte_size: int
    start: int
    """Where it begins in the object."""
    file: File

    def read(self) -> bytes:
        """Return a private copy; that there is memory for it is the caller's to know.

        Raises:
            BadRegion: the object has been cut short.
        """
        pieces: list[bytes] = []
        at, end = self.start, self.start + self.byte_size
        try:
            while at < end and (piece := os.pread(self.file.number, end - at, at)):
                pieces.append(piece)
                at += len(piece)
        except OSError as failure:
            raise self._failed("read", failure) from None
        if at < end:
            raise self._cut_short()
        return b"".join(pieces)

    def write(self, data: Buffer) -> None:
        """Write all of `data`, from the beginning on.

        Raises:
            BadRegion: it is more than fits, or the object has been cut short.
        """
        if len(data) > self.byte_size:
            has = f"{self.byte_size} bytes are too small for {len(data)}"
            raise BadRegion(f"region {printable(self.region)}: {has}")
        left, at = memoryview(data), self.start
        try:
            # what is written behind the end would make the object longer
            if os.fstat(self.file.number).st_size < at + len(left):
                raise self._cut_short()
            while left:
                written = os.pwrite(self.file.number, left, at)
                left, at = left[written:], at + written
        except OSError as failure:
            raise self._failed("written", failure) from None

    def _cut_short(self) -> BadRegion:
        return BadRegion(f"region {printable(self.region)}: its object has become too small")

    def _failed(self, done: str, failure: OSError) -> BadRegion:
        name = printable(self.region)
        return BadRegion(f"region {name} cannot be {done}: {failure.strerror}")


def open_object(name: str, end: int) -> File:
    """Return the file of an object of at least `end` bytes.

    Raises:
        BadRegion: it is missing, closed to us, no shared memory, or smaller.
        Overloaded: too many files are open.
    """
    told = f"the object {printable(name)}"
    # O_NONBLOCK: a lease that the client holds on it, or a pipe, must not hold us
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        file = File(os.open(f"{FOLDER}{name}".encode(), flags))
    except OSError as failure:
        if failure.errno in (errno.EMFILE, errno.ENFILE):
            raise Overloaded("too many files are open") from None
        why = _WHY.get(failure.errno or 0, f"cannot be opened: {failure.strerror}")
        raise BadRegion(f"{told} {why}") from None
    found = os.fstat(file.number)
    # a second link is another name, which the prefix may not allow
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise BadRegion(f"{told} {_NONE}")
    if found.st_size < end:
        raise BadRegion(f"{told} is too small: it has {found.st_size} bytes, not {end}")
    return file
