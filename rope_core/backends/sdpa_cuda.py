"""PyTorch's cuDNN attention and FlashAttention 2 on CUDA, for large calls of one length.

The operators are called directly: `scaled_dot_product_attention` chooses by flags of the whole
process, falls back to the math implementation silently, and returns no log-sum-exp.

cuDNN makes a plan for each shape, which takes longer than a call. So a shape is left to `fused`
until it has come several times; later calls of it go to cuDNN. Both are within the bounds of
accuracy, but their bits differ: a caller that needs the same bits every time names a backend.
FlashAttention 2 has no plans; on Hopper and later it is slower than `fused`.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention, can_use_flash_attention

from rope_core.backends import fused
from rope_core.backends.agreement import agrees, why_not_operator
from rope_core.backends.cudnn_plans import MAX_PLANNED, PlannedShapes
from rope_core.backends.repair import repair
from rope_core.backends.work import AttentionWork

MIN_FLOPS = 5e10
"""Operations from which on the operators gain more than the check for NaN costs; of a causal call,
those of the visible half."""

HOPPER = (9, 0)

_cudnn: Callable[..., tuple[Any, ...]]
_cudnn = torch.ops.aten._scaled_dot_product_cudnn_attention.default
_flash: Callable[..., tuple[Any, ...]]
_flash = torch.ops.aten._scaled_dot_product_flash_attention.default

_planned_shapes = PlannedShapes()


def why_not(work: AttentionWork, *, named: bool) -> str | None:
    """Large dense attention in half precision, causal or not, of a shape that recurs.

    When named: of any size, from the first call of a shape on, up to the limit of plans.
    """
    if (reason := _why_not_supported(work)) is not None:
        return reason
    if not named and _flops(work) < MIN_FLOPS:
        return f"less work than {MIN_FLOPS:.0e} operations"
    if (reason := fused.why_not(work, named=True)) is not None:  # repairs run on fused
        return reason
    if _uses_flash(work):
        return None
    shape = _shape(work)
    if not named and not _planned_shapes.count_call(shape):
        return "the shape has not come often enough for a plan of cuDNN"
    if not can_use_cudnn_attention(_params(work)):
        return "neither cuDNN nor FlashAttention can run here"
    if work.return_lse and not _lse_agrees(work.device):
        return "cuDNN's log-sum-exp is not the natural logarithm"
    if not _planned_shapes.admit(shape):
        return f"cuDNN has plans for {MAX_PLANNED} other shapes"
    return None


def run(work: AttentionWork) -> tuple[Tensor, ...]:
    """Do `work`."""
    answer = _run_flash(work) if _uses_flash(work) else _run_cudnn(work)
    if not (work.config.causal or work.return_lse):  # no key is hidden: NaN is the right answer
        return answer
    out, lse = answer[0].contiguous(), torch.empty(work.q.shape[:-1], device=work.device)
    checked: tuple[Tensor, ...] = (work.k, work.v)
    if work.return_lse:  # cuDNN may return -inf for a row whose scores are NaN
        lse, checked = answer[1].contiguous(), (work.q, work.k, work.v)
    repair(work.packed(), out.flatten(0, 1), lse.flatten(0, 1), checked)
    return (out, lse) if work.return_lse else (out,)


def _run_cudnn(work: AttentionWork) -> tuple[Tensor, ...]:
    q, k, v = _heads_first(work)
    with_lse = work.return_lse
    out, lse, *_ = _cudnn(q, k, v, None, with_lse, 0.0, work.config.causal, scale=work.scale)
    out = out.transpose(1, 2)
    return (out, lse.reshape(q.shape[:-1]).transpose(1, 2)) if with_lse else (out,)


def _run_flash(work: AttentionWork) -> tuple[Tensor, ...]:
    out, lse, *_ = _flash(*_heads_first(work), 0.0, work.config.causal, scale=work.scale)
    return out.transpose(1, 2), lse.transpose(1, 2)


def _why_not_supported(work: AttentionWork) -> str | None:
    if work.lengths is not None:
        return "packed sequences are not in the operators"
    if work.config.window is not None:
        return "windows are not in the operators"
    if work.q.shape[1] != work.k.shape[1]:
        return "is_causal is aligned top-left"
    if not work.q.numel():
        return "there are no queries"
    return why_not_operator(work)


def _flops(work: AttentionWork) -> float:
    """Return multiplications and additions of both products; of a causal call the visible half."""
    num_rows, num_tokens, num_heads, head_dim = work.q.shape
    full = 4.0 * num_rows * num_heads * num_tokens**2 * head_dim
    return full / 2 if work.config.causal else full


def _shape(work: AttentionWork) -> Hashable:
    """Return the key under which torch keeps cuDNN's plan of a call."""
    q, k, v = work.q, work.k, work.v
    strides = q.stride(), k.stride(), v.stride()
    return work.device, q.dtype, q.shape, k.shape, strides, work.config.causal, work.return_lse


def _uses_flash(work: AttentionWork) -> bool:
    """Tell whether FlashAttention 2 runs: before Hopper, with lse or where cuDNN cannot."""
    if torch.cuda.get_device_capability(work.device) >= HOPPER:
        return False
    params = _params(work)
    prefers_flash = work.return_lse or not can_use_cudnn_attention(params)
    return prefers_flash and can_use_flash_attention(params)


@lru_cache(maxsize=16)
def _lse_agrees(device: torch.device) -> bool:
    """Tell whether cuDNN's log-sum-exp is the natural logarithm; tried once for each device."""
    return agrees(_run_cudnn, device, None)


def _heads_first(work: AttentionWork) -> tuple[Tensor, Tensor, Tensor]:
    """Return q, k and v `[B, H, S, D]`, as the operators take them."""
    return work.q.transpose(1, 2), work.k.transpose(1, 2), work.v.transpose(1, 2)


def _params(work: AttentionWork) -> SDPAParams:
    q, k, v = _heads_first(work)
    return SDPAParams(q, k, v, None, 0.0, work.config.causal, q.shape[1] != k.shape[1])
