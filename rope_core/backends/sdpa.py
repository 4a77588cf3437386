"""PyTorch's own attention operators: on the CPU by `sdpa_cpu`, on CUDA by `sdpa_cuda`.

On the CPU a sequence whose numbers the operator does not handle is computed by eager.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from rope_core import compiled
from rope_core.backends import eager, sdpa_cpu, sdpa_cuda
from rope_core.backends.work import AttentionWork, Work

name = "sdpa"

BATCH_ROWS = 24
"""From this many rows on, a large batch may change how the operator multiplies half precision."""

MAX_SCORE = 1e38
"""Bound of scores: they stay finite in float32."""


def why_not(work: Work, *, named: bool = False) -> str | None:
    """Attention without soft-cap on the CPU; what `sdpa_cuda` says on CUDA."""
    if not isinstance(work, AttentionWork):
        return "it computes attention only"
    if work.q.is_cuda:
        return sdpa_cuda.why_not(work, named=named)
    if not work.q.is_cpu:
        return f"tensors are on {work.q.device.type}"
    if work.config.softcap is not None:
        return "softcap is not in the operator"
    if work.may_mask and work.scale <= 0:
        return "the operator multiplies its mask's -inf by the scale"
    return None


def run(work: Work) -> tuple[Tensor, ...]:
    """Do `work`."""
    assert isinstance(work, AttentionWork), "checked by why_not"
    if work.q.is_cuda:
        return sdpa_cuda.run(work)
    sinks, inputs = work.sinks, (work.q, work.k, work.v)
    q, k, v = map(sdpa_cpu.cache_aligned, inputs)
    if sinks is not None or any(x is not y for x, y in zip(inputs, (q, k, v), strict=True)):
        work = replace(work, q=q, k=k, v=v, sinks=None)
    is_safe = _is_safe(work)
    if work.lengths is None and is_safe and _is_batch_invariant(work):
        out, lse = sdpa_cpu.attend(work)
    else:
        out, lse = work.empty_outputs()
        for rows, part in _sequences(work):
            backend = sdpa_cpu.attend if is_safe or _is_safe(part) else eager.run
            out[rows], lse[rows] = backend(part)
    return (out, lse) if sinks is None else _add_sinks(sinks, out, lse)


def _sequences(work: AttentionWork) -> Iterator[tuple[slice, AttentionWork]]:
    """Yield the rows of each sequence in q, and its work: a batch of one row."""
    packed, index, slices = work.lengths is not None, work.index, work.seq_slices
    if slices is None:
        slices = [(slice(row, row + 1),) * 2 for row in range(len(work.q))]
    for i, j in slices:
        q, k, v = work.q[i], work.k[j], work.v[j]
        mask = None if work.mask is None else work.mask[(..., i, j) if packed else i]
        at = None if index is None else (index[0][i], index[1][j])
        if packed:
            q, k, v = q[None], k[None], v[None]
            at = None if at is None else (at[0][None], at[1][None])
        part = replace(work, q=q, k=k, v=v, mask=mask, index=at, lengths=None, cu_seqlens=None)
        yield i, part


def _is_batch_invariant(work: AttentionWork) -> bool:
    """Tell whether rows of a batch have the same bits together as each has alone."""
    num_rows, num_queries, num_heads = work.q.shape[:3]
    if num_rows == 1:
        return True
    if work.mask is not None or work.index is not None:
        return False
    is_half = work.q.dtype is not torch.float32
    rows_per_head = num_queries * num_heads // work.k.shape[2]
    return not is_half or (work.out_dtype is not torch.float32 and rows_per_head < BATCH_ROWS)


def _is_safe(work: AttentionWork) -> bool:
    """Tell whether all scores, and values that may be hidden, are finite.

    Otherwise the operator may turn NaN into 0, and hidden values into NaN.
    """
    q, k = work.q, work.k
    factor = q.shape[-1] * max(1.0, abs(work.scale))
    q_bound, k_bound = work.bounds or (math.inf, math.inf)
    is_bounded = q_bound * k_bound * factor < MAX_SCORE  # false for NaN
    if not is_bounded and not _max_abs(q) * _max_abs(k) * factor < MAX_SCORE:
        return False
    lengths = work.lengths or ([q.shape[1]], [k.shape[1]])
    if not any(work.is_masked(*pair) for pair in zip(*lengths, strict=True)):
        return True
    return math.isfinite(_max_abs(work.v))


def _max_abs(x: Tensor) -> float:
    """Return the largest absolute value, NaN where there is one."""
    if x.is_contiguous() and compiled.extension() is not None:
        return compiled.max_abs(x.data_ptr(), x.numel(), x.dtype)
    if not x.numel():
        return 0.0
    if not x.is_contiguous():  # aminmax copies it
        x = x.transpose(-2, -3)
    low, high = (bound.item() for bound in x.aminmax())
    return max(-low, high)


def _add_sinks(sinks: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Return out and lse with the sinks `[H]`: a score of each head that has the value 0."""
    total = torch.logaddexp(lse, sinks.float())
    weight = (lse - total.masked_fill(total == -torch.inf, 0)).exp_()
    return out.mul_(weight[..., None]), total
