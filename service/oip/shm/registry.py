"""The registry of regions: parts of shared memory objects that clients name and use for tensors."""

from dataclasses import dataclass
from threading import Lock

from service.errors import Overloaded, printable
from service.oip.errors import AlreadyExists, BadRegion, SharedMemoryOff, UnknownRegion
from service.oip.shm.posix import RegionSlice, SharedMemoryFile, open_shared_memory

MAX_REGIONS = 512
"""Most regions at a time; each region holds a file descriptor."""

MAX_NAME_LENGTH = 256
"""Longest name of a region, in characters."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a shared memory object, by a name that a client chose; sizes in bytes."""

    name: str
    key: str
    offset: int
    byte_size: int


class SharedMemoryRegistry:
    """Registered regions by name. All methods are safe to call from any thread.

    Args:
        prefix: beginning of the keys that clients may register; None or empty disables shared
            memory, and every method raises SharedMemoryOff.
    """

    def __init__(self, prefix: str | None) -> None:
        self._prefix = (prefix or "").removeprefix("/")
        self._lock = Lock()
        self._regions: dict[str, tuple[Region, SharedMemoryFile]] = {}

    @property
    def enabled(self) -> bool:
        """Whether clients may register regions."""
        return bool(self._prefix)

    def check_enabled(self) -> None:
        """Raise SharedMemoryOff unless clients may register regions."""
        if not self.enabled:
            raise SharedMemoryOff

    def register(self, name: object, key: object, offset: object, byte_size: object) -> None:
        """Open an object and register a part of it; the arguments are unchecked client input.

        Raises:
            AlreadyExists: a region of that name exists.
            BadRegion: the key is not allowed, or its object is missing, not accessible or too
                small.
            Overloaded: too many regions are registered.
        """
        self.check_enabled()
        if (
            not isinstance(name, str)
            or not 0 < len(name) <= MAX_NAME_LENGTH
            or not name.isprintable()
        ):
            raise BadRegion(f"a region's name must be 1 to {MAX_NAME_LENGTH} printable characters")
        start, size = _natural("offset", offset), _natural("byte_size", byte_size)
        if not size:
            raise BadRegion("byte_size must be more than 0, got 0")
        with self._lock:
            if name in self._regions:
                raise AlreadyExists(f"region {printable(name)} is registered already")
            object_name = self._object_name(key)  # before any access to the file system
            if len(self._regions) >= MAX_REGIONS:
                raise Overloaded(f"{MAX_REGIONS} regions are registered, which is the limit")
            file = open_shared_memory(object_name, start + size)
            self._regions[name] = Region(name, str(key), start, size), file

    def unregister(self, name: str = "") -> None:
        """Remove one region, or all regions if the name is empty.

        Slices that are in use stay usable.
        """
        self.check_enabled()
        with self._lock:
            names = [name] if name else [*self._regions]
            removed = [self._regions.pop(region, None) for region in names]
        del removed  # closes the files outside of the lock

    def status(self, name: str = "") -> list[Region]:
        """Return one region, or all regions if the name is empty.

        Raises:
            UnknownRegion: no region has that name.
        """
        self.check_enabled()
        if name:
            return [self._find(name)[0]]
        with self._lock:
            return [region for region, _ in self._regions.values()]

    def slice(self, name: str, offset: object, byte_size: object) -> RegionSlice:
        """Return a part of a region.

        Raises:
            UnknownRegion: no region has that name.
            BadRegion: the part is not within the region.
        """
        self.check_enabled()
        region, file = self._find(name)
        start = _natural("shared_memory_offset", offset)
        size = _natural("shared_memory_byte_size", byte_size)
        if start + size > region.byte_size:
            text = f"bytes {start} to {start + size} are not within its {region.byte_size} bytes"
            raise BadRegion(f"region {printable(name)} is too small: {text}")
        return RegionSlice(name, start, size, region.offset + start, file)

    def close(self) -> None:
        """Remove all regions, when the service ends."""
        with self._lock:
            self._regions = {}

    def _find(self, name: str) -> tuple[Region, SharedMemoryFile]:
        with self._lock:
            entry = self._regions.get(name)
        if entry is None:
            raise UnknownRegion(f"no region {printable(name)} is registered")
        return entry

    def _object_name(self, key: object) -> str:
        """Return the name of an object, if the prefix allows the key.

        The check precedes all access to the file system, so that clients cannot learn which other
        objects exist.
        """
        if not isinstance(key, str):
            raise BadRegion(f"a key must be text, got {type(key).__name__}")
        name = key.removeprefix("/")
        is_one_name = name.isprintable() and "/" not in name and ".." not in name
        if not is_one_name or not name.startswith(self._prefix):
            expected = f"one name without .. that begins with {self._prefix}"
            raise BadRegion(f"key {printable(key)} is not allowed: it must be {expected}")
        return name


def _natural(field: str, value: object) -> int:
    # bool is a subclass of int; a huge integer would take long to print
    if type(value) is not int or not 0 <= value < 2**63:
        kind = "" if type(value) is int else f", got {type(value).__name__}"
        raise BadRegion(f"{field} must be a number of bytes from 0 to below 2**63{kind}")
    return value
