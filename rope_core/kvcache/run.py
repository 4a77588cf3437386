"""Run plans on a device: copy pages, write keys and values, attend."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.kvcache.plan import LayerPlan, MovePlan


@dataclass(slots=True)
class LayerInput:
    """A plan of one layer with the tensors of its call, packed over the rows of the plan."""

    plan: LayerPlan
    q: Tensor | None = None
    """`[Tq, H, D]`."""
    k: Tensor | None = None
    """`[T, Hkv, D]`, not rotated."""
    v: Tensor | None = None
    """`[T, Hkv, Dv]`."""
    out_dtype: torch.dtype | None = None
    return_lse: bool = False


@dataclass(slots=True)
class LayerOutput:
    """The answer of a layer; empty for an append."""

    out: Tensor | None = None
    """`[Tq, H, Dv]`."""
    lse: Tensor | None = None
    """float32 `[Tq, H]`."""
    backend: str = ""


def run_layers(inputs: Sequence[LayerInput], backend: str | None = None) -> list[LayerOutput]:
    """Run plans of any caches, layers and groups together: all copies and writes, then attends.

    The answer to each has the same bits whatever the others are. Nothing that a cache shows has
    changed until the plans are committed, so it may run again after a failure.

    Raises:
        NoBackend, KernelNotBuilt: as `rope_core.attention.run_attend`.
    """
    raise NotImplementedError


def run_moves(plan: MovePlan) -> None:
    """Run the copies and the moves of a plan. Not to be run twice."""
    raise NotImplementedError
