"""PyTorch's flash attention on the CPU: causal, windowed and masked, grouped heads, log-sum-exp.

The operator aligns `is_causal` top-left, divides by zero on empty tensors, answers 0 for the
log-sum-exp of a query that sees nothing, lets a NaN through in a key that is hidden, and takes more
for granted; none of it reaches a caller of this module.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from rope_core.backends import eager, sdpa_cuda
from rope_core.backends.work import AttentionWork, MergeWork, Work

name = "sdpa"

MASKED_ROWS = 512
"""Queries that share one mask, where causal and `is_causal` differ."""

PAST_KEYS = 512
"""From here on, the keys before all queries are attended to without a mask, and merged."""

PAST_FOR_EACH = 16
"""But as many for each query: merging takes its time, too."""

PACKED_ROWS = 24
"""From here on, the operator may multiply half precision another way, as the batch is large."""

WIDE_KEYS = 128
"""Keys of half precision that are held in float32 at a time, to be answered in it."""

WIDE_ROWS = 64
"""Most queries of a key's heads for which they are; for more, all keys are widened at once."""

LARGEST = 1e38
"""Bound of scores: they stay finite in float32."""

LINE_BYTES = 64

_flash: Callable[..., tuple[Tensor, Tensor]]
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


def why_not(work: Work, *, named: bool = False) -> str | None:
    """Attention without soft-cap on the CPU; what `sdpa_cuda` says on CUDA."""
    if not isinstance(work, AttentionWork):
        return "attends only"
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
    assert isinstance(work, AttentionWork), "why_not has seen it"
    if work.q.is_cuda:
        return sdpa_cuda.run(work)
    q, k, v = (_in_lines(x) for x in (work.q, work.k, work.v))
    mask, index, packed = work.mask, work.index, work.lengths is not None
    safe = _safe(work, q, k, v)
    if not packed and safe and _at_once(work):
        out, lse = _answer(work, q, k, v, mask, index)
        return _with_sinks(work, out, lse)
    out, lse = work.empty_outputs()
    seq_slices = work.seq_slices
    if seq_slices is None:  # each row of a batch for itself
        seq_slices = [(slice(row, row + 1),) * 2 for row in range(len(q))]
    for i, j in seq_slices:
        some_q, some_k, some_v = q[i], k[j], v[j]
        seen, at = mask, None if index is None else (index[0][i], index[1][j])
        if packed:
            some_q, some_k, some_v = some_q[None], some_k[None], some_v[None]
            seen = None if mask is None else mask[:, :, i, j]
            at = None if at is None else (at[0][None], at[1][None])
        elif mask is not None:
            seen = mask[i]
        if safe or _safe(work, some_q, some_k, some_v):
            out[i], lse[i] = _answer(work, some_q, some_k, some_v, seen, at)
        else:
            one = None if at is None else (at[0][0], at[1][0])
            into = (out[i], lse[i]) if packed else (out[i][0], lse[i][0])
            of_heads = None if seen is None else seen[0]
            without = replace(work, sinks=None)  # which all get in the end
            eager.attend(without, some_q[0], some_k[0], some_v[0], of_heads, one, *into)
    return _with_sinks(work, out, lse)


def _at_once(work: AttentionWork) -> bool:
    """Tell whether rows of a batch are answered together as each is alone, to the last bit."""
    num_rows, num_queries, num_heads = work.q.shape[:3]
    if num_rows == 1:
        return True
    if work.mask is not None or work.index is not None:
        return False
    half = work.q.dtype is not torch.float32
    most = num_queries * num_heads // work.k.shape[2]
    return not half or (work.out_dtype is not torch.float32 and most < PACKED_ROWS)


def _safe(work: AttentionWork, q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Tell whether all scores are finite, and so is what may be hidden.

    The operator may make 0 of a NaN, and NaN of what it hides.
    """
    bound = _largest(q) * _largest(k) * q.shape[-1] * max(1.0, abs(work.scale))
    if not bound < LARGEST:  # as with NaN
        return False
    if q.ndim == 4:
        hidden = work.is_masked(q.shape[1], k.shape[1])
    else:
        assert work.lengths is not None, "packed"
        hidden = any(work.is_masked(*each) for each in zip(*work.lengths, strict=True))
    return not hidden or math.isfinite(_largest(v))


def _largest(x: Tensor) -> float:
    """Return the largest absolute value, NaN where there is one."""
    if not x.numel():
        return 0.0
    if not x.is_contiguous():  # a copy is made of what is not
        x = x.transpose(-2, -3)
    least, most = (bound.item() for bound in x.aminmax())
    return max(-least, most)


def _with_sinks(work: AttentionWork, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Return out and lse as if each head had its sink: a score more, of a value of 0."""
    if work.sinks is None:
        return out, lse
    total = torch.logaddexp(lse, work.sinks.float())
    share = (lse - total.masked_fill(total == -torch.inf, 0)).exp_()
    return out.mul_(share[..., None]), total


Index = tuple[Tensor, Tensor]


def _answer(
    work: AttentionWork,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    index: Index | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend from q `[B, Sq, H, D]` to k and v; return out and lse likewise."""
    num_queries, head_dim = q.shape[1], q.shape[3]
    num_keys, value_dim = v.shape[1], v.shape[3]
    wide = work.out_dtype is torch.float32 and q.dtype is not torch.float32
    few = num_queries * q.shape[2] // k.shape[2] <= WIDE_ROWS
    in_blocks = wide and few and mask is None and index is None and value_dim == head_dim
    in_blocks = in_blocks and num_keys > 0 and not work.is_masked(num_queries, num_keys)
    if wide and not in_blocks:
        q, k, v = q.float(), k.float(), v.float()
    if value_dim < head_dim:
        v = F.pad(v, (0, head_dim - value_dim))
    elif value_dim > head_dim:
        q, k = (F.pad(x, (0, value_dim - head_dim)) for x in (q, k))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if not q.numel() or not num_keys:
        out, lse = _see_nothing(q)
    elif in_blocks:
        out, lse = _attend_widened(work, q, k, v)
    elif mask is not None or index is not None:
        out, lse = _attend_by_mask(work, q, k, v, mask, index)
    elif work.config.chunk is None:
        out, lse = _attend_in_chunk(work, q, k, v)
    else:
        chunk_slices = work.chunk_slices(num_queries, num_keys)
        parts = [
            _attend_in_chunk(work, q[:, :, i], k[:, :, j], v[:, :, j]) for i, j in chunk_slices
        ]
        out, lse = _joined(parts)
    return out.transpose(1, 2)[..., :value_dim], lse.transpose(1, 2)


def _attend_in_chunk(work: AttentionWork, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from q `[B, H, Sq, D]` to k and v `[B, Hkv, Sk, D]`; return out and lse likewise."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    if not num_keys:
        return _see_nothing(q)
    behind, ahead = work.window_size
    blind = num_queries - num_keys - ahead
    if blind > 0:
        parts = _see_nothing(q[:, :, :blind]), _attend_in_chunk(work, q[:, :, blind:], k, v)
        return _joined(parts)
    if behind >= num_keys - 1:
        if ahead >= num_queries - 1:
            return _attend_to_all(work, q, k, v)
        past = num_keys - num_queries
        if ahead == 0 and past == 0:
            return _flash(q, k, v, 0.0, True, scale=work.scale)
        if ahead == 0 and past >= max(PAST_KEYS, PAST_FOR_EACH * num_queries):
            before = _attend_to_all(work, q, k[:, :, :past], v[:, :, :past])
            own = _flash(q, k[:, :, past:], v[:, :, past:], 0.0, True, scale=work.scale)
            out, lse = (torch.stack(each) for each in zip(before, own, strict=True))
            merged = eager.run(MergeWork(out, lse))
            return merged[0], merged[1]
    starts = range(0, num_queries, MASKED_ROWS)
    groups = [range(start, min(start + MASKED_ROWS, num_queries)) for start in starts]
    return _joined([_attend_masked(work, rows, q, k, v) for rows in groups])


def _see_nothing(q: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(q), torch.full(q.shape[:-1], -torch.inf)


def _joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs, 2), torch.cat(lses, 2)


def _attend_to_all(
    work: AttentionWork, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attend from all queries to all keys: the heads of a group become its rows.

    Each key is then read once for its group, not once for each head.
    """
    rows = q.reshape(len(q), k.shape[1], -1, q.shape[3])  # [B, Hkv, G * Sq, D]
    out, lse = _flash(rows, k, v, 0.0, False, attn_mask=mask, scale=work.scale)
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def _attend_widened(work: AttentionWork, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from a few queries of half precision to all keys, in float32, some keys at a time."""
    _, num_heads, num_queries, head_dim = q.shape
    num_kv_heads, num_keys = k.shape[1:3]
    rows = q[0].float().reshape(num_kv_heads, -1, head_dim).mul_(work.scale)
    held = torch.empty(num_kv_heads, min(WIDE_KEYS, num_keys), head_dim)
    scores = torch.empty(*rows.shape[:2], num_keys)
    starts = range(0, num_keys, WIDE_KEYS)
    blocks = [slice(start, min(start + WIDE_KEYS, num_keys)) for start in starts]
    for block in blocks:
        some = held[:, : block.stop - block.start].copy_(k[0, :, block])
        torch.bmm(rows, some.mT, out=scores[..., block])
    top = scores.amax(-1, keepdim=True)
    total = scores.sub_(top).exp_().sum(-1, keepdim=True)
    out = torch.zeros_like(rows)
    for block in blocks:
        some = held[:, : block.stop - block.start].copy_(v[0, :, block])
        out.baddbmm_(scores[..., block], some)
    out.div_(total)
    lse = total.log_().add_(top)
    shape = (1, num_heads, num_queries)
    return out.view(*shape, head_dim), lse.view(shape)


def _attend_masked(
    work: AttentionWork, rows: range, q: Tensor, k: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Attend from some of the queries to the keys that one of them may see."""
    behind, ahead = work.window_size
    end = k.shape[2] - q.shape[2] + rows.stop  # beyond the place of the last of them
    places = torch.arange(end - len(rows), end)
    near = slice(max(0, end - len(rows) - behind), min(k.shape[2], end + ahead))
    distance = places[:, None] - torch.arange(near.start, near.stop)
    hidden = (distance < -ahead) | (distance > behind)
    some, keys, values = q[:, :, rows.start : rows.stop], k[:, :, near], v[:, :, near]
    if len(rows) == 1:  # a window of one query, of which all is near
        return _attend_to_all(work, some, keys, values)
    mask = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, -torch.inf)
    return _flash(some, keys, values, 0.0, False, attn_mask=mask, scale=work.scale)


def _attend_by_mask(
    work: AttentionWork, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, index: Index | None
) -> tuple[Tensor, Tensor]:
    """Attend where a mask `[1, 1 or H, Sq, Sk]` or an index `[1, S]` says what is seen."""
    num_queries, num_keys = q.shape[2], k.shape[2]
    if index is None:
        of_q, of_k = torch.arange(num_keys - num_queries, num_keys), torch.arange(num_keys)
    else:
        of_q, of_k = index[0][0], index[1][0]
    num_masks = 1 if mask is None else mask.shape[1]
    step = max(1, min(MASKED_ROWS, eager.SCORE_ELEMENTS // (num_masks * num_keys)))
    found = []
    for start in range(0, num_queries, step):
        rows = slice(start, start + step)
        hidden = eager.hidden_by_index(of_q[rows, None], of_k, work)
        added = torch.zeros(()) if mask is None or mask.dtype is torch.bool else mask[:, :, rows]
        if mask is not None and mask.dtype is torch.bool:
            unseen = ~mask[:, :, rows]
            hidden = unseen if hidden is None else unseen | hidden
        if hidden is not None:
            added = torch.where(hidden, -torch.inf, added.float())
        found.append(_attend_with(work, q[:, :, rows], k, v, added))
    return _joined(found)


def _attend_with(
    work: AttentionWork, q: Tensor, k: Tensor, v: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Attend with a mask that is added to the scores, `[1 or H, n, Sk]` with or without a batch."""
    if not mask.ndim:
        return _attend_to_all(work, q, k, v)
    mask = mask.float().view(1, -1, *mask.shape[-2:])
    if q.shape[2] == mask.shape[1] == 1:
        out, lse = _attend_to_all(work, q, k, v, mask)
    else:
        out, lse = _flash(q, k, v, 0.0, False, attn_mask=mask, scale=work.scale)
    blind = (mask == -torch.inf).all(-1)
    return out, lse.masked_fill_(blind, -torch.inf)


def _in_lines(x: Tensor) -> Tensor:
    """Return `x` with rows that lie contiguous, which the operator takes for granted.

    And at the start of a cache line: the operator takes up to twice as long on what a body holds
    anywhere, and a copy is a small part of that.
    """
    if x.stride(-1) == 1 and x.data_ptr() % LINE_BYTES == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)
