"""Attention over parts of the keys, merged into attention over all of them."""

from rope_core.backends import Merging, run
from rope_core.calls import Attended, Merge
from rope_core.inference import inference


@inference
def merge(call: Merge, backend: str | None = None) -> Attended:
    """Merge N partial answers, in float32.

    Associative, and exact but for rounding: softmax weights over all keys are each part's own,
    times exp(lse of the part - lse of all). A part that saw no key (lse -inf) counts for nothing.

    Args:
        call: the parts.
        backend: name of the one to take; the first that can where None.

    Raises:
        NoBackend: the backend declines the call.
        KernelNotBuilt: a kernel of the backend named is still being built.
        ConfigError: there is none of that name.
    """
    (out, lse), name = run(Merging(call.out, call.lse), backend)
    return Attended(out, lse, name)
