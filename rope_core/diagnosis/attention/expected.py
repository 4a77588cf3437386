"""What attention of a layer gives: the numbers that evidence is compared with."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from rope_core.attention import rotate_inputs, run_attend
from rope_core.calls import Attend, Attended
from rope_core.diagnosis.attention.parts import mask_bias
from rope_core.diagnosis.attention.simulation import hidden_keys
from rope_core.diagnosis.attention_call import AttentionCall, Sequence

MANY_SCORES = 2**23
"""Scores with a soft cap from which on heads are computed one by one."""

FEW_QUERIES = 16
"""Queries of a sequence up to which all keys are read once, for all heads."""

MANY_KEYS = 2**23
"""Elements of keys that few queries read, from which on PyTorch takes too long."""

BLOCK_KEYS = 256
"""Keys of all heads at a time: they stay in a cache."""

BLOCK_QUERIES = 128
"""Queries of a head at a time: their scores stay in a cache."""


def expected_values(call: Attend, right: AttentionCall) -> Attended:
    """Return what `call` gives. A soft cap of long sequences is computed here, in float32.

    The product's reference backend reads all heads for each few queries, and all hidden keys. And
    PyTorch takes 10 times as long for few queries and many keys in half precision.
    """
    most = max((s.queries.stop - s.queries.start for s in right.sequences), default=0)
    is_few = most <= FEW_QUERIES and call.k.numel() >= MANY_KEYS
    scores = sum(
        (s.queries.stop - s.queries.start) * (s.keys.stop - s.keys.start) for s in right.sequences
    )
    is_long = call.attention.softcap is not None and scores * right.num_heads >= MANY_SCORES
    inputs = (call.q, call.k, call.v)
    is_slow = is_few and (call.attention.softcap is not None or call.q.dtype != torch.float32)
    if not (is_long or is_slow) or right.rotates_back or not _are_finite(inputs, is_few):
        return run_attend(call)
    q, k, v, _, _ = rotate_inputs(call)
    attend = _of_few if is_few else _capped
    out, lse = attend(right, *(x.flatten(0, -3) for x in (q, k, v)))
    return Attended(
        out.view(*call.q.shape[:-1], -1), lse.view(call.q.shape[:-1]) if call.return_lse else None
    )


def _capped(right: AttentionCall, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return out `[Tq, H, Dv]` and log-sum-exp `[Tq, H]` of rotated heads `[T, h, D]`."""
    out = q.new_zeros((len(q), right.num_heads, right.value_dim))
    lse = torch.full(out.shape[:2], -math.inf)
    group = right.num_heads // right.num_kv_heads
    for sequence in right.sequences:
        k_part, v_part = (x[sequence.keys].float().transpose(0, 1).contiguous() for x in (k, v))
        for start in range(sequence.queries.start, sequence.queries.stop, BLOCK_QUERIES):
            rows = slice(start, min(start + BLOCK_QUERIES, sequence.queries.stop))
            tokens = torch.arange(rows.start, rows.stop)
            hidden, keys = hidden_keys(right, tokens, sequence)
            if keys.start == keys.stop:
                continue
            bias = _bias(right, sequence, tokens, hidden, keys)
            first = _first_column(bias)
            for head in range(right.num_heads):
                kv = head // group
                scores = (q[rows, head].float() * right.scale) @ k_part[kv, keys].T
                if right.softcap is not None:
                    scores.div_(right.softcap).tanh_().mul_(right.softcap)
                scores[:, first:] += bias[min(head, len(bias) - 1), :, first:]
                sink = None if right.sinks is None else right.sinks[head]
                out[rows, head], lse[rows, head] = _softmax(scores, v_part[kv, keys], sink, out)
    return out, lse


def _of_few(right: AttentionCall, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Return out `[Tq, H, Dv]` and log-sum-exp `[Tq, H]` where each sequence has few queries."""
    out = q.new_zeros((len(q), right.num_heads, right.value_dim))
    lse = torch.full(out.shape[:2], -math.inf)
    for sequence in right.sequences:
        tokens = torch.arange(sequence.queries.start, sequence.queries.stop)
        hidden, keys = hidden_keys(right, tokens, sequence)
        if keys.start == keys.stop:
            continue
        k_part, v_part = (torch.split(x[sequence.keys][keys], BLOCK_KEYS) for x in (k, v))
        heads = q[tokens].float().transpose(0, 1) * right.scale  # [H, n, D]
        groups = heads.reshape(right.num_kv_heads, -1, right.head_dim)  # of each kv head
        scores = torch.cat([groups @ block.permute(1, 2, 0) for block in _float32(k_part)], -1)
        scores = scores.view(right.num_heads, len(tokens), -1)
        if right.softcap is not None:
            scores.div_(right.softcap).tanh_().mul_(right.softcap)
        scores += _bias(right, sequence, tokens, hidden, keys)
        weights, total, top = _weights(scores, right.sinks)
        weights = weights.view(right.num_kv_heads, -1, weights.shape[-1])
        sums = groups.new_zeros((*groups.shape[:2], right.value_dim))
        for some, block in zip(torch.split(weights, BLOCK_KEYS, -1), _float32(v_part), strict=True):
            sums.baddbmm_(some, block.transpose(0, 1))
        sums = sums.view(right.num_heads, len(tokens), -1)
        sums /= total.masked_fill(total == 0, 1)[..., None]
        out[tokens], lse[tokens] = sums.transpose(0, 1).to(out.dtype), (total.log() + top).T
    return out, lse


def _are_finite(inputs: tuple[Tensor, ...], is_few: bool) -> bool:
    """Return whether numbers are finite: the sums of very many, which are read once."""
    if is_few:
        return all(math.isfinite(float(x.sum(dtype=torch.float32))) for x in inputs)
    return all(bool(x.isfinite().all()) for x in inputs)


def _float32(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield blocks in float32, those of half precision in the same memory."""
    buffer = torch.empty(0)
    for block in blocks:
        if block.dtype == torch.float32:
            yield block
            continue
        if len(buffer) < len(block):
            buffer = torch.empty(block.shape)
        yield buffer[: len(block)].copy_(block)


def _bias(
    right: AttentionCall, sequence: Sequence, tokens: Tensor, hidden: Tensor, keys: slice
) -> Tensor:
    """Return what is added to the scores of keys, `[1 or H, n, keys]`: -inf if they are hidden."""
    bias = torch.zeros(hidden.shape).masked_fill_(hidden, -math.inf)[None]
    if right.mask is None:
        return bias
    heads = torch.arange(right.num_heads)
    of_mask = mask_bias(right.mask, sequence, tokens - sequence.queries.start, heads)
    of_mask = of_mask if of_mask.shape[-1] == 1 else of_mask[..., keys]
    return (bias + of_mask.float()).expand(-1, *hidden.shape)


def _first_column(bias: Tensor) -> int:
    """Return the first key with a bias that is not 0, `[1 or H, n, keys]`."""
    columns = (bias != 0).any(1).any(0).nonzero()
    return int(columns[0]) if len(columns) else bias.shape[-1]


def _softmax(scores: Tensor, v: Tensor, sink: Tensor | None, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax(scores) @ v in the dtype of `out`, and the log-sum-exp; overwrite scores."""
    weights, total, top = _weights(scores, sink)
    sums = (weights @ v) / total.masked_fill(total == 0, 1)[:, None]
    return sums.to(out.dtype), total.log() + top


def _weights(scores: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return exp(scores - top), their sums with those of sinks, and top; overwrite scores.

    Sinks are those of the heads `[H]` of scores `[H, n, keys]`, or one of scores `[n, keys]`.
    """
    top = scores.amax(-1)
    if sinks is not None:
        sinks = sinks.float()[..., None]
        top = top.maximum(sinks)
    top.masked_fill_(top == -math.inf, 0)
    total = scores.sub_(top[..., None]).exp_().sum(-1)
    if sinks is not None:
        total += (sinks - top).exp()
    return scores, total, top
