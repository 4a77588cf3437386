"""Plans made by hand: rows of segments in pages that lie in any order, in memory full of NaN."""

import random
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch

from rope_core.config import AttentionConfig
from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.plan import KeySegment, LayerPlan, RowPlan
from rope_core.kvcache.pool import PageShape
from rope_core.kvcache.run import LayerInput, run_layers


class Pages:
    """A pool of pages in one tensor."""

    def __init__(self, shape, num_groups=64, seed=0):
        self.shape = shape
        num_pages, heads, tokens = (
            num_groups * shape.num_layers,
            shape.num_kv_heads,
            shape.page_tokens,
        )
        k_size, v_size = (heads * tokens * d for d in (shape.head_dim, shape.value_dim))
        memory = torch.full((num_pages, k_size + v_size), torch.nan, dtype=shape.dtype)
        self.keys = memory[:, :k_size].unflatten(1, (heads, tokens, -1))
        self.values = memory[:, k_size:].unflatten(1, (heads, tokens, -1))
        self.pages = memory.view(torch.uint8)
        self.free = [i * shape.num_layers for i in range(num_groups)]
        random.Random(seed).shuffle(self.free)


@dataclass
class Segment:
    base: torch.Tensor  # positions [n] or [A, n]
    first_index: int
    first_place: int
    shift: tuple[int, ...]
    first_slot: int = 0
    num_keys: int = 0
    page_groups: list = field(default_factory=list)


class Row:
    """A row of tokens; appends write them by `run_layers`."""

    def __init__(self, pages, group, dtype):
        self.pages, self.group, self.dtype = pages, group, dtype
        self.segments, self.length = [], 0

    def open_segment(self, first_index=None, shift=(0,), first_slot=0):
        index = self.next_index if first_index is None else first_index
        segment = Segment(None, index, self.length, shift, first_slot)
        self.segments.append(segment)
        return segment

    @property
    def next_index(self):
        return self.segments[-1].first_index + self.segments[-1].num_keys if self.segments else 0

    def take_slots(self, count):
        """Return (page group, slot) of so many new tokens of the last segment."""
        segment, size = self.segments[-1], self.pages.shape.page_tokens
        slots = []
        for _ in range(count):
            page, slot = divmod(segment.first_slot + segment.num_keys, size)
            while len(segment.page_groups) <= page:
                segment.page_groups.append(self.pages.free.pop())
            slots.append((segment.page_groups[page], slot))
            segment.num_keys += 1
        self.length += count
        return slots

    def plan(self, *, slots=(), base=None, num_queries=0, q_positions=None, q_index=(), mask=None):
        """Return the plan of the row, its slots, its base positions and its query positions."""
        size = self.pages.shape.page_tokens
        segments = [
            KeySegment(np.array(s.page_groups, np.int32), s.first_slot, s.num_keys, s.first_place,
                       s.first_index, s.shift)
            for s in self.segments
        ]  # fmt: skip
        index = q_index if isinstance(q_index, range) else np.asarray(q_index)
        row = RowPlan(len(slots), num_queries, segments, index, self.length, mask)
        return row, [g * size + s for g, s in slots], base, q_positions


def group_of(
    rope, *, heads=4, kv_heads=2, head_dim=16, value_dim=None, layers=1, sinks=None, **attention
):
    return KVGroup(
        layers=tuple(range(layers)), num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim,
        value_dim=value_dim or head_dim, rope=rope, attention=AttentionConfig(**attention),
        sinks=sinks,
    )  # fmt: skip


def pages_of(group, dtype, page_tokens=4, num_groups=64, seed=0):
    shape = PageShape(len(group.layers), group.num_kv_heads, group.head_dim, group.value_dim,
                      page_tokens, dtype)  # fmt: skip
    return Pages(shape, num_groups, seed)


def layer_plan(group, pages, rows, layer=0, dtype=torch.float32):
    """Return the plan of a layer of what `Row.plan` returns."""
    plans, slots, base, positions = zip(*rows, strict=True)
    return LayerPlan(
        group, layer, pages, layer, plans, np.array([*chain(*slots)], np.int64), joined(base),
        joined(positions), [], [], dtype,
    )  # fmt: skip


def joined(parts):
    parts = [part for part in parts if part is not None]
    return torch.cat(parts, -1).numpy() if parts else None


def append(row, k, v, base, layer=0, backend=None):
    """Append k `[n, Hkv, D]` and v to the last segment, at the positions `base`."""
    plan = row.plan(slots=row.take_slots(len(k)), base=base)
    plan = layer_plan(row.group, row.pages, [plan], layer, row.dtype)
    run_layers([LayerInput(plan, None, k, v)], backend)


def attend_plan(row, n, q_positions, q_index=None, mask=None):
    index = range(row.next_index - n, row.next_index) if q_index is None else q_index
    return row.plan(num_queries=n, q_positions=q_positions, q_index=index, mask=mask)
