"""Plan appends, attends and steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from rope_core.errors import ShapeError
from rope_core.kvcache.arguments import check_max_tokens
from rope_core.kvcache.pending import Pending
from rope_core.kvcache.plan import IntArray, LayerPlan, RowPlan
from rope_core.kvcache.reading import key_segments
from rope_core.kvcache.writing import Writer

if TYPE_CHECKING:
    from rope_core.kvcache.cache_state import CacheState


class Request(NamedTuple):
    """The arguments of `KVCache.plan`, checked."""

    group: int
    layers: Sequence[int]
    rows: Sequence[int]
    num_new: Sequence[int] | None
    """None: nothing is appended."""
    num_queries: Sequence[int] | None
    positions: IntArray | None
    """`[A, T]`."""
    q_index: IntArray | None
    tail_mask: Tensor | None


def plan_layers(cache: "CacheState", request: Request) -> Pending:
    """Return the plans of a request. Raises as `KVCache.plan`; nothing has changed then."""
    if request.num_new is not None:
        _check_stored_positions(cache, request, request.num_new)
        _check_max_tokens(cache, request, request.num_new)
    pending = Pending()
    try:
        if request.num_new is not None:
            _append_tokens(cache, request, request.num_new, pending)
        for layer in request.layers:
            pending.layers.append(_plan_layer(cache, request, layer, pending))
    except BaseException:
        cache.undo(pending)
        raise
    return pending


def _check_stored_positions(cache: "CacheState", request: Request, counts: Sequence[int]) -> None:
    """Raise ShapeError where positions of a token differ from those that another layer gave it."""
    if request.positions is None:
        return
    start = 0
    for number, num_new in zip(request.rows, counts, strict=True):
        row = cache.rows[number]
        for layer in request.layers:
            length = cache.layer_lengths[layer][number]
            num_stored = min(row.num_tokens - length, num_new)
            if num_stored > 0:
                positions = request.positions[:, start : start + num_stored]
                if not bool((positions == row.positions(length, length + num_stored)).all()):
                    expected = "those that another layer gave the same tokens"
                    raise ShapeError("positions", expected, "others")
        start += num_new


def _check_max_tokens(cache: "CacheState", request: Request, counts: Sequence[int]) -> None:
    for layer in request.layers:
        lengths = cache.layer_lengths[layer]
        for number, num_new in zip(request.rows, counts, strict=True):
            if num_new:
                check_max_tokens(number, lengths[number] + num_new, cache.max_tokens)


def _append_tokens(
    cache: "CacheState", request: Request, counts: Sequence[int], pending: Pending
) -> None:
    """Add the tokens that no layer has yet to their rows."""
    start = 0
    for number, num_new in zip(request.rows, counts, strict=True):
        stop = start + num_new
        row = cache.rows[number]
        length = max([cache.layer_lengths[layer][number] for layer in request.layers])
        added = length + num_new - row.num_tokens
        if added > 0 and num_new:
            positions = request.positions
            if positions is not None:
                positions = positions[:, stop - added : stop]
            pending.appended.append((row, row.append(added, positions)))
        start = stop


def _plan_layer(cache: "CacheState", request: Request, layer: int, pending: Pending) -> LayerPlan:
    group_number, layer_in_group = cache.group_of[layer]
    config = cache.config
    group = config.groups[group_number]
    plan = LayerPlan(
        group,
        layer,
        cache.holdings.pools[group_number],
        layer_in_group,
        rows=[],
        slots=_NO_NUMBERS,
        base_positions=None,
        q_positions=None,
        dtype=config.dtype,
    )
    lengths = cache.layer_lengths[layer]
    if request.num_new is not None:
        _plan_writes(cache, request.rows, request.num_new, lengths, plan, group_number, pending)
        pending.new_lengths.append((layer, request.rows, request.num_new))
        lengths = [*lengths]
        for number, num_new in zip(request.rows, request.num_new, strict=True):
            lengths[number] += num_new
    _plan_queries(cache, request, lengths, plan)
    return plan


def _plan_writes(
    cache: "CacheState",
    rows: Sequence[int],
    counts: Sequence[int],
    lengths: Sequence[int],
    plan: LayerPlan,
    group_number: int,
    pending: Pending,
) -> None:
    has_rope = plan.group.rope is not None
    writer = Writer(cache.holdings, pending, group_number, plan.copies, plan.clears)
    slots: list[int | IntArray] = []
    bases: list[int | IntArray] = []
    for number, num_new in zip(rows, counts, strict=True):
        if not num_new:
            continue
        row, start = cache.rows[number], lengths[number]
        stop = start + num_new
        slots.append(writer.slots(row, start, stop))
        if has_rope:
            base = row.base_position_of(start) if num_new == 1 else None
            bases.append(row.base_positions(start, stop) if base is None else base)
    plan.slots = _joined(slots, 1)
    if has_rope:
        plan.base_positions = _joined(bases, cache.config.num_axes)


def _plan_queries(
    cache: "CacheState", request: Request, lengths: Sequence[int], plan: LayerPlan
) -> None:
    """Add the rows and the positions of queries to a plan; `lengths` with the new tokens."""
    rows = plan.rows
    assert isinstance(rows, list)
    of_request = request.positions if request.num_new is None else None
    has_rope = plan.group.rope is not None
    if has_rope and request.q_index is not None and request.positions is None:
        raise ShapeError("positions", "given with q_index", "none")
    positions: list[int | IntArray] = []
    q_stop = 0
    for i, number in enumerate(request.rows):
        num_new = request.num_new[i] if request.num_new is not None else 0
        num_queries = request.num_queries[i] if request.num_queries is not None else 0
        row, length = cache.rows[number], lengths[number]
        if not num_queries:
            rows.append(RowPlan(num_new, 0, (), _NO_INDEX, length))
            continue
        q_start, q_stop = q_stop, q_stop + num_queries
        if request.q_index is not None:
            indices = request.q_index[q_start:q_stop]
            q_index: range | IntArray = indices
            least_index = int(indices.min())
        else:
            if num_queries > length:
                raise ShapeError(
                    "q", f"of at most {length} queries, one for each token", num_queries
                )
            q_index = row.indices(length - num_queries, length)
            least_index = int(q_index[0])
        keys = key_segments(row, plan.group, cache.group_of[plan.layer][0], length, least_index)
        row_plan = RowPlan(num_new, num_queries, keys, q_index, length)
        if request.tail_mask is not None:
            row_plan.tail_mask = _tail_mask_of(request.tail_mask, i, length)
        rows.append(row_plan)
        if not has_rope:
            continue
        if of_request is not None:
            positions.append(of_request[:, q_start:q_stop])
            continue
        if num_queries > length:
            raise ShapeError("positions", "given with q_index", "none")
        position = row.position_of(length - 1) if num_queries == 1 else None
        positions.append(
            row.positions(length - num_queries, length) if position is None else position
        )
    if has_rope:
        plan.q_positions = _joined(positions, cache.config.num_axes)


def _tail_mask_of(tail_mask: Tensor, number: int, length: int) -> Tensor:
    mask = tail_mask if tail_mask.ndim == 2 else tail_mask[number]
    if mask.shape[1] > length:
        raise ShapeError("tail_mask", f"of at most {length} keys", mask.shape[1])
    return mask


def _joined(parts: list[int | IntArray], num_axes: int) -> IntArray:
    """Return numbers as `[T]`, of several axes as `[A, T]`."""
    if num_axes == 1 and all(isinstance(part, int) for part in parts):
        return np.array(parts, np.int64)
    arrays = [
        np.full((num_axes, 1), part) if isinstance(part, int) else np.atleast_2d(part)
        for part in parts
    ]
    if not arrays:
        return np.empty((num_axes, 0), np.int64)
    whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=1)
    return whole[0] if num_axes == 1 else whole


_NO_NUMBERS = np.empty(0, np.int64)
_NO_INDEX = range(0)
