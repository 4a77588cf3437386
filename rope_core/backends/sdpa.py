"""PyTorch's flash attention on the CPU: causal and windowed, grouped heads, with log-sum-exp.

The operator aligns `is_causal` top-left, divides by zero on empty tensors, lets a NaN through in a
key that is hidden, and takes more for granted; none of it reaches a caller of this module.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rope_core.backends.work import Attention, Work

name = "sdpa"

MASKED_ROWS = 512
"""Queries that share one mask, where causal and `is_causal` differ."""

LINE_BYTES = 64

_flash: Callable[..., tuple[Tensor, Tensor]]
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def why_not(work: Work) -> str | None:
    """Attention without soft-cap and mask, on the CPU, with finite values."""
    if not isinstance(work, Attention):
        return "attends only"
    if work.q.device.type != "cpu":
        return f"tensors are on {work.q.device.type}, not on the CPU"
    if work.config.softcap is not None:
        return "softcap is not in the operator"
    if work.mask is not None:
        return "a mask may hide all keys of a query, or NaN"
    if work.index is not None:
        return "keys are not in the order of their index"
    if work.v.shape[-1] != work.q.shape[-1]:
        return "values are not as wide as keys"
    if work.masked and work.scale <= 0:
        return "the operator multiplies its mask's -inf by the scale"
    if not (_finite(work.q) and _finite(work.k)):
        return "q or k holds NaN or Inf, of which the operator may make 0"
    if work.masked and not _finite(work.v):
        return "v holds NaN or Inf, which a mask may not hide"
    return None


def run(work: Work) -> tuple[Tensor, ...]:
    """Do `work`."""
    assert isinstance(work, Attention), "why_not has seen it"
    q, k, v = (_in_lines(x) for x in (work.q, work.k, work.v))
    spans = work.spans
    if spans is None:
        found = _attend(work, q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out, lse = _with_sinks(work, found[0].transpose(1, 2), found[1].transpose(1, 2))
        return out.to(work.out_dtype or q.dtype), lse
    out, lse = work.new_out()
    for queries, keys in spans:
        found = _attend(work, *(x.transpose(0, 1)[None] for x in (q[queries], k[keys], v[keys])))
        out[queries], lse[queries] = found[0][0].transpose(0, 1), found[1][0].T
    return _with_sinks(work, out, lse)


def _with_sinks(work: Attention, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Return out and lse as if each head had its sink: a score more, of a value of 0."""
    if work.sinks is None:
        return out, lse
    total = torch.logaddexp(lse, work.sinks.float())
    share = (lse - total.masked_fill(total == -torch.inf, 0)).exp_()
    return out.mul_(share[..., None]), total


def _attend(work: Attention, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from q `[B, H, Sq, D]` to k and v `[B, Hkv, Sk, D]`; return out and lse likewise."""
    if not q.numel() or not k.shape[2]:
        return _see_nothing(q)
    if work.config.chunk is None:
        return _attend_in_chunk(work, q, k, v)
    chunks = work.chunks(q.shape[2], k.shape[2])
    return _joined([_attend_in_chunk(work, q[:, :, i], k[:, :, j], v[:, :, j]) for i, j in chunks])


def _attend_in_chunk(work: Attention, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    num_queries, num_keys = q.shape[2], k.shape[2]
    if not num_keys:
        return _see_nothing(q)
    behind, ahead = work.reach
    blind = num_queries - num_keys - ahead
    if blind > 0:
        parts = _see_nothing(q[:, :, :blind]), _attend_in_chunk(work, q[:, :, blind:], k, v)
        return _joined(parts)
    if behind >= num_keys - 1:
        if num_queries == 1:
            return _attend_from_one(work, q, k, v)
        if ahead >= num_queries - 1:
            return _flash(q, k, v, 0.0, False, scale=work.scale)
        if ahead == 0 and num_queries == num_keys:
            return _flash(q, k, v, 0.0, True, scale=work.scale)
    starts = range(0, num_queries, MASKED_ROWS)
    groups = [range(start, min(start + MASKED_ROWS, num_queries)) for start in starts]
    return _joined([_attend_masked(work, rows, q, k, v) for rows in groups])


def _see_nothing(q: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(q), torch.full(q.shape[:-1], -torch.inf)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs, 2), torch.cat(lses, 2)


def _attend_from_one(work: Attention, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from one query to all keys: the heads of a group become its rows.

    Each key is then read once for its group, not once for each head.
    """
    grouped = q.reshape(len(q), k.shape[1], -1, q.shape[3])  # [B, Hkv, G, D]
    out, lse = _flash(grouped, k, v, 0.0, False, scale=work.scale)
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def _attend_masked(
    work: Attention, rows: range, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Attend from some of the queries to the keys that one of them may see."""
    behind, ahead = work.reach
    end = k.shape[2] - q.shape[2] + rows.stop  # beyond the place of the last of them
    places = torch.arange(end - len(rows), end)
    near = slice(max(0, end - len(rows) - behind), min(k.shape[2], end + ahead))
    distance = places[:, None] - torch.arange(near.start, near.stop)
    hidden = (distance < -ahead) | (distance > behind)
    mask = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, -torch.inf)
    some, keys, values = q[:, :, rows.start : rows.stop], k[:, :, near], v[:, :, near]
    return _flash(some, keys, values, 0.0, False, attn_mask=mask, scale=work.scale)


def _in_lines(x: Tensor) -> Tensor:
    """Return `x` with rows that lie contiguous, which the operator takes for granted.

    And at the start of a cache line: the operator takes up to twice as long on what a body holds
    anywhere, and a copy is a small part of that.
    """
    if x.stride(-1) == 1 and x.data_ptr() % LINE_BYTES == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _finite(x: Tensor) -> bool:
    """Tell whether all of `x` is finite; a sum that overflows may say no of what is."""
    return math.isfinite(x.sum(dtype=torch.float32).item())
