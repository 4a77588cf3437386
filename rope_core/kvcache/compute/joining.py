"""Plans of one layer of many caches, joined to one plan: fewer calls for the same work."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, cat

from rope_core.kvcache.plan import IntArray, LayerPlan


def joined_plan(plans: Sequence[LayerPlan]) -> LayerPlan:
    """Return the plan of the rows of all plans, one after the other.

    Args:
        plans: of one pool, group and layer of it.
    """
    first = plans[0]
    return LayerPlan(
        first.group,
        first.layer,
        first.pool,
        first.layer_in_group,
        [row for plan in plans for row in plan.rows],
        np.concatenate([plan.slots for plan in plans]),
        joined_numbers([plan.base_positions for plan in plans]),
        joined_numbers([plan.q_positions for plan in plans]),
        dtype=first.dtype,
    )


def joined_numbers(parts: Sequence[IntArray | None]) -> IntArray | None:
    """Return numbers of tokens one after the other, None where there are none."""
    arrays = [part for part in parts if part is not None]
    return np.concatenate(arrays, -1) if arrays else None


def joined_tensors(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Return tensors of tokens one after the other, None where there are none."""
    tensors = [part for part in parts if part is not None]
    return cat(tensors) if tensors else None
