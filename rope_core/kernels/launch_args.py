"""Arguments that the attention kernels share, computed once per call."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core.config import AttentionConfig
from rope_core.kernels.block_sizes import block_of, rows_contiguous
from rope_core.kernels.masking import KeyLimits

ALIGNED_ELEMENTS = 8
"""Rows that start at multiples of this many elements are read at least 16 bytes at a time."""


class AttentionArgs(NamedTuple):
    """Arguments that the kernels share, in the order in which they take them."""

    tensors: tuple[Tensor | None, ...]
    """Those of `attention_inputs.AttentionInputs`."""

    numbers: tuple[float, ...]
    """Those of `AttentionInputs`."""

    output: tuple[Tensor, Tensor, Tensor]
    """out, lse, sinks."""

    output_numbers: tuple[int, ...]
    """Whether there are sinks, and strides of out in units of STRIDE_UNIT."""

    constants: dict[str, Any]
    """Those of `AttentionInputs`."""

    cu_seqlens_q: Tensor
    """Where the queries of each sequence start, int32 `[N + 1]`."""

    has_mask: bool
    """Whether there is a mask, boolean or additive."""

    num_kv_heads: int
    group_size: int


def attention_args(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    config: AttentionConfig,
    limits: KeyLimits,
    *,
    cu_seqlens: tuple[Tensor, Tensor],
    sinks: Tensor | None,
    mask: Tensor | None,
    index: tuple[Tensor, Tensor] | None,
    block_table: Tensor | None,
    segments: Tensor | None,
) -> AttentionArgs:
    """Return the kernel arguments of a call.

    Args are those of `attention.attend`, and the limits of the config.
    """
    q, k, v = rows_contiguous(q), rows_contiguous(k), rows_contiguous(v)
    if block_table is None:
        strides = [*_strides(q, 0, 1), 0, *_strides(k, 0, 1), 0, *_strides(v, 0, 1)]
    else:
        strides = [*_strides(q, 0, 1), *_strides(k, 0, 2, 1), *_strides(v, 0, 2, 1)]
    out_strides = _strides(out, 0, 1)
    # packed heads whose width is a multiple of ALIGNED_ELEMENTS always have wide accesses
    is_aligned = not any(stride % ALIGNED_ELEMENTS for stride in strides + out_strides)
    stride_unit = ALIGNED_ELEMENTS if is_aligned else 1
    mask_numbers = [0, 0, 0, 0]
    if mask is not None:
        mask = _kernel_mask(mask)
        mask_numbers = [*_strides(mask, 0, 1, 2), int(len(mask) != len(cu_seqlens[0]) - 1)]
    num_heads, head_dim = q.shape[1:]
    num_kv_heads = k.shape[1]
    group_size = num_heads // num_kv_heads
    scale = head_dim**-0.5 if config.scale is None else config.scale
    # without sinks the kernels take lse in their place and do not read it: a None would be a
    # kernel of its own
    sinks_or_lse = lse if sinks is None else sinks.float()
    return AttentionArgs(
        tensors=(q, k, v, *cu_seqlens, block_table, mask, *(index or (None, None)), segments),
        numbers=(
            *(num_kv_heads, group_size),
            *(stride // stride_unit for stride in strides),
            0 if block_table is None else block_table.stride(0),
            *mask_numbers,
            *(scale, config.softcap or 0.0, *limits),
        ),
        output=(out, lse, sinks_or_lse),
        output_numbers=(int(sinks is not None), *(s // stride_unit for s in out_strides)),
        constants={
            "STRIDE_UNIT": stride_unit,
            "HEAD_DIM": head_dim,
            "VALUE_DIM": v.shape[-1],
            "PAGE_SIZE": 1 if block_table is None else k.shape[2],
            "SOFTCAP": config.softcap is not None,
            "BLOCK_D": block_of(head_dim),
            "BLOCK_DV": block_of(v.shape[-1]),
        },
        cu_seqlens_q=cu_seqlens[0],
        has_mask=mask is not None,
        num_kv_heads=num_kv_heads,
        group_size=group_size,
    )


def _kernel_mask(mask: Tensor) -> Tensor:
    """Return a mask as kernels read it: uint8 for booleans, float32 for an additive mask."""
    mask = rows_contiguous(mask)
    return mask.view(torch.uint8) if mask.dtype == torch.bool else mask.float()


def _strides(x: Tensor, *axes: int) -> list[int]:
    """Return the strides of axes; 0 for an axis of one element, whose stride has no meaning."""
    sizes, strides = x.shape, x.stride()
    return [0 if sizes[axis] == 1 else strides[axis] for axis in axes]
