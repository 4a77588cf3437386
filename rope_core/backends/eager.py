"""Plain PyTorch, in float32: runs everything; what the other backends are tested against."""

import torch
from torch import Tensor

from rope_core.backends.rotation import rotate
from rope_core.backends.work import FAR, Attention, Rotation, Work

name = "eager"

SCORE_ELEMENTS = 2**24
"""Scores that exist at a time; 64 MiB in float32."""


def why_not(work: Work) -> None:
    """Nothing stands against it."""


def run(work: Work) -> tuple[Tensor, ...]:
    """Do `work`."""
    if isinstance(work, Rotation):
        rotate(work)
        return (work.out,)
    q, k, v = work.q, work.k, work.v
    out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    mask = work.mask
    if work.spans is None:
        for row in range(len(q)):
            seen = None if mask is None else mask[row]
            _attend(work, q[row], k[row], v[row], seen, out[row], lse[row])
    else:
        for queries, keys in work.spans:
            seen = None if mask is None else mask[0, :, queries, keys]
            _attend(work, q[queries], k[keys], v[keys], seen, out[queries], lse[queries])
    return out, lse


def _attend(
    work: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor, lse: Tensor
) -> None:
    """Attend from q `[Sq, H, D]` to k and v `[Sk, Hkv, D]` into `out` and `lse`, chunk by chunk."""
    for i, j in work.chunks(len(q), len(k)):
        seen = None if mask is None else mask[:, i, j]
        _attend_in_chunk(work, q[i], k[j], v[j], seen, out[i], lse[i])


def _attend_in_chunk(
    work: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, out: Tensor, lse: Tensor
) -> None:
    """Attend within one chunk, from some of q at a time."""
    k, v = (t.float().transpose(0, 1)[:, None] for t in (k, v))  # [Hkv, 1, Sk, D]
    num_kv_heads, _, num_keys, head_dim = k.shape
    num_queries, num_heads = q.shape[:2]
    sinks = None if work.sinks is None else work.sinks.float().view(num_kv_heads, -1, 1)
    step = max(1, SCORE_ELEMENTS // (num_heads * max(1, num_keys)))
    for start in range(0, num_queries, step):
        rows = range(start, min(start + step, num_queries))
        part = slice(rows.start, rows.stop)
        some = q[part].float().reshape(len(rows), num_kv_heads, -1, head_dim).movedim(0, 2)
        scores = some @ k.mT * work.scale  # [Hkv, G, n, Sk]
        if work.config.softcap is not None:
            scores = (scores / work.config.softcap).tanh_() * work.config.softcap
        hidden = _hidden(rows, num_queries, num_keys, work)
        if mask is not None:
            hidden = _put_mask(mask[:, part], scores, hidden)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        found, found_lse = _softmax_times(scores, v, hidden, sinks)
        out[part] = found.movedim(2, 0).flatten(1, 2)
        lse[part] = found_lse.movedim(2, 0).flatten(1, 2)


def _hidden(rows: range, num_queries: int, num_keys: int, work: Attention) -> Tensor | None:
    """Return which keys `[n, Sk]` are out of the queries' reach; None where none is."""
    behind, ahead = work.reach
    if ahead == FAR:
        return None
    device = work.q.device
    place = torch.arange(rows.start, rows.stop, device=device) + num_keys - num_queries
    distance = place[:, None] - torch.arange(num_keys, device=device)
    hidden = distance < -ahead
    return hidden if behind == FAR else hidden | (distance > behind)


def _put_mask(mask: Tensor, scores: Tensor, hidden: Tensor | None) -> Tensor:
    """Add a mask `[1 or H, n, Sk]` of numbers to `scores`; return which keys any mask hides."""
    groups = (1, 1) if len(mask) == 1 else scores.shape[:2]
    mask = mask.view(*groups, *mask.shape[1:])
    if mask.dtype is torch.bool:
        unseen = ~mask
    else:
        scores.add_(mask)
        unseen = mask == -torch.inf
    return unseen if hidden is None else unseen | hidden


def _softmax_times(
    scores: Tensor, v: Tensor, hidden: Tensor | None, sinks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax(scores) @ v, 0 where all scores are -inf, and their log-sum-exp.

    A sink `[Hkv, G, 1]` is one score more, of a value of 0.
    """
    if not scores.shape[-1]:
        lse = scores.new_full(scores.shape[:-1], -torch.inf)
        out = lse.new_zeros((*lse.shape, v.shape[-1]))
        return out, lse if sinks is None else lse.maximum(sinks)
    top = scores.amax(-1)  # [Hkv, G, n]
    if sinks is not None:
        top = top.maximum(sinks)
    top.masked_fill_(top == -torch.inf, 0)
    weights = scores.sub_(top[..., None]).exp_()
    total = weights.sum(-1)
    if sinks is not None:
        total += (sinks - top).exp()
    # not by the rounded lse: where scores are all as low as floats go, it is each one of them
    share = total.masked_fill(total == 0, 1)[..., None]
    out = weights @ v / share
    finite = v.isfinite()
    if hidden is not None and not bool(finite.all()):
        # 0 * NaN is NaN: what no visible key brought in is computed again without it
        brought = (~hidden).float() @ (~finite).float() > 0  # [Hkv, 1 or G, n, Dv]
        out = torch.where(brought, out, weights @ v.masked_fill(~finite, 0) / share)
    return out, total.log() + top
