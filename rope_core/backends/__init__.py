"""Who does the work: backends behind one seam, and the first that can is taken."""

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from rope_core.backends import eager, fused, sdpa
from rope_core.backends.work import Attention, Merging, Rotation, Turning, Work
from rope_core.errors import ConfigError, KernelFailed, KernelNotBuilt, NoBackend

__all__ = [
    "BACKENDS",
    "Attention",
    "Backend",
    "Merging",
    "Rotation",
    "Turning",
    "Work",
    "candidates",
    "run",
]


class Backend(Protocol):
    """What a module of this package provides."""

    name: str

    def why_not(self, work: Work) -> str | None:
        """Return None if this backend can do `work`, else what stands against it."""

    def run(self, work: Work) -> tuple[Tensor, ...]:
        """Do `work`: return the outs of a rotation, `out` and `lse` of attention and of a merger.

        Of attention they are q's shape, `lse` (float32) without its last axis, `out` with v's. A
        query that sees no key has 0 and -inf. Where nobody asked for `lse` it may be missing.

        Raises:
            KernelNotBuilt: a kernel for `work` is being built elsewhere; nothing was written.
            KernelFailed: a kernel for `work` cannot be built; nothing was written.
        """


BACKENDS: tuple[Backend, ...] = (sdpa, fused, eager)


def candidates(device: torch.device, name: str | None = None) -> tuple[Backend, ...]:
    """Return the backends that may do a work on `device`, best first, or the one called `name`.

    On the CPU kernels run in an interpreter, so that there they have to be named.

    Raises:
        ConfigError: there is no backend of that name.
    """
    return _candidates(BACKENDS, device.type, name)


@lru_cache
def _candidates(
    backends: tuple[Backend, ...], device_type: str, name: str | None
) -> tuple[Backend, ...]:
    if name is None:
        return tuple(b for b in backends if b is not fused or device_type != "cpu")
    named = tuple(backend for backend in backends if backend.name == name)
    if not named:
        raise ConfigError("backend", " or ".join(b.name for b in backends), repr(name))
    return named


def run(
    work: Work, name: str | None = None, *, or_another: bool = False
) -> tuple[tuple[Tensor, ...], str]:
    """Do `work` by the first backend that can, or by the one called `name`.

    Args:
        work: what to do.
        name: the backend to take; the first that can where None.
        or_another: take the first that can where the one named declines.

    Returns the tensors and the name of the backend.

    Raises:
        NoBackend: none can; the text has each one's reason.
        KernelNotBuilt: a kernel of the backend named is still being built.
        ConfigError: there is no backend of that name.
    """
    backends = candidates(work.device, name)
    if or_another and name is not None:
        backends += candidates(work.device)
    reasons: dict[str, str] = {}
    for backend in backends:
        reason = backend.why_not(work)
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
