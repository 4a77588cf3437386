"""PyTorch's flash attention on the CPU: causal, windowed and masked, grouped heads, log-sum-exp.

The operator aligns `is_causal` top-left, divides by zero on empty tensors, returns 0 as the
log-sum-exp of a query that sees no key, does not handle a hidden NaN, and needs contiguous rows.
This module handles all of these except NaN, which callers check.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rope_core.backends import eager
from rope_core.backends.work import AttentionWork, MergeWork

MASK_ROWS = 512
"""Queries that share one mask, where causal and `is_causal` differ."""

PAST_KEYS = 512
"""From this many on, the keys before all queries are attended to without a mask, and merged."""

PAST_KEYS_PER_QUERY = 16
"""But not fewer than this many for each query, as merging takes time."""

WIDEN_KEYS = 128
"""Keys of half precision that are converted to float32 at a time, for an answer in float32."""

WIDEN_ROWS = 64
"""Rows of a head of keys up to which keys are converted in blocks; for more, all at once."""

CACHE_LINE_BYTES = 64

OutLse = tuple[Tensor, Tensor]

# its namespace in torch.ops calls it in half as much time again
flash: Callable[..., OutLse] = torch._scaled_dot_product_flash_attention_for_cpu


def cache_aligned(x: Tensor) -> Tensor:
    """Return `x` with contiguous rows, which the operator needs, at the start of a cache line.

    The operator takes up to twice as long on other addresses, and a copy is a small part of that.
    """
    if x.stride(-1) == 1 and x.data_ptr() % CACHE_LINE_BYTES == 0:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def attend(work: AttentionWork) -> OutLse:
    """Attend within each row of a batch `[B, S, H, D]`, without sinks.

    With a mask or an index, the batch has one row. Returns out `[B, Sq, H, Dv]` and lse
    `[B, Sq, H]`.
    """
    q, k, v, mask, index = work.q, work.k, work.v, work.mask, work.index
    num_queries, num_heads, head_dim = q.shape[1:]
    num_keys, num_kv_heads, value_dim = v.shape[1:]
    is_plain = mask is None and index is None
    widen = work.out_dtype is torch.float32 and q.dtype is not torch.float32
    in_blocks = widen and is_plain and value_dim == head_dim and num_keys > 0
    in_blocks = in_blocks and num_queries * num_heads // num_kv_heads <= WIDEN_ROWS
    in_blocks = in_blocks and not work.is_masked(num_queries, num_keys)
    if widen and not in_blocks:
        q, k, v = q.float(), k.float(), v.float()
    if value_dim < head_dim:
        v = F.pad(v, (0, head_dim - value_dim))
    elif value_dim > head_dim:
        q, k = (F.pad(x, (0, value_dim - head_dim)) for x in (q, k))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if not q.numel() or not num_keys:
        out, lse = _see_no_key(q)
    elif in_blocks:
        out, lse = _attend_widened(work, q, k, v)
    elif not is_plain:
        out, lse = _attend_masked(work, q, k, v)
    elif work.config.chunk is None:
        out, lse = _attend_chunk(work, q, k, v)
    else:
        chunks = work.chunk_slices(num_queries, num_keys)
        parts = (_attend_chunk(work, q[:, :, i], k[:, :, j], v[:, :, j]) for i, j in chunks)
        out, lse = _concat([*parts])
    out = out.transpose(1, 2)
    return out if value_dim >= head_dim else out[..., :value_dim], lse.transpose(1, 2)


# below, q is [B, H, Sq, D], k and v are [B, Hkv, Sk, D], out is as q, and lse [B, H, Sq]


def _attend_chunk(work: AttentionWork, q: Tensor, k: Tensor, v: Tensor) -> OutLse:
    num_queries, num_keys = q.shape[2], k.shape[2]
    if not num_keys:
        return _see_no_key(q)
    left, right = work.window_size
    num_blind = num_queries - num_keys - right
    if num_blind > 0:
        rest = _attend_chunk(work, q[:, :, num_blind:], k, v)
        return _concat([_see_no_key(q[:, :, :num_blind]), rest])
    if left >= num_keys - 1:
        if right >= num_queries - 1:
            return _attend_all(work, q, k, v)
        past = num_keys - num_queries
        if right == 0 and past == 0:
            return flash(q, k, v, 0.0, True, scale=work.scale)
        if right == 0 and past >= max(PAST_KEYS, PAST_KEYS_PER_QUERY * num_queries):
            before = _attend_all(work, q, k[:, :, :past], v[:, :, :past])
            recent = flash(q, k[:, :, past:], v[:, :, past:], 0.0, True, scale=work.scale)
            out, lse = (torch.stack(parts) for parts in zip(before, recent, strict=True))
            merged = eager.run(MergeWork(out, lse))
            return merged[0], merged[1]
    starts = range(0, num_queries, MASK_ROWS)
    blocks = [range(start, min(start + MASK_ROWS, num_queries)) for start in starts]
    return _concat([_attend_window(work, rows, q, k, v) for rows in blocks])


def _see_no_key(q: Tensor) -> OutLse:
    return torch.zeros_like(q), torch.full(q.shape[:-1], -torch.inf)


def _concat(parts: Sequence[OutLse]) -> OutLse:
    """Join the answers of consecutive queries."""
    if len(parts) == 1:
        return parts[0]
    outs, lses = zip(*parts, strict=True)
    return torch.cat(outs, 2), torch.cat(lses, 2)


def _attend_all(
    work: AttentionWork, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> OutLse:
    """Attend from all queries to all keys.

    The heads of a group become rows, so that each key is read once for its group.
    """
    rows = q.reshape(len(q), k.shape[1], -1, q.shape[3])  # [B, Hkv, G * Sq, D]
    out, lse = flash(rows, k, v, 0.0, False, attn_mask=mask, scale=work.scale)
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def _attend_widened(work: AttentionWork, q: Tensor, k: Tensor, v: Tensor) -> OutLse:
    """Attend from few queries of half precision to all keys, in float32, for a batch of 1.

    Keys and values are converted WIDEN_KEYS at a time, into one buffer.
    """
    _, num_heads, num_queries, head_dim = q.shape
    num_kv_heads, num_keys = k.shape[1:3]
    rows = q[0].float().reshape(num_kv_heads, -1, head_dim).mul_(work.scale)
    buffer = torch.empty(num_kv_heads, min(WIDEN_KEYS, num_keys), head_dim)
    scores = torch.empty(*rows.shape[:2], num_keys)
    starts = range(0, num_keys, WIDEN_KEYS)
    blocks = [slice(start, min(start + WIDEN_KEYS, num_keys)) for start in starts]
    for block in blocks:
        keys = buffer[:, : block.stop - block.start].copy_(k[0, :, block])
        torch.bmm(rows, keys.mT, out=scores[..., block])
    m = scores.amax(-1, keepdim=True)
    total = scores.sub_(m).exp_().sum(-1, keepdim=True)
    out = torch.zeros_like(rows)
    for block in blocks:
        values = buffer[:, : block.stop - block.start].copy_(v[0, :, block])
        out.baddbmm_(scores[..., block], values)
    out.div_(total)
    lse = total.log_().add_(m)
    shape = (1, num_heads, num_queries)
    return out.view(*shape, head_dim), lse.view(shape)


def _attend_window(work: AttentionWork, rows: range, q: Tensor, k: Tensor, v: Tensor) -> OutLse:
    """Attend from some of the queries to the keys that one of them may see."""
    left, right = work.window_size
    end = k.shape[2] - q.shape[2] + rows.stop  # the position after that of the last query
    positions = torch.arange(end - len(rows), end)
    keys = slice(max(0, end - len(rows) - left), min(k.shape[2], end + right))
    q, k, v = q[:, :, rows.start : rows.stop], k[:, :, keys], v[:, :, keys]
    if len(rows) == 1:  # one query sees all keys of its window
        return _attend_all(work, q, k, v)
    distance = positions[:, None] - torch.arange(keys.start, keys.stop)
    hidden = (distance < -right) | (distance > left)
    mask = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill_(hidden, -torch.inf)
    return flash(q, k, v, 0.0, False, attn_mask=mask, scale=work.scale)


def _attend_masked(work: AttentionWork, q: Tensor, k: Tensor, v: Tensor) -> OutLse:
    """Attend where a mask or an index says which keys a query sees, for a batch of 1."""
    num_queries, num_keys, mask = q.shape[2], k.shape[2], work.mask
    if work.index is None:
        q_index, k_index = torch.arange(num_keys - num_queries, num_keys), torch.arange(num_keys)
    else:
        q_index, k_index = work.index[0][0], work.index[1][0]
    num_masks = 1 if mask is None else mask.shape[1]
    step = max(1, min(MASK_ROWS, eager.SCORE_ELEMENTS // (num_masks * num_keys)))
    parts = []
    for start in range(0, num_queries, step):
        rows = slice(start, start + step)
        hidden = eager.hidden_by_index(q_index[rows, None], k_index, work)
        bias = torch.zeros(())
        if mask is not None and mask.dtype is torch.bool:
            masked_out = ~mask[:, :, rows]
            hidden = masked_out if hidden is None else masked_out | hidden
        elif mask is not None:
            bias = mask[:, :, rows]
        if hidden is not None:
            bias = torch.where(hidden, -torch.inf, bias.float())
        parts.append(_attend_biased(work, q[:, :, rows], k, v, bias))
    return _concat(parts)


def _attend_biased(work: AttentionWork, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> OutLse:
    """Attend with a bias of the scores, `[1 or H, n, Sk]` with or without a batch, or a scalar."""
    if not bias.ndim:
        return _attend_all(work, q, k, v)
    bias = bias.float().view(1, -1, *bias.shape[-2:])
    if q.shape[2] == bias.shape[1] == 1:
        out, lse = _attend_all(work, q, k, v, bias)
    else:
        out, lse = flash(q, k, v, 0.0, False, attn_mask=bias, scale=work.scale)
    sees_no_key = (bias == -torch.inf).all(-1)
    return out, lse.masked_fill_(sees_no_key, -torch.inf)
