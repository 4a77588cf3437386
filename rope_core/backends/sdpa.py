"""PyTorch's flash attention on the CPU: causal and windowed, grouped heads, with log-sum-exp.

The operator aligns `is_causal` top-left, divides by zero on empty tensors, and lets a NaN through
in a key that is hidden; none of it reaches a caller of this module.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from rope_core.backends.work import Attention, Work

name = "sdpa"

WINDOW_ROWS = 512
"""Queries of a windowed call that share one mask."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def why_not(work: Work) -> str | None:
    """Attention without soft-cap, on the CPU, with finite values."""
    if not isinstance(work, Attention):
        return "attends only"
    if work.q.device.type != "cpu":
        return f"tensors are on {work.q.device.type}, not on the CPU"
    if work.config.softcap is not None:
        return "softcap is not in the operator"
    if work.v.shape[-1] != work.q.shape[-1]:
        return "values are not as wide as keys"
    masked = work.config.causal or work.config.window is not None
    if masked and work.scale <= 0:
        return "the operator multiplies its mask's -inf by the scale"
    if not (_finite(work.q) and _finite(work.k)):
        return "q or k holds NaN or Inf, of which the operator may make 0"
    if masked and not _finite(work.v):
        return "v holds NaN or Inf, which a mask may not hide"
    return None


def run(work: Work) -> None:
    """Do `work`."""
    assert isinstance(work, Attention), "why_not has seen it"
    if not work.q.stride(-1) == work.k.stride(-1) == work.v.stride(-1) == 1:
        # the operator takes it for granted, and reads something else
        work = replace(work, q=_in_rows(work.q), k=_in_rows(work.k), v=_in_rows(work.v))
    for (q_start, q_end), (k_start, k_end) in zip(work.q_spans, work.k_spans, strict=True):
        _attend(work, q_start, q_end, k_start, k_end)


def _attend(work: Attention, q_start: int, q_end: int, k_start: int, k_end: int) -> None:
    num_keys = k_end - k_start
    causal = work.config.causal or work.config.window is not None
    blind = max(0, (q_end - q_start) - num_keys) if causal else (q_end - q_start) * (not num_keys)
    if blind:  # the first queries see no key
        work.out[q_start : q_start + blind] = 0
        work.lse[q_start : q_start + blind] = -torch.inf
        q_start += blind
    if q_start == q_end:
        return
    past = num_keys - (q_end - q_start)  # keys before the first query's own, if causal
    window = work.config.window
    if not causal or (q_end - q_start == 1 and window is None):
        _see_all(work, q_start, q_end, k_start, k_end)
    elif past == 0 and (window is None or window >= num_keys):
        keys = slice(k_start, k_end)
        _store(work, slice(q_start, q_end), _call(work, slice(q_start, q_end), keys, causal=True))
    else:
        for start in range(q_start, q_end, WINDOW_ROWS):
            end = min(start + WINDOW_ROWS, q_end)
            seen_end = k_start + past + end - q_start
            seen = k_start if window is None else seen_end - (end - start) - window + 1
            seen = max(seen, k_start)
            distance = (seen_end - (end - start) + torch.arange(end - start))[:, None]
            distance = distance - torch.arange(seen, seen_end)
            hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
            mask = torch.zeros(hidden.shape, dtype=work.q.dtype).masked_fill_(hidden, -torch.inf)
            rows = slice(start, end)
            _store(work, rows, _call(work, rows, slice(seen, seen_end), mask=mask))


def _see_all(work: Attention, q_start: int, q_end: int, k_start: int, k_end: int) -> None:
    """Attend without a mask."""
    rows, keys = slice(q_start, q_end), slice(k_start, k_end)
    num_kv_heads = work.k.shape[1]
    if q_end - q_start > 1 or num_kv_heads == work.q.shape[1]:
        _store(work, rows, _call(work, rows, keys))
        return
    # one query: the heads of a group become its rows, so that each key is read once
    q = work.q[q_start].reshape(1, num_kv_heads, -1, work.q.shape[-1])  # [1, Hkv, G, D]
    k, v = (t[keys].transpose(0, 1)[None] for t in (work.k, work.v))
    out, lse = _flash(q, k, v, 0.0, False, scale=work.scale)
    work.out[q_start] = out[0].flatten(0, 1)
    work.lse[q_start] = lse[0].flatten()


def _call(
    work: Attention,
    rows: slice,
    keys: slice,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    q, k, v = work.q[rows], work.k[keys], work.v[keys]  # [S, H, D]
    q, k, v = (t.transpose(0, 1)[None] for t in (q, k, v))
    out, lse = _flash(q, k, v, 0.0, causal, attn_mask=mask, scale=work.scale)
    return out[0], lse[0]


def _store(work: Attention, rows: slice, answer: tuple[Tensor, Tensor]) -> None:
    out, lse = answer  # [H, S, D], [H, S]
    work.out[rows] = out.transpose(0, 1)
    work.lse[rows] = lse.transpose(0, 1)


def _in_rows(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _finite(x: Tensor) -> bool:
    """Tell whether all of `x` is finite; a sum that overflows may say no of what is."""
    return math.isfinite(x.sum(dtype=torch.float32).item())
