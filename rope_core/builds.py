"""Build missing kernels: at once in a library call, deferred in a server.

Building a kernel takes seconds. A library call builds the kernels that it needs and continues. A
server cannot wait: within `deferred_builds`, a call whose kernels are missing hands the builds over
and raises `KernelNotBuilt` before it launches anything.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from rope_core.errors import KernelNotBuilt

Build = Callable[[], None]
"""Builds one kernel variant and loads it onto the device. Thread-safe."""

StartBuild = Callable[[Hashable, Build], None]
"""Takes the key of a kernel variant and its build. A key may come again: build it once."""

_start_build: ContextVar[StartBuild | None] = ContextVar("start_build", default=None)


@contextmanager
def deferred_builds(start_build: StartBuild) -> Iterator[None]:
    """Within the block, hand the builds that calls of this thread need to `start_build`."""
    token = _start_build.set(start_build)
    try:
        yield
    finally:
        _start_build.reset(token)


def ensure_built(missing: Mapping[Hashable, Build]) -> None:
    """Build the missing kernel variants of a call.

    Raises:
        KernelNotBuilt: there are missing variants within `deferred_builds`; all are handed over.
    """
    start_build = _start_build.get()
    for key, build in missing.items():
        if start_build is None:
            build()
        else:
            start_build(key, build)
    if missing and start_build is not None:
        raise KernelNotBuilt
