"""Pieces of a long append or attend, so that steps of other sessions wait only for one piece."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.plan import RowPlan
from rope_core.kvcache.run import LayerInput, LayerOutput
from service.device import Device
from service.inference.attention_cost import OVERHEAD_FLOPS

PIECE_TOKENS = 2048
"""Most tokens of a piece of a longer call."""

MIN_PIECE_QUERIES = 16
"""Fewest queries of a piece: fewer use a processor badly."""

PIECE_S = 10e-3
"""Estimated time of a piece that is not at its least or its most."""


def append_pieces(whole: LayerInput) -> list[LayerInput]:
    """Return the append of an input in pieces of at most PIECE_TOKENS; of an attend none."""
    k, v, plan = whole.k, whole.v, whole.plan
    if k is None or v is None:
        return []
    pieces: list[LayerInput] = []
    for start in range(0, len(plan.slots), PIECE_TOKENS):
        tokens = slice(start, start + PIECE_TOKENS)
        base = plan.base_positions
        part = replace(
            plan,
            rows=_rows_between(plan.rows, start, start + PIECE_TOKENS),
            slots=plan.slots[tokens],
            base_positions=None if base is None else base[..., tokens],
            q_positions=None,
            copies=[] if pieces else plan.copies,
            clears=[] if pieces else plan.clears,
        )
        pieces.append(LayerInput(part, None, k[tokens], v[tokens]))
    return pieces


def _rows_between(rows: Sequence[RowPlan], start: int, stop: int) -> list[RowPlan]:
    """Return the rows of new tokens [start, stop) of a plan, without queries."""
    parts, at = [], 0
    for row in rows:
        first, last = max(start, at), min(stop, at + row.num_new)
        if first < last:
            parts.append(
                replace(
                    row,
                    num_new=last - first,
                    num_queries=0,
                    segments=(),
                    q_index=range(0),
                    tail_mask=None,
                )
            )
        at += row.num_new
    return parts


def attend_pieces(whole: LayerInput, device: Device) -> list[LayerInput]:
    """Return the attend of an input in pieces of some queries of one row; of an append none."""
    if whole.q is None:
        return []
    pieces, at = [], 0
    for row in whole.plan.rows:
        size = max(1, row.num_queries)
        if row.num_queries:
            one_s = attend_flops(whole.plan.group, row) / device.capabilities.flops_per_s / size
            size = min(max(int(PIECE_S / one_s), MIN_PIECE_QUERIES), PIECE_TOKENS)
        for first in range(0, row.num_queries, size):
            last = min(first + size, row.num_queries)
            pieces.append(_some_queries(whole, row, first, last, at))
        at += row.num_queries
    return pieces


def _some_queries(
    whole: LayerInput, row: RowPlan, first: int, last: int, row_start: int
) -> LayerInput:
    """Return the attend of the queries [first, last) of a row, whose queries begin at row_start."""
    assert whole.q is not None, "an attend has queries"
    queries = slice(row_start + first, row_start + last)
    part = replace(
        row,
        num_new=0,
        num_queries=last - first,
        q_index=row.q_index[first:last],
        tail_mask=None if row.tail_mask is None else row.tail_mask[first:last],
    )
    plan, q_positions = whole.plan, whole.plan.q_positions
    plan = replace(
        plan,
        rows=[part],
        slots=plan.slots[:0],
        base_positions=None if plan.base_positions is None else plan.base_positions[..., :0],
        q_positions=None if q_positions is None else q_positions[..., queries],
        copies=[],
        clears=[],
    )
    return LayerInput(
        plan, whole.q[queries], out_dtype=whole.out_dtype, return_lse=whole.return_lse
    )


def join_pieces(
    owners: Sequence[Sequence[int]], results: Sequence[Sequence[LayerOutput]]
) -> list[LayerOutput]:
    """Return the output of each whole input; that of an append is empty.

    Args:
        owners: `SessionJob.owners` of each job.
        results: the outputs of each job.
    """
    parts: dict[int, list[LayerOutput]] = {}
    for of_job, outputs in zip(owners, results, strict=True):
        for owner, output in zip(of_job, outputs, strict=True):
            parts.setdefault(owner, []).append(output)
    return [_join(parts[owner]) for owner in sorted(parts)]


def _join(parts: Sequence[LayerOutput]) -> LayerOutput:
    """Return the outputs of pieces as one; those of appends are empty."""
    parts = [part for part in parts if part.out is not None]
    if len(parts) <= 1:
        return parts[0] if parts else LayerOutput()
    out = torch.cat([part.out for part in parts if part.out is not None])
    lses = [part.lse for part in parts if part.lse is not None]
    return LayerOutput(out, torch.cat(lses) if lses else None, parts[0].backend)


def attend_flops(group: KVGroup, row: RowPlan) -> float:
    """Return the approximate number of operations of a row's scores and weighted sums."""
    num_keys = 0
    for segment in row.segments:
        num_keys += segment.num_keys
    flops = 2.0 * (group.head_dim + group.value_dim) + OVERHEAD_FLOPS
    return row.num_queries * num_keys * group.num_heads * flops
