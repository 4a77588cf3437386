"""Calls of our kernels. Each function here binds the arguments and returns the call.

A call launches the kernel and returns the tensors that the kernel has written.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from benchmarks.gpu_cases.case import Function
from rope_core import AttentionConfig
from rope_core.kernels import attention, merge, rotary

Tensors = Sequence[Tensor]

CAUSAL = AttentionConfig()


def rotate(
    xs: Tensors, outs: Tensors, table: Tensors, rows: Tensor, layout: str, **options: object
) -> Function:
    """Rotate `[T, H, D]` with tables of cosines and sines `[rows, half]`; `rows` is `[T]`."""
    options = {"rotary_dim": 2 * table[0].shape[-1], "layout": layout, **options}

    def run() -> Tensors:
        rotary.rotate(xs, outs, table=tuple(table), index=rows, **options)
        return outs

    return run


def rotate_at(
    xs: Tensors, outs: Tensors, positions: Tensor, inv_freq: Tensor, layout: str, **options: object
) -> Function:
    """Rotate `[T, H, D]`; the kernel computes the angles of `positions` `[T]`."""
    options = {"rotary_dim": 2 * len(inv_freq), "layout": layout, **options}

    def run() -> Tensors:
        rotary.rotate(xs, outs, inv_freq=inv_freq, index=positions, **options)
        return outs

    return run


def shift_pages(k: Tensor, slots: Tensor, delta: Tensor, inv_freq: Tensor) -> Function:
    """Rotate keys in pages `[pages, Hkv, page_size, D]` by `delta` positions, in place."""
    pages = [k.transpose(1, 2)]
    options = {"rotary_dim": 2 * len(inv_freq), "layout": "half", "inv_freq": inv_freq}

    def run() -> Tensors:
        rotary.rotate(pages, pages, index=delta, slots=slots, **options)
        return [k]

    return run


def merge_parts(parts: Tensor, lse: Tensor, out: Tensor, out_lse: Tensor) -> Function:
    """Merge N partial results `[N, R, D]` by their log-sum-exp `[N, R]`."""

    def run() -> Tensors:
        merge.merge(parts, lse, out, out_lse)
        return out, out_lse

    return run


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths_q: Sequence[int],
    lengths_k: Sequence[int],
    block_table: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    config: AttentionConfig = CAUSAL,
    **options: object,
) -> Function:
    """Attend within packed sequences, causal by default; keys may be in pages."""
    shape = *q.shape[:2], v.shape[-1]
    out = torch.full(shape, torch.nan, dtype=out_dtype or q.dtype, device=q.device)
    lse = torch.full(q.shape[:2], torch.nan, device=q.device)
    options = {
        "lengths": (lengths_q, lengths_k),
        "cu_seqlens": (cu_seqlens(lengths_q, q.device), cu_seqlens(lengths_k, q.device)),
        "block_table": block_table,
        **options,
    }

    def run() -> Tensors:
        attention.attend(q, k, v, out, lse, config, **options)
        return out, lse

    return run


def cu_seqlens(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return the offsets of packed sequences, int32 `[sequences + 1]`."""
    return torch.tensor([*accumulate(lengths, initial=0)], dtype=torch.int32, device=device)
