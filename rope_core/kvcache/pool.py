"""Pages of one shape within an arena."""

from bisect import insort
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from rope_core.kvcache.arena import Arena

ALIGNMENT = 16
"""Pages start at multiples of this many bytes."""

PageGroups = npt.NDArray[np.int32]

NOBODY = object()
"""The owner of memory that was never used."""

SEVERAL = object()
"""The owner of memory that has data of several owners."""


@dataclass(frozen=True, slots=True)
class PageShape:
    """Sizes and dtype of a page group: one page of each layer of a group.

    A page has K `[Hkv, P, D]` and then V `[Hkv, P, Dv]`, contiguous (and, of e4m3, the scales
    float32 `[2, Hkv, P]` behind them). The page of layer l is page number `base + l`.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    page_tokens: int
    dtype: torch.dtype
    """Of the stored elements."""

    page_bytes: int = field(init=False, compare=False)
    """Bytes of a page of one layer, with the bytes up to the next page."""

    group_bytes: int = field(init=False, compare=False)
    """Bytes of a page group."""

    def __post_init__(self) -> None:
        slots = self.num_kv_heads * self.page_tokens
        num_bytes = slots * (self.head_dim + self.value_dim) * self.dtype.itemsize
        num_bytes = -(-num_bytes // 4) * 4 + (2 * slots * 4 if self.has_scales else 0)
        page_bytes = -(-num_bytes // ALIGNMENT) * ALIGNMENT
        object.__setattr__(self, "page_bytes", page_bytes)
        object.__setattr__(self, "group_bytes", page_bytes * self.num_layers)

    @property
    def has_scales(self) -> bool:
        """Whether each key and value has a scale."""
        return self.dtype.itemsize == 1

    @property
    def scales_offset(self) -> int:
        """Bytes of a page before its scales."""
        slots = self.num_kv_heads * self.page_tokens
        return -(-slots * (self.head_dim + self.value_dim) * self.dtype.itemsize // 4) * 4


@dataclass(slots=True, eq=False)
class Slab:
    """Adjacent slabs of the arena with page groups of one shape."""

    start: int
    """The first slab."""

    free: list[int]
    """Page groups that were used before."""

    next_unused: int
    """First page group that was never used since the pool has the slab."""

    last: int
    """Last page group."""

    previous_owner: object
    """Owner of the data that the slab had before the pool took it, or NOBODY, SEVERAL."""

    owners: dict[int, object]
    """Owner of the data of each page group that was used."""

    num_used: int = 0

    def __lt__(self, other: "Slab") -> bool:
        return self.start < other.start

    @property
    def is_full(self) -> bool:
        """Whether no page group is free."""
        return not self.free and self.next_unused > self.last


class PagePool:
    """Page groups of one shape, with reference counts. `Arena.pool` makes pools.

    A page group has a number: that of its first page. Memory comes from the arena slab by slab. A
    page group is part of the reservation of one cache: the number of that cache is its payer.
    """

    def __init__(self, arena: "Arena", shape: PageShape) -> None:
        self.shape = shape
        self.arena = arena
        self.num_used = 0
        """Page groups that have a reference."""
        self.num_reserved = 0
        """Page groups that caches have reserved."""
        self.num_slabs = 0
        """Slabs of the arena that the pool has."""
        lost = 0 if arena.slab_bytes % shape.page_bytes == 0 else shape.page_bytes - 1
        self.slabs_per_unit = -(-(shape.group_bytes + lost) // arena.slab_bytes)
        """Adjacent slabs that the pool takes at a time."""
        self.groups_per_unit = (self.slabs_per_unit * arena.slab_bytes - lost) // shape.group_bytes
        num_pages = arena.num_bytes // shape.page_bytes
        self.references = np.zeros(num_pages, np.int32)
        """References of each page group, by its number."""
        self.reference_counts = memoryview(self.references.data)
        """The same memory: reading one number is faster."""
        self.payers = np.zeros(num_pages, np.int32)
        self._open: list[Slab] = []
        self._slabs: dict[int, Slab] = {}  # by first slab

    def allocate(self, payer: int = 0, owner: object = None) -> tuple[int, bool]:
        """Return a page group with one reference, and whether it must be set to 0 before use.

        Args:
            payer: number of the cache whose reservation the page group is part of.
            owner: of the data that the pages will have. The contents are zeros or old data of this
                owner, unless the second value is true. None: data of any owner may be there.

        Raises:
            ArenaFull: no slab is free.
        """
        if not self._open:
            self._take_slab()
        slab = self._open[0]
        if slab.free:
            group = slab.free.pop()
        else:
            group = slab.next_unused
            slab.next_unused += self.shape.num_layers
        slab.num_used += 1
        if slab.is_full:
            self._open.pop(0)
        self.num_used += 1
        self.references[group] = 1
        self.payers[group] = payer
        previous = slab.owners.get(group, slab.previous_owner)
        slab.owners[group] = owner
        return group, owner is not None and previous not in (NOBODY, owner)

    def retain(self, groups: PageGroups) -> None:
        """Add a reference to each page group; one that is named twice gets two."""
        np.add.at(self.references, groups, 1)

    def release(self, groups: PageGroups) -> int:
        """Remove a reference from each page group, and free those without one.

        Returns:
            How many were freed.
        """
        if len(groups) == 1:
            group = int(groups[0])
            left = self.references[group] - 1
            self.references[group] = left
            if left == 0:
                self._free(group)
            return int(left == 0)
        np.subtract.at(self.references, groups, 1)
        freed = np.unique(groups[self.references[groups] == 0])
        for group in freed.tolist():
            self._free(group)
        return len(freed)

    @property
    def keys(self) -> Tensor:
        """All pages of the arena as keys, `[pages, Hkv, P, D]`, a view.

        Pages in slabs of other pools have no meaning.
        """
        shape = self.shape
        sizes = (shape.num_kv_heads, shape.page_tokens, shape.head_dim)
        return self._view(shape.dtype, 0, sizes)

    @property
    def device(self) -> torch.device:
        """The device of the pages."""
        return self.arena.memory.device

    @property
    def values(self) -> Tensor:
        """As `keys`: `[pages, Hkv, P, Dv]`."""
        shape = self.shape
        sizes = (shape.num_kv_heads, shape.page_tokens, shape.value_dim)
        offset = shape.num_kv_heads * shape.page_tokens * shape.head_dim
        return self._view(shape.dtype, offset, sizes)

    @property
    def scales(self) -> Tensor:
        """As `keys`: float32 `[pages, 2, Hkv, P]`, of shapes that have scales."""
        shape = self.shape
        sizes = (2, shape.num_kv_heads, shape.page_tokens)
        return self._view(torch.float32, shape.scales_offset // 4, sizes)

    @property
    def pages(self) -> Tensor:
        """All pages of the arena as bytes, uint8 `[pages, page bytes]`, a view."""
        num_pages, page_bytes = len(self.references), self.shape.page_bytes
        return self.arena.memory[: num_pages * page_bytes].view(num_pages, page_bytes)

    def _view(self, dtype: torch.dtype, offset: int, sizes: tuple[int, ...]) -> Tensor:
        pages = self.pages.view(dtype)
        strides = [prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
        return pages.as_strided((len(pages), *sizes), (pages.shape[1], *strides), offset)

    def _take_slab(self) -> None:
        start, previous_owner = self.arena.take_slabs(self)
        self.num_slabs += self.slabs_per_unit
        self.arena.recount(self)
        page_bytes, layers = self.shape.page_bytes, self.shape.num_layers
        first = -(-start * self.arena.slab_bytes // page_bytes)
        end = (start + self.slabs_per_unit) * self.arena.slab_bytes // page_bytes
        last = first + ((end - first) // layers - 1) * layers
        slab = self._slabs[start] = Slab(start, [], first, last, previous_owner, {})
        self._open.append(slab)

    def _slab_of(self, group: int) -> Slab:
        slab = group * self.shape.page_bytes // self.arena.slab_bytes
        while slab not in self._slabs:  # a unit of several slabs
            slab -= 1
        return self._slabs[slab]

    def _free(self, group: int) -> None:
        slab = self._slab_of(group)
        self.num_used -= 1
        slab.num_used -= 1
        if slab.num_used == 0:
            if not slab.is_full:
                self._open.remove(slab)
            self._free_slab(slab)
            return
        if slab.is_full:
            insort(self._open, slab)
        slab.free.append(group)

    def _free_slab(self, slab: Slab) -> None:
        del self._slabs[slab.start]
        self.num_slabs -= self.slabs_per_unit
        owners = {slab.previous_owner, *slab.owners.values()} - {NOBODY}
        self.arena.free_slabs(self, slab.start, owners.pop() if len(owners) == 1 else SEVERAL)
        self.arena.recount(self)
