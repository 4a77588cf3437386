"""Attention of a row to its pages, by the operators of torch: any number of queries, any mask."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rope_core.backends import AttentionWork, MergeWork, eager, run
from rope_core.kvcache.compute.page_memory import PageMemory
from rope_core.kvcache.compute.pieces import PART_PLACES, Piece, piece_config, pieces, visible_keys
from rope_core.kvcache.compute.quantisation import dequantise
from rope_core.kvcache.compute.rotation import Queries
from rope_core.kvcache.plan import LayerPlan, RowPlan

QUERY_BLOCK = 256
"""Queries that attend together: their scores and parts stay small."""

MAX_WIDE_ROWS = 64
"""Most queries times heads of a group whose keys of half precision are attended to in float32."""

HALF_PART_PLACES = 8192
"""Places of a part where keys are attended to in half precision: each part is rounded."""

MERGE_ELEMENTS = 2**22
"""Elements of parts that are kept before they are merged: 16 MiB."""


def attend_row(
    plan: LayerPlan,
    memory: PageMemory,
    row: RowPlan,
    queries: Queries,
    rows: slice,
    out: Tensor,
    lse: Tensor,
    sinks: Tensor | None,
    backend: str | None,
) -> str:
    """Attend from the queries of a row, and return the name of the backend.

    Args:
        plan: the layer.
        memory: of its pages.
        row: its segments, and what the queries see.
        queries: of the plan.
        rows: those of the row.
        out: `[n, H, Dv]`, written.
        lse: float32 `[n, H]`, written.
        sinks: float32 `[H]` on the device, or None.
        backend: the name of the backend; None for the first that can.
    """
    config = plan.group.attention
    rotated = {segment.shift: queries.rotated(rows, segment.shift) for segment in row.segments}
    shape, device, name = plan.pool.shape, out.device, ""
    is_wide = row.num_queries * plan.group.num_heads <= MAX_WIDE_ROWS * shape.num_kv_heads
    dtype = torch.float32 if is_wide else plan.dtype
    part_places = PART_PLACES if dtype is torch.float32 else HALF_PART_PLACES
    num_keys = min(part_places, max((segment.num_keys for segment in row.segments), default=0))
    buffers = (
        torch.empty(shape.num_kv_heads, num_keys, shape.head_dim, dtype=dtype, device=device),
        torch.empty(shape.num_kv_heads, num_keys, shape.value_dim, dtype=dtype, device=device),
    )
    index = torch.from_numpy(np.array(row.q_index)).to(device)
    for start in range(0, row.num_queries, QUERY_BLOCK):
        block = slice(start, min(start + QUERY_BLOCK, row.num_queries))
        low, high = map(int, index[block].aminmax())
        mask = None if row.tail_mask is None else row.tail_mask[block].to(device)
        parts = PartSum(out[block])
        for piece in pieces(row, low, high, config, part_places):
            visible = None
            if not piece.all_visible:
                visible = visible_keys(piece, index[block], mask, row.num_keys, config)
            k, v = gather(memory, piece, plan.layer_in_group, buffers)
            work = AttentionWork(
                rotated[piece.segment.shift][None, block].to(dtype),
                k,
                v,
                piece_config(config),
                None,
                mask=None if visible is None else visible[None, None],
            )
            answer, name = run(work, backend)
            parts.add(answer[0][0], answer[1][0])
        block_out, block_lse = parts.total()
        if sinks is not None:
            total = torch.logaddexp(block_lse, sinks)
            weight = (block_lse - total.masked_fill(total == -torch.inf, 0)).exp_()
            block_out, block_lse = block_out * weight[..., None], total
        out[block], lse[block] = block_out, block_lse
    return name


def gather(
    memory: PageMemory, piece: Piece, layer: int, buffers: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Copy the keys of a piece into the buffers: views `[1, keys, Hkv, D]`."""
    segment, page_tokens = piece.segment, memory.page_tokens
    both = (memory.keys, memory.values)
    for which, (pages, buffer) in enumerate(zip(both, buffers, strict=True)):
        key = piece.start
        while key < piece.stop:
            page, slot = divmod(segment.first_slot + key, page_tokens)
            end = min(piece.stop, key + page_tokens - slot)
            target = buffer[:, key - piece.start : end - piece.start]
            number, slots = segment.page_groups[page] + layer, slice(slot, slot + end - key)
            if memory.scales is None:
                target.copy_(pages[number, :, slots])
            else:
                scales = memory.scales[number, which, :, slots]
                target.copy_(dequantise(pages[number, :, slots], scales))
            key = end
    k, v = (buffer[:, : piece.stop - piece.start].transpose(0, 1)[None] for buffer in buffers)
    return k, v


class PartSum:
    """Answers over parts of the keys, merged by their log-sum-exp, in float32."""

    def __init__(self, out: Tensor) -> None:
        """Start without parts. `out` `[n, H, Dv]` gives the shape."""
        self._shape, self._device = out.shape, out.device
        self._max_parts = max(2, MERGE_ELEMENTS // max(1, out.numel()))
        self._parts: list[tuple[Tensor, Tensor]] = []

    def add(self, out: Tensor, lse: Tensor) -> None:
        """Add a part: out `[n, H, Dv]` and lse `[n, H]`."""
        self._parts.append((out, lse))
        if len(self._parts) == self._max_parts:
            self._parts = [self.total()]

    def total(self) -> tuple[Tensor, Tensor]:
        """Return out `[n, H, Dv]` and lse `[n, H]` of all parts."""
        if not self._parts:
            zeros = torch.zeros(self._shape, device=self._device)
            return zeros, torch.full(self._shape[:-1], -torch.inf, device=self._device)
        if len(self._parts) == 1:
            return self._parts[0]
        outs, lses = zip(*self._parts, strict=True)
        work = MergeWork(torch.stack([out.float() for out in outs]), torch.stack(lses))
        out, lse = eager.run(work)
        return out, lse


@lru_cache(maxsize=4096)
def sinks_tensor(sinks: tuple[float, ...], device: torch.device) -> Tensor:
    """Return the sinks of a layer on a device, float32 `[H]`."""
    return torch.tensor(sinks, dtype=torch.float32, device=device)
