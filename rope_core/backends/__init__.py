"""Backends behind one interface: the first that can run a work runs it."""

from functools import lru_cache
from typing import Protocol

from torch import Tensor

from rope_core.backends import eager, fused, sdpa, varlen
from rope_core.backends.work import AttentionWork, FusedRotaryWork, MergeWork, RotaryWork, Work
from rope_core.errors import ConfigError, KernelFailed, KernelNotBuilt, NoBackend

__all__ = [
    "ATTEND_ONLY",
    "BACKENDS",
    "AttentionWork",
    "Backend",
    "FusedRotaryWork",
    "MergeWork",
    "RotaryWork",
    "Work",
    "run",
]


class Backend(Protocol):
    """The interface of a backend. Each backend is a module of this package."""

    name: str

    def why_not(self, work: Work, *, named: bool = False) -> str | None:
        """Return None if this backend can run `work`, else the reason against it.

        Args:
            work: what to run.
            named: whether the caller named this backend; if not, it may leave work to others.
        """

    def run(self, work: Work) -> tuple[Tensor, ...]:
        """Run `work`: return the outs of a rotation, or `out` and `lse` of attention and merge.

        `out` has the shape of q with the last axis of v. `lse` is float32 of the shape of q
        without the last axis, and may be missing if `work.return_lse` is false. A query that sees
        no key has 0 and -inf.

        Raises:
            KernelNotBuilt: a kernel for `work` is still being built; nothing was written.
            KernelFailed: a kernel for `work` cannot be built; nothing was written.
        """


BACKENDS: tuple[Backend, ...] = (sdpa, varlen, fused, eager)

ATTEND_ONLY = (sdpa.name, varlen.name)
"""Names of the backends that neither rotate nor merge."""


@lru_cache
def _candidates(
    backends: tuple[Backend, ...], name: str | None, allow_fallback: bool, attends: bool
) -> tuple[Backend, ...]:
    """Return the backends to try, in order: the named one first, then the others if allowed."""
    named = tuple(backend for backend in backends if backend.name == name)
    if name is not None and not named:
        raise ConfigError("backend", " or ".join(b.name for b in backends), repr(name))
    if named and not allow_fallback:
        return named
    # those that only attend come last for other works
    order = sorted(backends, key=lambda backend: not attends and backend.name in ATTEND_ONLY)
    return named + tuple(backend for backend in order if backend not in named)


def run(
    work: Work, name: str | None = None, *, allow_fallback: bool = False
) -> tuple[tuple[Tensor, ...], str]:
    """Run `work` on the first backend that can, or on the named one.

    Args:
        work: what to run.
        name: the backend to try first; None for no preference.
        allow_fallback: whether to try the others if the named one declines.

    Returns:
        The tensors, and the name of the backend that ran.

    Raises:
        NoBackend: every backend declines; the text has the reason of each.
        KernelNotBuilt: a kernel of the named backend is still being built.
        ConfigError: no backend has that name.
    """
    reasons: dict[str, str] = {}
    attends = isinstance(work, AttentionWork)
    for backend in _candidates(BACKENDS, name, allow_fallback, attends):
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
