"""Run plans by our Triton kernels: a launch writes, one attends, and one merges segments."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rope_core.angles import Angles, FusedAngles, key_angles, token_angles
from rope_core.backends import fused, run
from rope_core.config import RopeConfig
from rope_core.kvcache.compute.attend import sinks_tensor as sinks_of
from rope_core.kvcache.compute.page_memory import as_tensor, page_memory
from rope_core.kvcache.compute.pieces import Piece, piece_config, visible_keys
from rope_core.kvcache.compute.rotation import moved_back
from rope_core.kvcache.plan import IntArray, KeySegment, LayerPlan, RowPlan
from rope_core.rotary import rotary_work

name = fused.name


def why_not(plan: LayerPlan) -> str | None:
    """Return why kernels cannot run a plan, None if they can."""
    keys = page_memory(plan.pool).keys
    if (reason := fused.unavailable(keys.device)) is not None:
        return reason
    if plan.pool.shape.has_scales:
        return "kernels read no keys and values of 8 bits"
    from rope_core.kernels.head_dims import HEAD_DIMS
    from rope_core.kernels.runtime import device_properties
    from rope_core.kernels.tile_configs import why_no_tile

    group = plan.group
    if group.value_dim not in HEAD_DIMS:
        return f"there are no kernels for heads of width {group.value_dim}"
    properties = device_properties(keys.device)
    return why_no_tile(properties, keys.dtype, group.head_dim, group.value_dim)


def runs(plan: LayerPlan) -> bool:
    """Tell whether kernels run a plan without being named: on the CPU they are interpreted."""
    device = page_memory(plan.pool).keys.device
    return not fused.only_named(device) and why_not(plan) is None


def write_tokens(tokens: Sequence[tuple[LayerPlan, Tensor, Tensor]]) -> None:
    """Write k `[T, Hkv, D]` and v `[T, Hkv, Dv]` of plans into their pages.

    A launch for the plans of a pool and a rope.
    """
    calls: dict[Hashable, list[tuple[LayerPlan, Tensor, Tensor]]] = defaultdict(list)
    for plan, k, v in tokens:
        calls[id(plan.pool), plan.group.rope].append((plan, k, v))
    for same in calls.values():
        plans, k_parts, v_parts = zip(*same, strict=True)
        _write(plans, joined(k_parts), joined(v_parts))


def _write(plans: Sequence[LayerPlan], k: Tensor, v: Tensor) -> None:
    from rope_core.kernels.scatter import scatter

    plan, memory = plans[0], page_memory(plans[0].pool)
    rope, device = plan.group.rope, k.device
    # pages of a group are next to each other: layer l has the page group + l
    all_slots = [p.slots + p.layer_in_group * memory.page_tokens for p in plans]
    slots = as_tensor(np.concatenate(all_slots)).to(device, non_blocking=True)
    if rope is None:
        scatter(k, v, memory.keys, memory.values, slots)
        return
    positions = joined_positions([p.base_positions for p in plans], device)
    angles = token_angles(k, positions, None, rope, None, name)
    if isinstance(angles, FusedAngles):
        assert rope.layout in ("half", "interleaved"), "kernels compute their angles only"
        scatter(
            *(k, v, memory.keys, memory.values, slots),
            positions=angles.positions,
            inv_freq=angles.inv_freq,
            attention_scaling=angles.attention_scaling,
            rotary_dim=rope.rotary_dim,
            layout=rope.layout,
            trailing=rope.trailing,
        )
        return
    scatter(rotated(k, key_angles(angles), rope), v, memory.keys, memory.values, slots)


def rotated(x: Tensor, angles: Angles | FusedAngles, rope: RopeConfig) -> Tensor:
    """Return `x` `[T, H, D]` rotated, by kernels where they can."""
    work, (out,) = rotary_work((x,), (None,), angles, rope)
    run(work, name, allow_fallback=True)
    return out


@dataclass(slots=True)
class Rows:
    """Rows that launches attend to together, and their queries."""

    plans: list[LayerPlan] = field(default_factory=list)
    rows: list[RowPlan] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    """`[n, H, D]` of each row, not rotated."""

    positions: list[IntArray | None] = field(default_factory=list)


class Attention:
    """Attention of rows of many plans: `add` them, then `run`.

    Rows of one segment, of several, and those that need a mask are launches of their own, so that
    the bits of an answer do not depend on the others.
    """

    def __init__(self) -> None:
        self._launches: dict[Hashable, Rows] = defaultdict(Rows)
        self._places: list[tuple[Hashable, int, int]] = []

    def add(self, plan: LayerPlan, q: Tensor, out_dtype: torch.dtype) -> int:
        """Add the rows of a plan, with queries `[Tq, H, D]`; return how many of them have some."""
        group, start, num_rows = plan.group, 0, 0
        sinks = None if group.sinks is None else group.sinks[plan.layer_in_group]
        for row in plan.rows:
            part = slice(start, start + row.num_queries)
            start = part.stop
            if not row.num_queries:
                continue
            kind = "masked" if needs_mask(row) else "several" if len(row.segments) > 1 else "one"
            key = (id(plan.pool), group.num_heads, group.attention, group.rope, sinks, out_dtype)
            rows = self._launches[key, kind]
            first = sum(map(len, rows.queries))
            self._places.append(((key, kind), first, first + row.num_queries))
            rows.plans.append(plan)
            rows.rows.append(row)
            rows.queries.append(q[part])
            positions = plan.q_positions
            rows.positions.append(None if positions is None else positions[..., part])
            num_rows += 1
        return num_rows

    def run(self) -> list[tuple[Tensor, Tensor]]:
        """Return out `[n, H, Dv]` and lse `[n, H]` of each row, in the order of `add`."""
        answers = {
            key: attend_rows(rows, key[0][-2], key[0][-1], masked=key[1] == "masked")  # type: ignore[index]
            for key, rows in self._launches.items()
        }
        return [
            (answers[key][0][start:stop], answers[key][1][start:stop])
            for key, start, stop in self._places
        ]


def needs_mask(row: RowPlan) -> bool:
    """Return whether a query needs more than the first index of its row: an index or a mask."""
    index = row.q_index
    if row.tail_mask is not None:
        return True
    return not isinstance(index, range) and bool((np.diff(index) != 1).any())


def attend_rows(
    rows: Rows, sinks: tuple[float, ...] | None, out_dtype: torch.dtype, *, masked: bool
) -> tuple[Tensor, Tensor]:
    """Return out `[T, H, Dv]` and lse `[T, H]` of rows, one after the other.

    A sequence of the launch is a row with one of its segments: first all rows with their first
    segment, then with their second. A row that has fewer gets one without keys.
    """
    from rope_core.kernels.attention import attend
    from rope_core.kernels.merge import merge

    plan, memory, q = rows.plans[0], page_memory(rows.plans[0].pool), joined(rows.queries)
    num_parts = max(1, *(len(row.segments) for row in rows.rows)) if rows.rows else 1
    num_tokens, num_heads = q.shape[:2]
    device, value_dim = q.device, plan.group.value_dim
    is_merged = num_parts > 1
    num_extra = int(is_merged and sinks is not None)  # a part that has the sinks, and values of 0
    shape = num_parts + num_extra, num_tokens, num_heads
    dtype = torch.float32 if is_merged else out_dtype
    out = torch.empty(*shape, value_dim, dtype=dtype, device=device)
    lse = torch.empty(shape, dtype=torch.float32, device=device)
    sinks_on_device = None if sinks is None else sinks_of(sinks, device)
    if num_extra and sinks_on_device is not None:
        out[0] = 0
        lse[0] = sinks_on_device
    queries, table = rotated_parts(rows, q, num_parts), SegmentTable(rows, num_parts)
    on_device = table.numbers.to(device, non_blocking=True)
    config = plan.group.attention
    attend(
        *(queries, memory.keys, memory.values),
        *(out[num_extra:].flatten(0, 1), lse[num_extra:].flatten(0, 1)),
        piece_config(config) if masked else config,
        lengths=(table.num_queries, table.num_keys),
        sinks=None if num_extra else sinks_on_device,
        mask=mask_of(rows, table, device) if masked else None,
        block_table=on_device[:, SegmentTable.FIELDS :],
        segments=(on_device, table.first_queries, table.first_keys),
    )
    if not is_merged:
        return out[0], lse[0]
    answer = torch.empty(num_tokens * num_heads, value_dim, dtype=out_dtype, device=device)
    answer_lse = torch.empty(num_tokens * num_heads, dtype=torch.float32, device=device)
    merge(out.flatten(1, 2), lse.flatten(1), answer, answer_lse)
    return answer.view(num_tokens, num_heads, -1), answer_lse.view(num_tokens, num_heads)


def rotated_parts(rows: Rows, q: Tensor, num_parts: int) -> Tensor:
    """Return the queries of each part `[num_parts * T, H, D]`, rotated at position minus shift."""
    rope = rows.plans[0].group.rope
    parts = q if num_parts == 1 else q.repeat(num_parts, 1, 1)
    if rope is None:
        return parts
    moved: list[IntArray | None] = []
    for part in range(num_parts):
        for row, positions in zip(rows.rows, rows.positions, strict=True):
            assert positions is not None, "the group has a rope"
            shift = row.segments[part].shift if part < len(row.segments) else (0,)
            moved.append(moved_back(positions, shift))
    positions_on_device = joined_positions(moved, q.device)
    return rotated(parts, token_angles(parts, positions_on_device, None, rope, None, name), rope)


class SegmentTable:
    """The sequences of a launch: numbers of segments and of their pages."""

    FIELDS = 3
    """As `rope_core.kernels.attention_inputs.SEGMENT_FIELDS`."""

    def __init__(self, rows: Rows, num_parts: int) -> None:
        self.segments: list[KeySegment | None] = []
        self.num_queries: list[int] = []
        self.num_keys: list[int] = []
        self.first_queries: list[int] = []
        self.first_keys: list[int] = []
        layers: list[int] = []
        for part in range(num_parts):
            for plan, row in zip(rows.plans, rows.rows, strict=True):
                segment = row.segments[part] if part < len(row.segments) else None
                self.segments.append(segment)
                self.num_queries.append(row.num_queries)
                self.num_keys.append(0 if segment is None else segment.num_keys)
                self.first_queries.append(int(row.q_index[0]))
                self.first_keys.append(0 if segment is None else segment.first_index)
                layers.append(plan.layer_in_group)
        width = max((len(s.page_groups) for s in self.segments if s is not None), default=0)
        numbers = np.zeros((len(self.segments), self.FIELDS + max(1, width)), np.int32)
        numbers[:, 1], numbers[:, 2] = self.first_keys, self.first_queries
        for line, segment, layer in zip(numbers, self.segments, layers, strict=True):
            if segment is not None:
                line[0] = segment.first_slot
                pages = segment.page_groups
                np.add(pages, layer, out=line[self.FIELDS : self.FIELDS + len(pages)])
        self.numbers = torch.from_numpy(numbers)
        """int32 `[N, FIELDS + blocks]`: the segment of each sequence, then its pages."""


def mask_of(rows: Rows, table: SegmentTable, device: torch.device) -> Tensor:
    """Return which keys each query sees, bool `[N, 1, queries, keys]`."""
    shape = len(table.segments), 1, max(table.num_queries), max(1, *table.num_keys)
    mask = torch.zeros(shape, dtype=torch.bool)
    for number, segment in enumerate(table.segments):
        plan, row = rows.plans[number % len(rows.rows)], rows.rows[number % len(rows.rows)]
        if segment is None or not segment.num_keys:
            continue
        tail_mask = None if row.tail_mask is None else row.tail_mask.cpu()
        piece = Piece(segment, 0, segment.num_keys, False)
        index = torch.from_numpy(np.array(row.q_index))
        visible = visible_keys(piece, index, tail_mask, row.num_keys, plan.group.attention)
        mask[number, 0, : row.num_queries, : segment.num_keys] = visible
    return mask.to(device, non_blocking=True)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def joined_positions(parts: Sequence[IntArray | None], device: torch.device) -> Tensor:
    """Return positions `[T]` or `[A, T]` one after the other, on the device."""
    arrays = [part for part in parts if part is not None]
    whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays, -1)
    return as_tensor(whole).to(device, non_blocking=True)
