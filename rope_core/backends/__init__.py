"""Who does the work: backends behind one seam, and the first that can is taken."""

from typing import Protocol

from torch import Tensor

from rope_core.backends import eager, fused, sdpa
from rope_core.backends.work import Attention, Merging, Rotation, Turning, Work
from rope_core.errors import ConfigError, NoBackend

__all__ = [
    "BACKENDS",
    "Attention",
    "Backend",
    "Merging",
    "Rotation",
    "Turning",
    "Work",
    "prefer",
    "select",
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
        """


BACKENDS: tuple[Backend, ...] = (sdpa, fused, eager)


def select(work: Work, name: str | None = None) -> Backend:
    """Return the first backend that can do `work`, or the one called `name`.

    On the CPU kernels run in an interpreter, so that there they have to be named.

    Raises:
        NoBackend: none can; the text has each one's reason.
        ConfigError: there is no backend of that name.
    """
    candidates = BACKENDS
    if name is None and work.device.type == "cpu":
        candidates = tuple(backend for backend in BACKENDS if backend is not fused)
    if name is not None:
        candidates = tuple(backend for backend in BACKENDS if backend.name == name)
        if not candidates:
            expected = " or ".join(backend.name for backend in BACKENDS)
            raise ConfigError("backend", expected, repr(name))
    reasons: dict[str, str] = {}
    for backend in candidates:
        reason = backend.why_not(work)
        if reason is None:
            return backend
        reasons[backend.name] = reason
    raise NoBackend(reasons)


def prefer(work: Work, name: str | None) -> Backend:
    """Return the backend called `name` if it can do `work`, else the first that can."""
    named = (backend for backend in BACKENDS if backend.name == name)
    return next((each for each in named if each.why_not(work) is None), None) or select(work)
