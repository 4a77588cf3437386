"""What a call of attention gives its kernels, in the order in which they take it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MIN_BLOCK = 16
"""Least width that the matrix units take."""


class Tiles(NamedTuple):
    """How a kernel is cut and run."""

    m: int  # rows: queries times the heads of a group
    n: int  # keys
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """Tensors and numbers of a call, checked; `attention.attend` says what they are."""

    q: Tensor
    k: Tensor
    v: Tensor
    out: Tensor
    lse: Tensor
    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    block_table: Tensor | None
    sinks: Tensor | None
    mask: Tensor | None
    q_index: Tensor | None
    k_index: Tensor | None
    scale: float
    softcap: float | None
    behind: int | None
    ahead: int | None
    chunk: int | None

    @property
    def num_seqs(self) -> int:
        """Sequences in all."""
        return len(self.cu_seqlens_q) - 1

    @property
    def num_queries(self) -> int:
        """Queries of all sequences."""
        return self.q.shape[0]

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.k.shape[1]

    @property
    def group(self) -> int:
        """Heads of q that share one of k."""
        return self.q.shape[1] // self.num_kv_heads

    @property
    def block_d(self) -> int:
        """Width of a tile of queries and keys."""
        return padded(self.q.shape[-1])

    @property
    def block_dv(self) -> int:
        """Width of a tile of values."""
        return padded(self.v.shape[-1])

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """What kernels read and write."""
        mask = self.mask
        return (
            *(self.q, self.k, self.v, self.out, self.lse, self.cu_seqlens_q, self.cu_seqlens_k),
            *(self.block_table, self.sinks),
            mask.view(torch.uint8) if mask is not None and mask.dtype == torch.bool else mask,
            *(self.q_index, self.k_index),
        )

    @property
    def numbers(self) -> tuple[float | None, ...]:
        """Strides, and how queries attend."""
        mask = (0, 0, 0, 0) if self.mask is None else self.mask.stride()
        own = self.mask is not None and self.mask.shape[0] == self.num_seqs
        return (
            *self.q.stride()[:2],
            *_page_slot_head(self.k),
            *_page_slot_head(self.v),
            *self.out.stride()[:2],
            0 if self.block_table is None else self.block_table.stride(0),
            mask[0] if own else 0,
            *mask[1:],
            int(not own),
            *(self.scale, self.softcap, self.behind, self.ahead, self.chunk),
        )

    @property
    def model(self) -> tuple[int, int, int, int]:
        """What the model fixes: group, widths of heads, and the size of pages."""
        page_size = 1 if self.block_table is None else self.k.shape[2]
        return self.group, self.q.shape[-1], self.v.shape[-1], page_size


def padded(width: int) -> int:
    """Return the power of two that holds `width`."""
    return max(MIN_BLOCK, 1 << (width - 1).bit_length())


def _page_slot_head(x: Tensor) -> tuple[int, int, int]:
    if x.ndim == 3:
        return 0, x.stride(0), x.stride(1)
    return x.stride(0), x.stride(2), x.stride(1)
