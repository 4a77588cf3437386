"""What a call of attention passes to its kernels, found once for all of them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core.kernels.masking import FAR

ALIGNED = 8
"""Rows that start at multiples of so many elements are read 16 bytes at a time."""


class KernelLaunch(NamedTuple):
    """One kernel, compiled for `constants` and the types of `args`, and how it is launched."""

    kernel: Any
    grid: tuple[int]
    args: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True)
class AttentionArgs:
    """Arguments that kernels share, in the order in which they take them."""

    tensors: tuple[Tensor | None, ...]
    """q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, mask, q_index, k_index."""

    numbers: tuple[float | None, ...]
    """Heads, strides in units of `unit`, and which keys are seen."""

    output: tuple[Tensor | int, ...]
    """out, lse, sinks, whether these are sinks, and strides of out in units of `unit`."""

    unit: int
    num_kv_heads: int
    group: int
    head_dim: int
    value_dim: int
    page_size: int

    @property
    def mask(self) -> Tensor | None:
        """Mask of the call."""
        return self.tensors[6]

    def constants(self) -> dict[str, Any]:
        """Return constants of prefill and decode, all but those of their tiles."""
        return {
            "UNIT": self.unit,
            "HEAD_DIM": self.head_dim,
            "VALUE_DIM": self.value_dim,
            "PAGE_SIZE": self.page_size,
            "BLOCK_D": block_of(self.head_dim),
            "BLOCK_DV": block_of(self.value_dim),
        }


def attention_args(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    *,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    num_seqs: int,
    scale: float,
    softcap: float | None,
    behind: int,
    ahead: int,
    chunk: int,
    sinks: Tensor | None,
    mask: Tensor | None,
    q_index: Tensor | None,
    k_index: Tensor | None,
    block_table: Tensor | None,
) -> AttentionArgs:
    """Return the arguments of kernels for what `attention.attend` takes, bounds as numbers."""
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    rows = (*_strides(q, 0, 1), *_page_slot_head(k), *_page_slot_head(v))
    of_out = _strides(out, 0, 1)
    # packed heads whose width is a multiple of ALIGNED always have the kernel with wide accesses
    unit = ALIGNED if all(stride % ALIGNED == 0 for stride in (*rows, *of_out)) else 1
    of_mask: tuple[int, ...] = (0, 0, 0, 0)
    if mask is not None:
        mask = _kernel_mask(mask)
        of_mask = (*_strides(mask, 0, 1, 2), int(len(mask) != num_seqs))
    num_kv_heads = k.shape[1]
    group = q.shape[1] // num_kv_heads
    return AttentionArgs(
        tensors=(q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, mask, q_index, k_index),
        numbers=(
            *(num_kv_heads, group),
            *(stride // unit for stride in rows),
            0 if block_table is None else block_table.stride(0),
            *of_mask,
            *(scale, softcap, behind, ahead, chunk),
        ),
        output=(
            *(out, lse),
            lse if sinks is None else sinks.float(),  # lse is never read
            int(sinks is not None),
            *(stride // unit for stride in of_out),
        ),
        unit=unit,
        num_kv_heads=num_kv_heads,
        group=group,
        head_dim=q.shape[-1],
        value_dim=v.shape[-1],
        page_size=1 if block_table is None else k.shape[2],
    )


def bound(window: int | None) -> int:
    """Return a bound of what is seen as kernels take it."""
    return FAR if window is None else min(window, FAR - 1)


def block_of(width: int) -> int:
    """Return the power of two that holds `width`, and that the matrix units take."""
    return max(16, 1 << (width - 1).bit_length())


def _kernel_mask(mask: Tensor) -> Tensor:
    """Return a mask as kernels read it: uint8 for booleans, float32 for what is added."""
    mask = mask if mask.stride(-1) == 1 else mask.contiguous()
    return mask.view(torch.uint8) if mask.dtype == torch.bool else mask.float()


def _strides(x: Tensor, *axes: int) -> tuple[int, ...]:
    """Return strides; 0 for an axis of one place, whose stride means nothing."""
    return tuple(0 if x.shape[axis] == 1 else x.stride(axis) for axis in axes)


def _page_slot_head(x: Tensor) -> tuple[int, ...]:
    return (0, *_strides(x, 0, 1)) if x.ndim == 3 else _strides(x, 0, 2, 1)
