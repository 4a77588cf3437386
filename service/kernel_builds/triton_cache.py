"""Triton's cache of compiled kernels: prebuilt ones first, and a full disk is no error.

Triton imports this module by the variable TRITON_CACHE_MANAGER, which the image sets.

- Kernels that the image brings are read from `PREBUILT`, where they lie read-only and executable;
  the cache's own folder, TRITON_CACHE_DIR, may be mounted noexec.
- Before a kernel is compiled, the oldest kernels make room for it.
- Files that cannot be written to TRITON_CACHE_DIR go to a temporary folder of this process.
"""

import functools
import logging
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from triton.runtime.cache import FileCacheManager

log = logging.getLogger("rope.kernel_cache")

PREBUILT = Path(sys.prefix) / "triton"
"""Prebuilt kernels of the image, by key. Does not exist outside of the image."""

MIN_FREE_BYTES = 16 * 2**20
"""Enough for one build: Triton's files, and the temporary files of its assembler."""

EMPTY_SUFFIXES = {".source", ".ttir", ".ttgir", ".llir", ".ptx"}
"""Suffixes of intermediate stages, which are stored empty: they are most of the bytes, and loading
needs none of them."""


class KernelCache(FileCacheManager):  # type: ignore[misc]
    """The files of one kernel, or of one of Triton's own helpers.

    Args:
        key: hash of all that the files depend on.
        override: the files are replacements by a developer; as in Triton.
        dump: the files are for a developer to read; as in Triton.
    """

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        prebuilt = PREBUILT / key
        if prebuilt.is_dir() and not override and not dump:
            self.key, self.cache_dir = key, str(prebuilt)
            self.lock_path = str(prebuilt / "lock")
            return
        # where the folder cannot be made, nothing is found in it, and `put` looks for another
        with suppress(OSError):
            super().__init__(key, override, dump)
            _make_room(Path(self.cache_dir).parent)

    def put(self, data: object, filename: str, binary: bool = True) -> str:
        """Write a file and return its path.

        Raises:
            OSError: neither the cache nor the temporary folder can be written to. Triton's
                assembler needs the latter as well.
        """
        if Path(filename).suffix in EMPTY_SUFFIXES:
            data = ""
        try:
            return str(super().put(data, filename, binary))
        except OSError as failed:
            for partial in Path(self.cache_dir).glob(f"tmp.pid_{os.getpid()}_*"):
                shutil.rmtree(partial, ignore_errors=True)
            spare = _spare_folder()
            log.warning("kernel %s is kept in %s: %s", filename, spare, failed)
            _make_room(spare)
            self.cache_dir = str(spare / self.key)
            return str(super().put(data, filename, binary))


@functools.cache
def _spare_folder() -> Path:
    """Return a folder that only this process uses."""
    return Path(tempfile.mkdtemp(prefix="triton-"))


def _make_room(folder: Path) -> None:
    """Remove the oldest complete kernels of a cache while its disk is nearly full.

    A kernel that has been loaded does not need its files again in this process.
    """
    if shutil.disk_usage(folder).free >= MIN_FREE_BYTES:
        return
    complete = folder.glob("*/__grp__*")  # Triton writes this file last
    for group in sorted(complete, key=lambda file: file.stat().st_mtime_ns):
        shutil.rmtree(group.parent, ignore_errors=True)
        if shutil.disk_usage(folder).free >= MIN_FREE_BYTES:
            return
