"""Pages of one shape within an arena."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PageShape:
    """What decides the bytes of a page group: one page of each layer of a group.

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


class PagePool:
    """Page groups of one shape, with reference counts.

    A page group has a number: that of its first page. Memory comes from the arena slab by slab.
    """

    shape: PageShape

    def allocate(self) -> int:
        """Return a page group with one reference. Its contents are zeros or an old page's.

        Raises:
            ArenaFull: no slab is free.
        """
        raise NotImplementedError

    def retain(self, page_groups: Sequence[int]) -> None:
        """Add a reference to each page group."""
        raise NotImplementedError

    def release(self, page_groups: Sequence[int]) -> None:
        """Remove a reference from each page group, and free those without one."""
        raise NotImplementedError

    def num_references(self, page_group: int) -> int:
        """Return the references of a page group."""
        raise NotImplementedError

    @property
    def keys(self) -> Tensor:
        """All pages of the arena as keys, `[pages, Hkv, P, D]`, a view; pages of other pools and
        slabs have no meaning."""
        raise NotImplementedError

    @property
    def values(self) -> Tensor:
        """As `keys`: `[pages, Hkv, P, Dv]`."""
        raise NotImplementedError
