"""Backends behind one interface: the first that can do a work runs it."""

from functools import lru_cache
from typing import Protocol

from torch import Tensor

from rope_core.backends import eager, fused, sdpa, varlen
from rope_core.backends.work import Attention, Merging, Rotation, Turning, Work
from rope_core.errors import ConfigError, KernelFailed, KernelNotBuilt, NoBackend

__all__ = [
    "ATTEND_ONLY",
    "BACKENDS",
    "Attention",
    "Backend",
    "Merging",
    "Rotation",
    "Turning",
    "Work",
    "run",
]


class Backend(Protocol):
    """What a module of this package provides."""

    name: str

    def why_not(self, work: Work, *, named: bool = False) -> str | None:
        """Return None if this backend does `work`, else what stands against it.

        Args:
            work: what to do.
            named: the caller names this backend, which may decline other work that it can do.
        """

    def run(self, work: Work) -> tuple[Tensor, ...]:
        """Do `work`: return the outs of a rotation, `out` and `lse` of attention and of a merger.

        Of attention they are q's shape, `lse` (float32) without its last axis, `out` with v's. A
        query that sees no key has 0 and -inf. Where nobody asked for `lse` it may be missing.

        Raises:
            KernelNotBuilt: a kernel for `work` is being built elsewhere; nothing was written.
            KernelFailed: a kernel for `work` cannot be built; nothing was written.
        """


BACKENDS: tuple[Backend, ...] = (sdpa, varlen, fused, eager)

ATTEND_ONLY = (sdpa.name, varlen.name)
"""Names of the backends that neither rotate nor merge."""


@lru_cache
def _candidates(
    backends: tuple[Backend, ...], name: str | None, or_another: bool
) -> tuple[Backend, ...]:
    """Return the backends to try, in order: the one called `name` first, others if allowed.

    Raises:
        ConfigError: there is no backend of that name.
    """
    named = tuple(backend for backend in backends if backend.name == name)
    if name is not None and not named:
        raise ConfigError("backend", " or ".join(b.name for b in backends), repr(name))
    if named and not or_another:
        return named
    return named + tuple(backend for backend in backends if backend not in named)


def run(
    work: Work, name: str | None = None, *, or_another: bool = False
) -> tuple[tuple[Tensor, ...], str]:
    """Do `work` by the first backend that can, or by the one called `name`.

    Args:
        work: what to do.
        name: the backend to try first; None for no preference.
        or_another: try the other backends where the one named declines.

    Returns the tensors, and the name of the backend that ran.

    Raises:
        NoBackend: no backend can; the text has the reason of each.
        KernelNotBuilt: a kernel of the backend named is still being built.
        ConfigError: there is no backend of that name.
    """
    reasons: dict[str, str] = {}
    for backend in _candidates(BACKENDS, name, or_another):
        reason = backend.why_not(work, named=backend.name == name)
        if reason is None:
            try:
                return backend.run(work), backend.name
            except KernelNotBuilt as not_built:
                if backend.name == name:
                    raise
                reason = str(not_built)
            except KernelFailed as failed:
                reason = str(failed)
        reasons[backend.name] = reason
    raise NoBackend(reasons)
