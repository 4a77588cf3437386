"""Plans: what a device does for an operation of a cache.

The cache makes plans from its state on the host, `rope_core.kvcache.run` runs them, and the cache
commits them. A plan holds page numbers and positions, no tensors of the request.

Pages are named by page group, which is the number of its first page: layer l of the group has page
`page group + l`. So all layers of a group share the numbers of a plan.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.pool import PagePool

IntArray = npt.NDArray[np.int64]


@dataclass(slots=True)
class KeySegment:
    """A run of keys of a row whose index goes on by one, for one layer.

    Key j of the segment, 0 <= j < num_keys, is in slot `(first_slot + j) % page_tokens` of page
    `page_groups[(first_slot + j) // page_tokens] + layer_in_group`. It was rotated at its base
    position; the queries are rotated at their position minus `shift`, which gives the same scores
    as moved keys would.
    """

    page_groups: npt.NDArray[np.int32]
    """Numbers of the page groups: a view, read-only."""

    first_slot: int
    """Below page_tokens."""

    num_keys: int
    first_place: int
    """Place of key 0 in the row: parts of the keys end at multiples of 512 places."""

    first_index: int
    """Index of key 0 now, for causal, window and chunk."""

    shift: tuple[int, ...]
    """Position now minus base position, a number for each axis of a position."""


@dataclass(slots=True)
class RowPlan:
    """One row of an append, an attend or a step, for one layer."""

    num_new: int
    """New tokens of the row; slots and base_positions of the plan have those of all rows, one after
    the other."""

    num_queries: int
    """Queries of the row; q_positions of the plan has those of all rows."""

    segments: Sequence[KeySegment]
    """The keys that the queries may see, the new ones included, in the order of the row. Keys that
    no query of the row sees because of the window or the chunk may be left out. Empty if the row
    has no queries."""

    q_index: range | IntArray
    """Index of each query."""

    num_keys: int
    """Length of the row in this layer, the new tokens included and those that are left out."""

    tail_mask: Tensor | None = None
    """bool `[num_queries, m]`: which of the last m keys each query sees. Causal, window
    and chunk hide keys as well."""


@dataclass(slots=True)
class PageCopy:
    """A page group to copy before anything is written: copy on write, or to another arena."""

    pool: PagePool
    source: int
    target: int
    target_pool: PagePool | None = None
    """None: the same."""


@dataclass(slots=True)
class LayerPlan:
    """An append, an attend or a step of one layer: packed tokens of the rows."""

    group: KVGroup
    layer: int
    """Index of the layer in the model."""

    pool: PagePool
    layer_in_group: int
    rows: Sequence[RowPlan]
    slots: IntArray
    """`[T]`: page group * page_tokens + slot, of each new token of all rows. In the layer's own
    pages: + layer_in_group * page_tokens. Empty for an attend."""

    base_positions: IntArray | None
    """Positions at which the new keys are rotated, `[T]`, or `[A, T]` if the rope has several axes.
    None if the group has no rope."""

    q_positions: IntArray | None
    """Positions of the queries now, `[Tq]` or `[A, Tq]`. None if the group has no rope."""

    copies: list[PageCopy] = field(default_factory=list)
    clears: list[int] = field(default_factory=list)
    """Page groups of the pool that another owner had: to be set to 0 before anything is written."""

    dtype: torch.dtype = torch.float32
    """Of q, k, v and, by default, out."""


@dataclass(slots=True)
class Move:
    """Tokens that move within the pages of a page pool, for all layers of its group.

    k and v of all sources are read before any target is written. If `delta` is given, keys are
    rotated by it (float64 angles, no attention scaling); if `to` is given, keys are rotated back at
    `positions` by the rope of `group`, and again by the rope of `to`.
    """

    pool: PagePool
    group: KVGroup
    sources: IntArray
    """`[n]`: page group * page_tokens + slot."""
    targets: IntArray
    delta: IntArray | None = None
    """`[n]` or `[A, n]`: numbers to add to the base positions."""
    to: KVGroup | None = None
    positions: IntArray | None = None
    """Base positions, `[n]` or `[A, n]`: with `to`, and with `delta` where turns do not add up."""


@dataclass(slots=True)
class MovePlan:
    """Copies, and then moves, of a select_tail, a compaction or a rebase."""

    copies: list[PageCopy] = field(default_factory=list)
    clears: list[tuple[PagePool, int]] = field(default_factory=list)
    """As `LayerPlan.clears`."""
    moves: list[Move] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to run."""
        return not self.copies and not self.moves
