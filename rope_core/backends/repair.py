"""Attend again where another library's operator let a hidden NaN or Inf change an answer."""

from contextlib import nullcontext
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from rope_core.backends import fused
from rope_core.backends.work import AttentionWork

MAX_NORM = 2.0**48
"""If the norm of all elements is below this, they and all scores are finite."""


def repair(work: AttentionWork, out: Tensor, lse: Tensor, tensors: tuple[Tensor, ...]) -> None:
    """Attend again by `fused` into `out` and `lse` where `tensors` have NaN, Inf or huge numbers.

    Operators that multiply a hidden value by a weight of 0 let NaN through: 0 * NaN is NaN. The
    device decides without a synchronization: where all is finite, the lengths of all sequences
    become 0, and the kernels return at once. One launch reads the tensors.

    Args:
        work: packed sequences.
        out: `[Tq, H, Dv]`, contiguous.
        lse: float32 `[Tq, H]`, contiguous.
        tensors: those of q, k and v that are checked.

    Raises what `fused.attend` raises.
    """
    assert work.cu_seqlens is not None, "packed"
    norms = torch._foreach_norm([t for t in tensors if t.numel()], 2, dtype=torch.float32)
    if not norms:
        return
    all_finite = reduce(torch.add, norms) < MAX_NORM  # false for NaN
    cu_seqlens_q, cu_seqlens_k = (
        t.to(out.device, torch.int32, non_blocking=True).masked_fill(all_finite, 0)
        for t in work.cu_seqlens
    )
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        fused.attend(replace(work, cu_seqlens=(cu_seqlens_q, cu_seqlens_k)), out, lse)
