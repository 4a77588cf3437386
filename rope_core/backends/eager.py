"""Plain PyTorch, in float32: runs everything; what the other backends are tested against."""

import torch
from torch import Tensor

from rope_core.backends.rotation import rotate
from rope_core.backends.work import UNBOUNDED, Attention, Merging, Rotation, Turning, Work

name = "eager"

SCORE_ELEMENTS = 2**24
"""Scores in memory at a time on the CPU: 64 MiB in float32."""

DEVICE_SCORES = 2**26
"""Scores in memory at a time on a device: 256 MiB in float32, for few launches."""

DOT_WIDTH = 128
"""Channels that one product sums. The BLAS library adds the channels of a small product one by one,
and the rounding error grows with their number: 2e-6 at 512 channels, 7e-6 at 2,048. Shorter sums
that are added up keep the error of a score below 1e-6 at every head width."""


def why_not(work: Work, *, named: bool = False) -> None:
    """Nothing stands against it."""


def run(work: Work) -> tuple[Tensor, ...]:
    """Do `work`."""
    if isinstance(work, Turning):
        work = work.with_angles()
    if isinstance(work, Rotation):
        rotate(work)
        return work.outs
    if isinstance(work, Merging):
        return _merge(work)
    q, k, v = work.q, work.k, work.v
    out, lse = work.new_out()
    mask, spans = work.mask, work.seq_slices
    if spans is None:
        for row in range(len(q)):
            seen = None if mask is None else mask[row]
            index = None if work.index is None else (work.index[0][row], work.index[1][row])
            attend(work, q[row], k[row], v[row], seen, index, out[row], lse[row])
    else:
        for i, j in spans:
            seen = None if mask is None else mask[0, :, i, j]
            index = None if work.index is None else (work.index[0][i], work.index[1][j])
            attend(work, q[i], k[j], v[j], seen, index, out[i], lse[i])
    return out, lse


def _merge(work: Merging) -> tuple[Tensor, Tensor]:
    """Weigh each part by exp(lse of the part - lse of all)."""
    lse = work.lse.logsumexp(0)
    share = (work.lse - lse.masked_fill(lse == -torch.inf, 0)).exp()[..., None]
    parts = work.out.float().masked_fill(share == 0, 0)  # 0 * NaN would be NaN
    return (parts * share).sum(0).to(work.out.dtype), lse


def attend(
    work: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    index: tuple[Tensor, Tensor] | None,
    out: Tensor,
    lse: Tensor,
) -> None:
    """Attend from q `[Sq, H, D]` to k and v `[Sk, Hkv, D]` into `out` and `lse`, chunk by chunk."""
    if index is None and work.config.chunk is not None and not q.is_cpu:
        # a call may have as many chunks as tokens: on a device, attend to all chunks in one pass
        index = (
            torch.arange(len(k) - len(q), len(k), device=q.device),
            torch.arange(len(k), device=q.device),
        )
    if index is not None:
        _attend_in_chunk(work, q, k, v, mask, index, out, lse)
        return
    for i, j in work.chunks(len(q), len(k)):
        seen = None if mask is None else mask[:, i, j]
        _attend_in_chunk(work, q[i], k[j], v[j], seen, None, out[i], lse[i])


def _attend_in_chunk(
    work: Attention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    index: tuple[Tensor, Tensor] | None,
    out: Tensor,
    lse: Tensor,
) -> None:
    """Attend within one chunk, or over all keys where they have an index, some of q at a time."""
    k, v = (t.float().transpose(0, 1)[:, None] for t in (k, v))  # [Hkv, 1, Sk, D]
    num_kv_heads, _, num_keys, head_dim = k.shape
    num_queries, num_heads = q.shape[:2]
    sinks = None if work.sinks is None else work.sinks.float().view(num_kv_heads, -1, 1)
    elements = SCORE_ELEMENTS if q.is_cpu else DEVICE_SCORES
    step = max(1, elements // (num_heads * max(1, num_keys)))
    for start in range(0, num_queries, step):
        rows = range(start, min(start + step, num_queries))
        part = slice(rows.start, rows.stop)
        some = q[part].float().reshape(len(rows), num_kv_heads, -1, head_dim).movedim(0, 2)
        scores = _scores(some, k).mul_(work.scale)  # [Hkv, G, n, Sk]
        if work.config.softcap is not None:
            scores = (scores / work.config.softcap).tanh_() * work.config.softcap
        if index is None:
            hidden = _hidden(rows, num_queries, num_keys, work)
        else:
            hidden = hidden_by_index(index[0][part, None], index[1], work)
        if mask is not None:
            hidden = _put_mask(mask[:, part], scores, hidden)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        found, found_lse = _softmax_times(scores, v, hidden, sinks)
        out[part] = found.movedim(2, 0).flatten(1, 2)
        lse[part] = found_lse.movedim(2, 0).flatten(1, 2)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Return q @ k.mT, `[Hkv, G, n, Sk]`, of q `[Hkv, G, n, D]` and k `[Hkv, 1, Sk, D]`.

    The heads of a group are rows of one product, so that k is not copied for each of them.
    """
    rows, keys = torch.split(q.flatten(1, 2), DOT_WIDTH, -1), torch.split(k[:, 0], DOT_WIDTH, -1)
    scores = torch.bmm(rows[0], keys[0].mT)
    for part_q, part_k in zip(rows[1:], keys[1:], strict=True):
        scores.baddbmm_(part_q, part_k.mT)
    return scores.view(*q.shape[:3], -1)


def _weighted_sum(weights: Tensor, v: Tensor) -> Tensor:
    """Return weights @ v, `[Hkv, G, n, Dv]`, of weights `[Hkv, G, n, Sk]` and v `[Hkv, 1, Sk, Dv]`.

    The heads of a group are rows of one product, so that v is not copied for each of them.
    """
    return torch.bmm(weights.flatten(1, 2), v[:, 0]).view(*weights.shape[:3], -1)


def _hidden(rows: range, num_queries: int, num_keys: int, work: Attention) -> Tensor | None:
    """Return which keys `[n, Sk]` are out of the queries' reach; None where none is."""
    behind, ahead = work.window_size
    if ahead == UNBOUNDED:
        return None
    device = work.q.device
    place = torch.arange(rows.start, rows.stop, device=device) + num_keys - num_queries
    distance = place[:, None] - torch.arange(num_keys, device=device)
    hidden = distance < -ahead
    return hidden if behind == UNBOUNDED else hidden | (distance > behind)


def hidden_by_index(i: Tensor, j: Tensor, work: Attention) -> Tensor | None:
    """Return which keys of index `[Sk]` are out of the reach of queries of index `[n, 1]`."""
    behind, ahead = work.window_size
    distance, chunk = i - j, work.config.chunk
    hidden = (
        None
        if chunk is None
        else i.div(chunk, rounding_mode="floor") != j.div(chunk, rounding_mode="floor")
    )
    for far in (
        None if ahead == UNBOUNDED else distance < -ahead,
        None if behind == UNBOUNDED else distance > behind,
    ):
        if far is not None:
            hidden = far if hidden is None else hidden | far
    return hidden


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
    out = _weighted_sum(weights, v) / share
    if hidden is None:
        return out, total.log() + top
    finite = v.isfinite()
    if not v.is_cpu or not bool(finite.all()):  # a device never makes the host wait
        # 0 * NaN is NaN: what no visible key brought in is computed again without it
        brought = (~hidden).float() @ (~finite).float() > 0  # [Hkv, 1 or G, n, Dv]
        out = torch.where(brought, out, _weighted_sum(weights, v.masked_fill(~finite, 0)) / share)
    return out, total.log() + top
