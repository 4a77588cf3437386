"""How our kernels are called: each returns a run, which returns the tensors that it has written."""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from benchmarks.gpu_cases.case import Run
from rope_core import AttentionConfig
from rope_core.kernels import attention, merge, rotary

Tensors = Sequence[Tensor]

CAUSAL = AttentionConfig()


def rotate(
    xs: Tensors, outs: Tensors, table: Tensors, rows: Tensor, layout: str, **options: object
) -> Run:
    """Rotate by rows of a table of cosines and sines `[rows, half]`."""
    options = {"rotary_dim": 2 * table[0].shape[-1], "layout": layout, **options}

    def run() -> Tensors:
        rotary.rotate(xs, outs, table=tuple(table), index=rows, **options)
        return outs

    return run


def rotate_at(
    xs: Tensors, outs: Tensors, positions: Tensor, inv_freq: Tensor, layout: str, **options: object
) -> Run:
    """Rotate by positions, whose angles the kernel finds."""
    options = {"rotary_dim": 2 * len(inv_freq), "layout": layout, **options}

    def run() -> Tensors:
        rotary.rotate(xs, outs, inv_freq=inv_freq, index=positions, **options)
        return outs

    return run


def shift_pages(k: Tensor, slots: Tensor, delta: Tensor, inv_freq: Tensor) -> Run:
    """Move keys in pages `[pages, Hkv, page_size, D]`, in place."""
    pages = [k.transpose(1, 2)]
    options = {"rotary_dim": 2 * len(inv_freq), "layout": "half", "inv_freq": inv_freq}

    def run() -> Tensors:
        rotary.rotate(pages, pages, index=delta, slots=slots, **options)
        return [k]

    return run


def merge_parts(parts: Tensor, lse: Tensor, out: Tensor, out_lse: Tensor) -> Run:
    """Merge `[N, R, D]`."""

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
) -> Run:
    """Attend within packed sequences, causally by default, whose keys may lie in pages."""
    shape = *q.shape[:2], v.shape[-1]
    out = torch.full(shape, torch.nan, dtype=out_dtype or q.dtype, device=q.device)
    lse = torch.full(q.shape[:2], torch.nan, device=q.device)
    options = {
        "lengths": (lengths_q, lengths_k),
        "cu_seqlens": (cumulative(lengths_q, q.device), cumulative(lengths_k, q.device)),
        "block_table": block_table,
        **options,
    }

    def run() -> Tensors:
        attention.attend(q, k, v, out, lse, config, **options)
        return out, lse

    return run


def cumulative(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Return where each sequence starts, and the end."""
    return torch.tensor([*accumulate(lengths, initial=0)], dtype=torch.int32, device=device)
