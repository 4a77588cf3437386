"""PyTorch's `varlen_attn` with FlashAttention 3, for packed sequences: on Hopper, only when named.

FlashAttention 3 is a separate wheel (flash-attn-3). It is activated for the whole process: after
the first call, PyTorch's other attention functions use it on Hopper as well.
"""

import inspect
from functools import lru_cache

import torch
from torch import Tensor

from rope_core.backends import fused
from rope_core.backends.agreement import agrees, why_not_operator
from rope_core.backends.repair import repair
from rope_core.backends.work import AttentionWork, Work

name = "varlen"

HOPPER = 9
"""Major compute capability of the GPUs that FlashAttention 3 is written for."""

MAX_HEAD_DIM = 256
"""Widest heads of FlashAttention 3."""

MIN_MAX_SEQLEN = 128
"""Least `max_q` and `max_k` that are passed to the operator.

It takes other code paths where the longest sequence is short or fits into the window. The bits of
an answer must not depend on the pack, so greater numbers are always passed.
"""

MAX_SEQLEN = 2**30
"""No sequence is longer: windows of this length hide nothing."""


def why_not(work: Work, *, named: bool = False) -> str | None:
    """Attention in half precision on Hopper, with windows, without softcap, chunk, mask or sinks.

    Where FlashAttention 3 cannot be used, the reason says what is missing.
    """
    if not named:
        return "it runs only when it is named"
    if not isinstance(work, AttentionWork):
        return "it computes attention only"
    if (reason := why_not_operator(work)) is not None:
        return reason
    if work.q.shape[-1] > MAX_HEAD_DIM:
        return f"heads are wider than {MAX_HEAD_DIM}"
    return unavailable(work.device) or fused.why_not(work, named=True)  # repairs run on fused


@lru_cache(maxsize=16)
def unavailable(device: torch.device) -> str | None:
    """Return why FlashAttention 3 cannot be used on a device; activate it where it can."""
    if device.type != "cuda":
        return f"tensors are on {device.type}, not on a GPU"
    if torch.cuda.get_device_capability(device)[0] != HOPPER:
        return "FlashAttention 3 is for Hopper (sm_90) only"
    try:
        from torch.nn.attention import activate_flash_attention_impl, current_flash_attention_impl
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return f"torch {torch.__version__} has no varlen_attn with FlashAttention 3"
    if not {"enable_gqa", "num_splits"} <= inspect.signature(varlen_attn).parameters.keys():
        return f"varlen_attn of torch {torch.__version__} has no grouped heads or no num_splits"
    try:
        if current_flash_attention_impl() != "FA3":
            activate_flash_attention_impl("FA3")
    except (ImportError, RuntimeError, ValueError) as error:
        return f"FlashAttention 3 cannot be activated (is flash-attn-3 installed?): {error}"
    if not agrees(_attend, device, ([70, 0, 130, 9], [200, 5, 90, 0])):
        return "the answers of varlen_attn in a trial differ from those of the eager backend"
    return None


def run(work: Work) -> tuple[Tensor, ...]:
    """Do `work`."""
    assert isinstance(work, AttentionWork), "checked by why_not"
    packed = work.packed()
    out, lse = _attend(packed)
    repair(packed, out, lse, (packed.q, packed.k, packed.v))
    shape = work.q.shape
    return out.view(shape), lse.view(shape[:-1])


def _attend(work: AttentionWork) -> tuple[Tensor, Tensor]:
    """Return `out` `[Tq, H, D]` and `lse` `[Tq, H]` of packed sequences."""
    from torch.nn.attention.varlen import AuxRequest, varlen_attn

    q, k, v = work.q, work.k, work.v
    assert work.lengths is not None, "packed"
    assert work.cu_seqlens is not None, "packed"
    if not q.numel() or not k.numel():
        return torch.zeros_like(q), torch.full(q.shape[:-1], -torch.inf, device=q.device)
    cu_seqlens_q, cu_seqlens_k = (
        t.to(q.device, torch.int32, non_blocking=True) for t in work.cu_seqlens
    )
    left, right = (-1 if size >= MAX_SEQLEN else size for size in work.window_size)
    max_q, max_k = (max(lengths, default=0) for lengths in work.lengths)
    out, lse = varlen_attn(
        *(q, k, v),
        cu_seqlens_q,
        cu_seqlens_k,
        max(max_q, right + 2, MIN_MAX_SEQLEN),
        max(max_k, left + 2, MIN_MAX_SEQLEN),
        return_aux=AuxRequest(lse=True),
        scale=work.scale,
        window_size=(left, right),
        enable_gqa=True,
        num_splits=1,  # the operator's own choice depends on the longest sequence of the pack
    )
    return out.contiguous(), lse.mT.contiguous()
