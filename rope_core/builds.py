"""When a missing kernel is built: at once, or by another thread while the call is done differently.

Building a kernel takes seconds. A library call builds what it misses and goes on. A server cannot
wait: within `deferred_builds` a call that misses a kernel hands the build to the server and raises
`KernelNotBuilt`, before anything is launched.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from rope_core.errors import KernelNotBuilt

Build = Callable[[], None]
"""Builds one kernel variant and loads it onto the device. May be called in any thread."""

StartBuild = Callable[[Hashable, Build], None]
"""Takes the key of a kernel variant and its build. The same key may come again: build it once."""

_start_build: ContextVar[StartBuild | None] = ContextVar("start_build", default=None)


@contextmanager
def deferred_builds(start_build: StartBuild) -> Iterator[None]:
    """Hand the builds of this thread to `start_build` within the block, instead of waiting."""
    token = _start_build.set(start_build)
    try:
        yield
    finally:
        _start_build.reset(token)


def ensure_built(missing: Mapping[Hashable, Build]) -> None:
    """Build all kernel variants that a call misses, by their keys.

    Raises:
        KernelNotBuilt: within `deferred_builds`, where any is missing; all of them are handed over.
    """
    start_build = _start_build.get()
    for key, build in missing.items():
        if start_build is None:
            build()
        else:
            start_build(key, build)
    if missing and start_build is not None:
        raise KernelNotBuilt
