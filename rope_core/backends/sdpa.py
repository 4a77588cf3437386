"""PyTorch's flash attention on the CPU: causal and windowed, grouped heads, with log-sum-exp.

The operator aligns `is_causal` top-left, divides by zero on empty tensors, lets a NaN through in a
key that is hidden, and takes more for granted; none of it reaches a caller of this module.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from rope_core.backends.work import Attention, Work

name = "sdpa"

MASKED_ROWS = 512
"""Queries that share one mask, where causal and `is_causal` differ."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


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
    if work.masked and work.scale <= 0:
        return "the operator multiplies its mask's -inf by the scale"
    if not (_finite(work.q) and _finite(work.k)):
        return "q or k holds NaN or Inf, of which the operator may make 0"
    if work.masked and not _finite(work.v):
        return "v holds NaN or Inf, which a mask may not hide"
    return None


def run(work: Work) -> None:
    """Do `work`."""
    assert isinstance(work, Attention), "why_not has seen it"
    if not work.q.stride(-1) == work.k.stride(-1) == work.v.stride(-1) == 1:
        # the operator takes it for granted, and reads something else
        work = replace(work, q=_in_rows(work.q), k=_in_rows(work.k), v=_in_rows(work.v))
    if work.uniform:
        _attend(work, len(work.q_spans), work.q, work.k, work.v, work.out, work.lse)
        return
    for q_span, k_span in zip(work.q_spans, work.k_spans, strict=True):
        queries, keys = slice(*q_span), slice(*k_span)
        q, out, lse = work.q[queries], work.out[queries], work.lse[queries]
        _attend(work, 1, q, work.k[keys], work.v[keys], out, lse)


def _attend(
    work: Attention, rows: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> None:
    """Attend within `rows` sequences of one length, laid end to end."""
    q, k, v, out = (_heads_first(x, rows) for x in (q, k, v, out))
    lse = lse.view(rows, -1, lse.shape[1]).transpose(1, 2)
    _attend_heads_first(work, q, k, v, out, lse)


def _heads_first(x: Tensor, rows: int) -> Tensor:
    return x.view(rows, -1, *x.shape[1:]).transpose(1, 2)


def _attend_heads_first(
    work: Attention, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> None:
    """Attend from q `[B, H, Sq, D]` to k and v `[B, Hkv, Sk, D]`, into `out` and `lse`."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    if not num_queries or not len(q):
        return
    if not num_keys or (work.masked and num_queries > num_keys):
        blind = num_queries - num_keys if work.masked else num_queries  # they see no key
        out[:, :, :blind] = 0
        lse[:, :, :blind] = -torch.inf
        if num_keys:
            q, out, lse = (x[:, :, blind:] for x in (q, out, lse))
            _attend_heads_first(work, q, k, v, out, lse)
        return
    window = work.config.window
    if window is not None and window >= num_keys:
        window = None
    if num_queries == 1 and window is None:
        _see_all_from_one(work, q, k, v, out, lse)
    elif not work.masked or (num_queries == num_keys and window is None):
        found, found_lse = _flash(q, k, v, 0.0, work.masked, scale=work.scale)
        out.copy_(found)
        lse.copy_(found_lse)
    else:
        for start in range(0, num_queries, MASKED_ROWS):
            _attend_masked(
                work, range(start, min(start + MASKED_ROWS, num_queries)), q, k, v, out, lse
            )


def _see_all_from_one(
    work: Attention, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> None:
    """Attend from one query to all keys: the heads of a group become its rows.

    Each key is then read once for its group, not once for each head.
    """
    grouped = q.reshape(len(q), k.shape[1], -1, q.shape[3])  # [B, Hkv, G, D]
    found, found_lse = _flash(grouped, k, v, 0.0, False, scale=work.scale)
    out.copy_(found.reshape(q.shape))
    lse.copy_(found_lse.reshape(lse.shape))


def _attend_masked(
    work: Attention, rows: range, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> None:
    """Attend from some of the queries to the keys that one of them may see."""
    end = k.shape[2] - q.shape[2] + rows.stop  # beyond the key of the last of them
    window = k.shape[2] if work.config.window is None else work.config.window
    start = max(0, end - len(rows) - window + 1)
    distance = torch.arange(end - len(rows), end)[:, None] - torch.arange(start, end)
    hidden = (distance < 0) | (distance >= window)
    mask = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, -torch.inf)
    keys, values, some = k[:, :, start:end], v[:, :, start:end], slice(rows.start, rows.stop)
    found = _flash(q[:, :, some], keys, values, 0.0, False, attn_mask=mask, scale=work.scale)
    out[:, :, some], lse[:, :, some] = found


def _in_rows(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _finite(x: Tensor) -> bool:
    """Tell whether all of `x` is finite; a sum that overflows may say no of what is."""
    return math.isfinite(x.sum(dtype=torch.float32).item())
