"""Run plans on a device: copy pages, write keys and values, attend."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.kvcache.compute.attend import attend_row, sinks_tensor
from rope_core.kvcache.compute.compiled_attend import Batch, can_attend
from rope_core.kvcache.compute.compiled_attend import name as COMPILED
from rope_core.kvcache.compute.moves import run_move
from rope_core.kvcache.compute.page_memory import page_memory
from rope_core.kvcache.compute.rotation import Queries
from rope_core.kvcache.compute.scatter import clear_page, copy_page, write_tokens
from rope_core.kvcache.plan import LayerPlan, MovePlan

Batches = dict[tuple[object, ...], Batch]
"""Rows that one call of compiled code attends to, by what they have in common."""


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
    for call in inputs:
        for page_group in call.plan.clears:
            clear_page(call.plan.pool, page_group)
    for call in inputs:
        for copy in call.plan.copies:
            copy_page(copy)
    for call in inputs:
        if call.k is not None and call.v is not None:
            write_tokens(call.plan, page_memory(call.plan.pool), call.k, call.v)
    batches: Batches = {}
    outputs = [
        LayerOutput() if call.q is None else _attend(call, call.q, backend, batches)
        for call in inputs
    ]
    for batch in batches.values():
        batch.run()
    return outputs


def _attend(call: LayerInput, q: Tensor, backend: str | None, batches: Batches) -> LayerOutput:
    """Attend from the queries of all rows of a plan, or add them to a batch that will."""
    plan, group, memory = call.plan, call.plan.group, page_memory(call.plan.pool)
    queries = Queries(q.contiguous(), plan)
    out_dtype = call.out_dtype or q.dtype
    out = torch.empty(*q.shape[:2], group.value_dim, dtype=out_dtype)
    lse = torch.empty(q.shape[:2], dtype=torch.float32)
    sinks = None if group.sinks is None else sinks_tensor(group.sinks[plan.layer_in_group])
    key = id(plan.pool), group.num_heads, group.attention, out_dtype, id(sinks)
    start, name = 0, ""
    for row in plan.rows:
        rows = slice(start, start + row.num_queries)
        start = rows.stop
        if not row.num_queries:
            continue
        answer = (out, lse) if len(plan.rows) == 1 else (out[rows], lse[rows])
        if backend is None and can_attend(plan, row):
            if (batch := batches.get(key)) is None:
                batch = batches[key] = Batch(plan, memory, out_dtype, sinks)
            batch.add(plan, row, queries, rows, *answer)
            name = COMPILED
        else:
            name = attend_row(plan, memory, row, queries, rows, *answer, sinks, backend) or name
    return LayerOutput(out, lse if call.return_lse else None, name)


def run_moves(plan: MovePlan) -> None:
    """Run the copies and the moves of a plan. Not to be run twice."""
    for pool, page_group in plan.clears:
        clear_page(pool, page_group)
    for copy in plan.copies:
        copy_page(copy)
    for move in plan.moves:
        run_move(move)
