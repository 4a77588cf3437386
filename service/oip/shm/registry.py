"""Regions: parts of shared memory objects, which clients register by name and lend to tensors."""

from dataclasses import dataclass
from threading import Lock

from service.errors import Overloaded, printable
from service.oip.errors import AlreadyExists, BadRegion, SharedMemoryOff, UnknownRegion
from service.oip.shm.posix import File, Span, open_object

MAX_REGIONS = 512
"""Most regions at a time: each holds a file descriptor."""

MAX_NAME = 256
"""Characters of a region's name."""


@dataclass(frozen=True, slots=True)
class Region:
    """Part of a shared memory object, by the name that a client gave it; in bytes."""

    name: str
    key: str
    offset: int
    byte_size: int


class Regions:
    """Regions by name; any thread may call.

    Args:
        prefix: beginning of the keys that may be registered; None or empty turns all off.

    Every method raises SharedMemoryOff where it is off.
    """

    def __init__(self, prefix: str | None) -> None:
        self._prefix = (prefix or "").removeprefix("/")
        self._lock = Lock()
        self._held: dict[str, tuple[Region, File]] = {}

    @property
    def is_on(self) -> bool:
        """Whether regions may be registered at all."""
        return bool(self._prefix)

    def register(self, name: object, key: object, offset: object, byte_size: object) -> None:
        """Open an object, and take a part of it for a region; all as the client sent it.

        Raises:
            AlreadyExists: there is a region of that name, be it the same.
            BadRegion: the key is not allowed, or its object is missing, closed to us or too small.
            Overloaded: there are too many.
        """
        self.check_on()
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise BadRegion(f"a region's name must be 1 to {MAX_NAME} printable characters")
        start, size = _natural("offset", offset), _natural("byte_size", byte_size)
        if not size:
            raise BadRegion("byte_size must be more than 0")
        with self._lock:
            if name in self._held:
                raise AlreadyExists(f"region {printable(name)} is registered already")
            object_name = self._object_name(key)  # nothing is looked for that has not passed this
            if len(self._held) >= MAX_REGIONS:
                raise Overloaded(f"{MAX_REGIONS} regions are registered, the most that can be")
            file = open_object(object_name, start + size)
            self._held[name] = Region(name, str(key), start, size), file

    def unregister(self, name: str | None) -> None:
        """Forget a region, or all; whoever reads or writes it still ends in peace."""
        self.check_on()
        with self._lock:
            gone = [*self._held] if name is None else [name]
            dropped = [self._held.pop(each, None) for each in gone]
        del dropped  # which closes them, where no thread waits

    def status(self, name: str | None) -> list[Region]:
        """Return a region, or all.

        Raises:
            UnknownRegion: there is none of that name.
        """
        self.check_on()
        if name is not None:
            return [self._of(name)[0]]
        with self._lock:
            return [region for region, _ in self._held.values()]

    def span(self, name: str, offset: object, byte_size: object) -> Span:
        """Return a part of a region, to be read or written later.

        Raises:
            UnknownRegion: there is none of that name.
            BadRegion: the part is not within it.
        """
        self.check_on()
        region, file = self._of(name)
        start = _natural("shared_memory_offset", offset)
        size = _natural("shared_memory_byte_size", byte_size)
        if start + size > region.byte_size:
            asked = f"bytes {start} to {start + size} are not within its {region.byte_size}"
            raise BadRegion(f"region {printable(name)} is too small: {asked}")
        return Span(name, size, region.offset + start, file)

    def close(self) -> None:
        """Forget all, at the end of the service."""
        with self._lock:
            self._held = {}

    def check_on(self) -> None:
        """Refuse whatever is asked where it is off."""
        if not self.is_on:
            raise SharedMemoryOff

    def _of(self, name: str) -> tuple[Region, File]:
        with self._lock:
            held = self._held.get(name)
        if held is None:
            raise UnknownRegion(f"no region {printable(name)} is registered")
        return held

    def _object_name(self, key: object) -> str:
        # before anything is looked for, so that nothing is learned of what has other names
        if not isinstance(key, str):
            raise BadRegion("a key must be text")
        name = key.removeprefix("/")
        is_one = name.isprintable() and "/" not in name and ".." not in name
        if not is_one or not name.startswith(self._prefix):
            must = f"one name, without .., that begins with {self._prefix}"
            raise BadRegion(f"key {printable(key)} is not allowed: it must be {must}")
        return name


def _natural(what: str, value: object) -> int:
    # no bool, and none so long that writing it into a text would take its time
    if type(value) is not int or not 0 <= value < 2**63:
        raise BadRegion(f"{what} must be a number of bytes from 0 to below 2**63")
    return value
