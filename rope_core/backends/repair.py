"""What is hidden reaches no answer, also where another library's operator multiplies it by 0."""

from contextlib import nullcontext
from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from rope_core.backends import fused
from rope_core.backends.work import Attention

LARGEST_NORM = 2.0**48
"""Bound of the norm of all elements; below it all of them are finite, and so is every score."""


def repair(work: Attention, out: Tensor, lse: Tensor, tensors: tuple[Tensor, ...]) -> None:
    """Attend again by `fused` into `out` and `lse` where `tensors` hold NaN, Inf or huge numbers.

    0 * NaN is NaN, so that operators which multiply a hidden value by a weight of 0 let it through.
    The device decides, and the host never learns: sequences are empty, and the kernels end at once,
    where all is finite. One launch reads the tensors.

    Args:
        work: packed sequences.
        out: `[Tq, H, Dv]`, contiguous.
        lse: float32 `[Tq, H]`, contiguous.
        tensors: those of q, k and v that decide.
    """
    assert work.cu_seqlens is not None, "packed"
    norms = torch._foreach_norm([t for t in tensors if t.numel()], 2, dtype=torch.float32)
    if not norms:
        return
    usual = reduce(torch.add, norms) < LARGEST_NORM  # false for NaN
    of_q, of_k = (
        each.to(out.device, torch.int32, non_blocking=True).masked_fill(usual, 0)
        for each in work.cu_seqlens
    )
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():
        fused.attend(replace(work, cu_seqlens=(of_q, of_k)), out, lse)
