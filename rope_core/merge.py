"""Merge attention over parts of the keys into attention over all keys."""

from rope_core.backends import MergeWork, run
from rope_core.calls import Attended, Merge
from rope_core.gradients import without_gradients


@without_gradients
def merge(call: Merge, backend: str | None = None) -> Attended:
    """Merge N partial answers, in float32.

    Associative, and exact except for rounding: the softmax weights over all keys are the weights
    of each part times exp(lse of the part - lse of all). A part without visible keys (lse -inf) is
    ignored.

    Args:
        call: the parts, `out` `[N, ..., H, Dv]` and `lse` `[N, ..., H]`.
        backend: name of the backend; None for the first that can run the call.

    Returns:
        `out` `[..., H, Dv]` in the dtype of the parts, `lse` float32 `[..., H]`.

    Raises:
        NoBackend: the backend declines the call.
        KernelNotBuilt: a kernel of the named backend is still being built.
        ConfigError: no backend has that name.
    """
    (out, lse), name = run(MergeWork(call.out, call.lse), backend)
    return Attended(out, lse, name)
