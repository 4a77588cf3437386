"""cuDNN's attention and FlashAttention 2, as PyTorch has them on CUDA: long rows of one length.

The operators are called directly: the public function chooses by flags that the whole process
shares, falls back to the mathematical form without a word, and answers no log-sum-exp.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention

from rope_core.backends import fused
from rope_core.backends.work import FAR, Attention

MIN_QUERIES = 1024
"""Shorter sequences gain too little here to be worth a second way."""

_cudnn: Callable[..., tuple[Any, ...]]
_cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention.default
_flash: Callable[..., tuple[Any, ...]]
_flash = torch.ops.aten._scaled_dot_product_flash_attention.default


def why_not(work: Attention) -> str | None:
    """Dense attention of long sequences in half precision, causal or not, where the GPU can."""
    q, k, v, config = work.q, work.k, work.v, work.config
    if work.lengths is not None:
        return "packed sequences"
    if q.dtype is torch.float32 or work.out_dtype not in (None, q.dtype):
        return "float32 is not in the operators"
    if config.softcap is not None or config.chunk is not None or config.window is not None:
        return "softcap, chunk and window are not in the operators"
    if any(given is not None for given in (work.mask, work.sinks, work.index)):
        return "mask, sinks and index are not in the operators"
    if q.shape[1] != k.shape[1]:
        return "is_causal is aligned top-left"
    if q.shape[1] < MIN_QUERIES:
        return f"fewer than {MIN_QUERIES} queries"
    if q.shape[-1] != v.shape[-1] or q.shape[-1] % 8:
        return "a value must be as wide as a key, and a multiple of 8"
    if work.scale <= 0:
        return "a scale of 0 or less"
    params = _params(work)
    if work.return_lse and not can_use_flash_attention(params):
        return "FlashAttention cannot run here, and cuDNN's log-sum-exp is not public"
    if not (can_use_cudnn_attention(params) or can_use_flash_attention(params)):
        return "neither cuDNN nor FlashAttention can run here"
    return None


def run(work: Attention) -> tuple[Tensor, ...]:
    """Do `work`, by cuDNN where nobody wants the log-sum-exp and it can."""
    q, k, v = (x.transpose(1, 2) for x in (work.q, work.k, work.v))
    causal, scale = work.reach != (FAR, FAR), work.scale
    if not work.return_lse and can_use_cudnn_attention(_params(work)):
        out = _cudnn(q, k, v, None, False, 0.0, causal, scale=scale)[0]
        answer: tuple[Tensor, ...] = (out.transpose(1, 2),)
    else:
        out, lse, *_ = _flash(q, k, v, 0.0, causal, scale=scale)
        answer = out.transpose(1, 2), lse.transpose(1, 2)
    return _mended(work, answer) if causal else answer


def _mended(work: Attention, answer: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Attend again by `fused` where k or v is not finite, which the host never learns.

    A product of 0 with what a hidden value holds may be NaN. Sequences are empty, and cost nothing,
    where all is finite.
    """
    finite = (work.k.sum(dtype=torch.float32) + work.v.sum(dtype=torch.float32)).isfinite()
    out, lse = answer[0].contiguous(), torch.empty(work.q.shape[:-1], device=work.q.device)
    if work.return_lse:
        lse = answer[1].contiguous()
    fused.attend(work, out, lse, skipped=finite)
    return (out, lse) if work.return_lse else (out,)


def _params(work: Attention) -> SDPAParams:
    q, k, v = (x.transpose(1, 2) for x in (work.q, work.k, work.v))
    grouped, causal = q.shape[1] != k.shape[1], work.reach != (FAR, FAR)
    return SDPAParams(q, k, v, None, 0.0, causal, grouped)
