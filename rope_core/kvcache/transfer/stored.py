"""Keys and values of a row as they are stored, moved to their positions, or rotated back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.compute.moves import rotated_again, shift_rotation
from rope_core.kvcache.plan import IntArray
from rope_core.kvcache.segment import Segment
from rope_core.kvcache.writing import slots_of

Form = Literal["stored", "positioned", "raw"]
"""`stored`: the bytes of the pages. `positioned`: keys are rotated at the positions of their tokens
now. `raw`: keys are not rotated. Keys that differ from the stored ones have been rounded once."""


@dataclass(frozen=True, slots=True)
class StoredHeads:
    """The keys or the values of one row in one layer.

    Args of reads are heads [first, end) and places [start, stop), none of which is gone.
    """

    cache: KVCache
    layer: int
    row: int
    is_keys: bool
    form: Form

    def read(self, first: int, end: int, start: int, stop: int) -> Tensor:
        """Return heads and tokens as `[heads, tokens, width]`, contiguous, on the CPU."""
        parts = [
            self._read(segment, low, high, first, end)
            for segment, low, high in self.cache.rows[self.row].parts(start, stop)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).cpu()

    def _read(self, segment: Segment, low: int, high: int, first: int, end: int) -> Tensor:
        group, layer_in_group = self.cache.group_of[self.layer]
        pool, page_tokens = self.cache.holdings.pools[group], self.cache.arena.page_tokens
        pages = pool.keys if self.is_keys else pool.values
        device = pages.device
        slots = torch.from_numpy(slots_of(segment, group, low, high, page_tokens)).to(device)
        heads = torch.arange(first, end, device=device)[:, None]
        stored = pages[slots // page_tokens + layer_in_group, heads, slots % page_tokens]
        rotation = self._rotation(segment, low, high, device)
        if rotation is None:
            return stored.contiguous()
        return rotation(stored.transpose(0, 1).contiguous()).transpose(0, 1).contiguous()

    def _rotation(
        self, segment: Segment, low: int, high: int, device: torch.device
    ) -> Callable[[Tensor], Tensor] | None:
        """Return how keys `[n, heads, D]` of a segment become those of the form."""
        rope = self.cache.config.groups[self.cache.group_of[self.layer][0]].rope
        if rope is None or not self.is_keys or self.form == "stored":
            return None
        base = _positions(segment.base_positions(low, high), device)
        if self.form == "raw":
            return lambda k: rotated_again(k, rope, base, None, base)
        if not any(segment.shift):
            return None
        now = _positions(segment.positions(low, high), device)
        if rope.is_composable:
            return shift_rotation(rope, now - base)
        return lambda k: rotated_again(k, rope, base, rope, now)


def _positions(positions: IntArray, device: torch.device) -> Tensor:
    """Return positions `[A, n]` as a tensor, `[n]` of one axis."""
    tensor = torch.from_numpy(np.array(positions)).to(device)
    return tensor[0] if len(tensor) == 1 else tensor
