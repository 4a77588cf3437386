"""Plans: what a device does for an operation of a cache.

The cache makes plans from its state on the host, `rope_core.kvcache.run` runs them, and the cache
commits them. A plan holds page numbers and positions, no tensors of the request.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.pool import PagePool


@dataclass(slots=True)
class KeySegment:
    """A run of keys of a row whose index goes on by one, for one layer.

    Key j of the segment, 0 <= j < num_keys, is in slot `(first_slot + j) % page_tokens` of page
    `pages[(first_slot + j) // page_tokens]`. It was rotated at its base position; the queries are
    rotated at their position minus `shift`, which gives the same scores as moved keys would.
    """

    pages: Sequence[int]
    """Numbers of the layer's pages in the pool, without those behind the window: see `num_gone`."""

    first_slot: int
    num_keys: int
    first_place: int
    """Place of key 0 in the row: parts of the keys end at multiples of 512 places."""

    first_index: int
    """Index of key 0 now, for causal, window and chunk."""

    shift: tuple[int, ...]
    """Position now minus base position, a number for each axis of the rope."""


@dataclass(slots=True)
class RowPlan:
    """One row of an append, an attend or a step, for one layer."""

    num_new: int
    """New tokens of the row; k and v of the plan have those of all rows, one after the other."""

    num_queries: int
    """Queries of the row."""

    slots: Sequence[int] | Tensor
    """int64 `[num_new]`: page of the layer * page_tokens + slot, of each new token."""

    base_positions: Tensor | None
    """Positions at which the new keys are rotated, int64 `[num_new]` or `[A, num_new]`. None if the
    group has no rope."""

    segments: Sequence[KeySegment]
    """The keys that the queries may see, the new ones included, in the order of the row. Keys that
    no query of the row sees because of the window or the chunk may be left out."""

    q_positions: Tensor | None
    """Positions of the queries now, int64 `[num_queries]` or `[A, num_queries]`."""

    q_index: Sequence[int] | range | Tensor
    """Index of each query."""

    tail_mask: Tensor | None = None
    """bool `[num_queries, m]`: which of the last m keys each query sees, besides causal, window and
    chunk."""


@dataclass(slots=True)
class PageCopy:
    """A page group to copy before anything is written: copy on write."""

    pool: PagePool
    source: int
    target: int


@dataclass(slots=True)
class LayerPlan:
    """An append, an attend or a step of one layer: packed tokens of the rows."""

    group: KVGroup
    layer: int
    """Index of the layer in the model."""

    pool: PagePool
    layer_in_group: int
    rows: Sequence[RowPlan]
    copies: list[PageCopy] = field(default_factory=list)
    dtype: torch.dtype = torch.float32
    """Of q, k, v and, by default, out."""


@dataclass(slots=True)
class Move:
    """Tokens that move within the pages of a page pool, for all layers of its group.

    The keys are read before any is written. If `delta` is given, keys are rotated by it (float64
    angles, no attention scaling), or from the angles of `rope` to those of `to`.
    """

    pool: PagePool
    group: KVGroup
    sources: Sequence[int]
    """Page group * page_tokens + slot."""
    targets: Sequence[int]
    delta: Tensor | None = None
    """int64 `[n]` or `[A, n]`: positions to add to the base positions."""
    to: KVGroup | None = None
    """Rotate back at `positions`, and again with the rope of this group (rebase)."""
    positions: Tensor | None = None
    """Base positions, int64 `[n]` or `[A, n]`; needed with `to`, and where turns do not add up."""


@dataclass(slots=True)
class MovePlan:
    """Copies and moves of a select_tail, a compaction or a rebase."""

    copies: list[PageCopy] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
