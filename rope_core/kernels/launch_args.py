"""Arguments that the attention kernels share, computed once per call."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core.kernels.block_sizes import next_power_of_2
from rope_core.kernels.masking import FAR

ALIGNED = 8
"""Rows that start at multiples of so many elements are read 16 bytes or more at a time."""

SHARED_NUMBERS = (
    *("num_kv_heads", "group", "stride_q_token", "stride_q_head"),
    *("stride_k_page", "stride_k_slot", "stride_k_head"),
    *("stride_v_page", "stride_v_slot", "stride_v_head", "stride_table"),
    *("stride_mask_seq", "stride_mask_head", "stride_mask_q", "packed_mask"),
    *("scale", "softcap", "behind", "ahead", "chunk"),
)
"""Names of `AttentionArgs.numbers` in prefill and decode."""

SHARED_UNALIGNED = (
    *("cu_seqlens_q_ptr", "cu_seqlens_k_ptr", "table_ptr", "mask_ptr"),
    *("q_index_ptr", "k_index_ptr"),
)
"""Names of those of `AttentionArgs.tensors` that may be unaligned."""


class AttentionArgs(NamedTuple):
    """Arguments that kernels share, in the order in which they take them."""

    tensors: tuple[Tensor | None, ...]
    """q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, mask, q_index, k_index."""

    numbers: tuple[float, ...]
    """Numbers of heads, strides in units of `unit`, scale, softcap, and which keys are seen."""

    output: tuple[Tensor, Tensor, Tensor]
    """out, lse, sinks."""

    output_numbers: tuple[int, ...]
    """Whether there are sinks, and strides of out in units of `unit`."""

    unit: int
    num_kv_heads: int
    group: int
    head_dim: int
    value_dim: int
    page_size: int
    softcap: bool

    @property
    def cu_seqlens_q(self) -> Tensor:
        """Where the queries of each sequence start, int32 `[N + 1]`."""
        assert self.tensors[3] is not None
        return self.tensors[3]

    @property
    def mask(self) -> Tensor | None:
        """Mask as kernels read it, None without one."""
        return self.tensors[6]

    def constants(self) -> dict[str, Any]:
        """Return the constants of prefill and decode, except those of their tiles."""
        return {
            "UNIT": self.unit,
            "HEAD_DIM": self.head_dim,
            "VALUE_DIM": self.value_dim,
            "PAGE_SIZE": self.page_size,
            "SOFTCAP": self.softcap,
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
    """Return the kernel arguments of a call.

    Args are those of `attention.attend`; `behind`, `ahead` and `chunk` are FAR for no bound.
    """
    q, k, v = _rows_contiguous(q), _rows_contiguous(k), _rows_contiguous(v)
    if block_table is None:
        strides = [*_strides(q, 0, 1), 0, *_strides(k, 0, 1), 0, *_strides(v, 0, 1)]
    else:
        strides = [*_strides(q, 0, 1), *_strides(k, 0, 2, 1), *_strides(v, 0, 2, 1)]
    out_strides = _strides(out, 0, 1)
    # packed heads whose width is a multiple of ALIGNED always have the kernel with wide accesses
    unit = ALIGNED if not any(stride % ALIGNED for stride in strides + out_strides) else 1
    if unit != 1:
        strides = [stride // unit for stride in strides]
        out_strides = [stride // unit for stride in out_strides]
    mask_numbers = [0, 0, 0, 0]
    if mask is not None:
        mask = _kernel_mask(mask)
        mask_numbers = [*_strides(mask, 0, 1, 2), int(len(mask) != num_seqs)]
    num_heads, head_dim = q.shape[1:]
    num_kv_heads = k.shape[1]
    group = num_heads // num_kv_heads
    return AttentionArgs(
        tensors=(q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, mask, q_index, k_index),
        numbers=(
            *(num_kv_heads, group),
            *strides,
            0 if block_table is None else block_table.stride(0),
            *mask_numbers,
            *(scale, softcap or 0.0, behind, ahead, chunk),
        ),
        output=(
            out,
            lse,
            lse if sinks is None else sinks.float(),
        ),  # without sinks, lse is not read
        output_numbers=(int(sinks is not None), *out_strides),
        unit=unit,
        num_kv_heads=num_kv_heads,
        group=group,
        head_dim=head_dim,
        value_dim=v.shape[-1],
        page_size=1 if block_table is None else k.shape[2],
        softcap=softcap is not None,
    )


def bound(window: int | None) -> int:
    """Return a window or a chunk length as kernels take it: FAR for None."""
    return FAR if window is None else min(window, FAR - 1)


def block_of(width: int) -> int:
    """Return the least power of two that holds `width` and that `tl.dot` takes."""
    return max(16, next_power_of_2(width))


def _kernel_mask(mask: Tensor) -> Tensor:
    """Return a mask as kernels read it: uint8 for booleans, float32 for an additive mask."""
    mask = mask if mask.stride(-1) == 1 else mask.contiguous()
    return mask.view(torch.uint8) if mask.dtype == torch.bool else mask.float()


def _rows_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _strides(x: Tensor, *axes: int) -> list[int]:
    """Return strides; 0 for an axis of one place, whose stride means nothing."""
    sizes, strides = x.shape, x.stride()
    return [0 if sizes[axis] == 1 else strides[axis] for axis in axes]
