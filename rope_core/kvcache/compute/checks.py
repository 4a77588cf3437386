"""Checks of the tensors of a call against its plan: compiled code reads them by their addresses."""

from torch import Tensor

from rope_core.checks import dtype_of, shape_of
from rope_core.errors import ShapeError
from rope_core.kvcache.compute.page_memory import page_memory
from rope_core.kvcache.plan import LayerPlan


def check_tensors(plan: LayerPlan, q: Tensor | None, k: Tensor | None, v: Tensor | None) -> None:
    """Raise ShapeError if a tensor does not fit the plan, is missing, or is on another device."""
    group, num_new = plan.group, len(plan.slots)
    num_queries = sum(row.num_queries for row in plan.rows)
    if q is not None or num_queries:
        _check("q", q, (num_queries, group.num_heads, group.head_dim), plan)
    if k is not None or v is not None or num_new:
        _check("k", k, (num_new, group.num_kv_heads, group.head_dim), plan)
        _check("v", v, (num_new, group.num_kv_heads, group.value_dim), plan)


def _check(name: str, x: Tensor | None, shape: tuple[int, ...], plan: LayerPlan) -> None:
    if x is None:
        raise ShapeError(name, f"{list(shape)}, as the plan says", "none")
    if x.shape != shape:
        raise ShapeError(name, f"{list(shape)}, as the plan says", shape_of(x))
    if x.dtype != plan.dtype:
        raise ShapeError(name, f"{plan.dtype}, as the plan says", dtype_of(x))
    device = page_memory(plan.pool).keys.device
    if x.device != device:
        raise ShapeError(name, f"on {device}, as the pages are", f"on {x.device}")
