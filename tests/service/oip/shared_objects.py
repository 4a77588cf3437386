"""Objects of shared memory for the tests of one file, and the registry of their regions."""

import os
import random
import uuid
from pathlib import Path

from service.oip.shm.posix import SHM_DIR
from service.oip.shm.registry import SharedMemoryRegistry

SIZE = 4096 * 3
BYTES = random.Random(0).randbytes(SIZE)


class SharedObjects:
    """Objects of shared memory whose names start with a prefix of their own."""

    def __init__(self) -> None:
        self.prefix = f"rope_test_{uuid.uuid4().hex[:12]}_"

    def path(self, name: str = "x") -> Path:
        return Path(SHM_DIR) / (self.prefix + name)

    def make(self, name: str = "x", content: bytes = BYTES) -> str:
        self.path(name).write_bytes(content)
        return "/" + self.prefix + name

    def clear(self) -> None:
        for path in Path(SHM_DIR).glob(f"*{self.prefix}*"):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def write(regions: SharedMemoryRegistry, name: str, offset: int, data: bytes) -> None:
    regions.slice(name, offset, len(data)).write(data)


def num_open() -> int:
    return len(os.listdir("/proc/self/fd"))


def kind_of(value: object) -> str:
    return type(value).__name__
