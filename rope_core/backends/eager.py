"""Plain PyTorch, in float32: runs every work; the reference of the tests of other backends."""

from functools import reduce

import torch
from torch import Tensor

from rope_core.backends.eager_rotary import rotary_operator
from rope_core.backends.work import (
    UNBOUNDED,
    AttentionWork,
    FusedRotaryWork,
    MergeWork,
    RotaryWork,
    Work,
)

name = "eager"

SCORE_ELEMENTS = 2**20
"""Scores in memory at a time on the CPU: 4 MiB in float32, which fit into its caches."""

DEVICE_SCORES = 2**26
"""Scores in memory at a time on a device: 256 MiB in float32, for few launches."""

DOT_WIDTH = 128
"""Channels that one product sums. The BLAS library adds the channels of a small product one by one,
and the rounding error grows with their number: 2e-6 at 512 channels, 7e-6 at 2,048. Sums of shorter
products keep the error of a score below 1e-6 at every head width."""


def why_not(work: Work, *, named: bool = False) -> None:
    """Return None: this backend runs every work."""


def run(work: Work) -> tuple[Tensor, ...]:
    """Run `work`."""
    if isinstance(work, FusedRotaryWork):
        work = work.with_tables()
    if isinstance(work, RotaryWork):
        rotary_operator(work)(work)
        return work.outs
    if isinstance(work, MergeWork):
        return _merge(work)
    out, lse = work.empty_outputs()
    mask, index = work.mask, work.index
    slices = work.seq_slices
    for i, j in [(row, row) for row in range(len(work.q))] if slices is None else slices:
        seq_mask = seq_index = None
        if mask is not None:
            seq_mask = mask[i] if slices is None else mask[0, :, i, j]
        if index is not None:
            seq_index = index[0][i], index[1][j]
        attend(work, work.q[i], work.k[j], work.v[j], seq_mask, seq_index, out[i], lse[i])
    return out, lse


def _merge(work: MergeWork) -> tuple[Tensor, Tensor]:
    """Return the sum of the parts, weighted by exp(lse of the part - lse of all)."""
    lse = work.lse.logsumexp(0)
    weights = (work.lse - lse.masked_fill(lse == -torch.inf, 0)).exp()[..., None]  # [N, ..., 1]
    parts = work.out.float().masked_fill(weights == 0, 0)  # 0 * NaN would be NaN
    return (parts * weights).sum(0).to(work.out.dtype), lse


def attend(
    work: AttentionWork,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    index: tuple[Tensor, Tensor] | None,
    out: Tensor,
    lse: Tensor,
) -> None:
    """Attend within one sequence, chunk by chunk.

    Args:
        work: the config, the scale and the sinks.
        q: `[Sq, H, D]`.
        k: `[Sk, Hkv, D]`.
        v: `[Sk, Hkv, Dv]`.
        mask: `[1 or H, Sq, Sk]`.
        index: of queries `[Sq]` and of keys `[Sk]`.
        out: `[Sq, H, Dv]`, written.
        lse: float32 `[Sq, H]`, written.
    """
    num_queries, num_heads, head_dim = q.shape
    num_keys, num_kv_heads = k.shape[:2]
    slices = [(slice(0, num_queries), slice(0, num_keys))]
    if index is None:
        # a call may have as many chunks as tokens: on a device, attend to all chunks in one pass
        slices = work.chunk_slices(num_queries, num_keys) if q.is_cpu else slices
        k_index = torch.arange(num_keys, device=q.device)
        index = torch.arange(num_keys - num_queries, num_keys, device=q.device), k_index
    sinks = None if work.sinks is None else work.sinks.float().view(num_kv_heads, -1, 1)
    elements = SCORE_ELEMENTS if q.is_cpu else DEVICE_SCORES
    for queries, keys in slices:
        k_part, v_part = (t[keys].float().transpose(0, 1)[:, None] for t in (k, v))
        step = max(1, elements // (num_heads * max(1, keys.stop - keys.start)))
        for start in range(queries.start, queries.stop, step):
            rows = slice(start, min(start + step, queries.stop))
            q_part = q[rows].float().reshape(rows.stop - start, num_kv_heads, -1, head_dim)
            scores = _scores(q_part.movedim(0, 2), k_part).mul_(work.scale)  # [Hkv, G, n, Sk]
            if work.config.softcap is not None:
                scores = (scores / work.config.softcap).tanh_() * work.config.softcap
            hidden = hidden_by_index(index[0][rows, None], index[1][keys], work)
            if mask is not None:
                hidden = _apply_mask(mask[:, rows, keys], scores, hidden)
            if hidden is not None:
                scores.masked_fill_(hidden, -torch.inf)
            out_part, lse_part = _softmax_times(scores, v_part, hidden, sinks)
            out[rows] = out_part.movedim(2, 0).flatten(1, 2)
            lse[rows] = lse_part.movedim(2, 0).flatten(1, 2)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Return q @ k.mT, `[Hkv, G, n, Sk]`, of q `[Hkv, G, n, D]` and k `[Hkv, 1, Sk, D]`.

    The heads of a group are rows of one product, so that k is not copied for each of them.
    """
    q_parts = torch.split(q.flatten(1, 2), DOT_WIDTH, -1)
    k_parts = torch.split(k[:, 0], DOT_WIDTH, -1)
    scores = torch.bmm(q_parts[0], k_parts[0].mT)
    for q_part, k_part in zip(q_parts[1:], k_parts[1:], strict=True):
        scores.baddbmm_(q_part, k_part.mT)
    return scores.view(*q.shape[:3], -1)


def _weighted_sum(weights: Tensor, v: Tensor) -> Tensor:
    """Return weights @ v, `[Hkv, G, n, Dv]`, of weights `[Hkv, G, n, Sk]` and v `[Hkv, 1, Sk, Dv]`.

    The heads of a group are rows of one product, so that v is not copied for each of them.
    """
    return torch.bmm(weights.flatten(1, 2), v[:, 0]).view(*weights.shape[:3], -1)


def hidden_by_index(q_index: Tensor, k_index: Tensor, work: AttentionWork) -> Tensor | None:
    """Return which keys `[Sk]` queries `[n, 1]` do not see, bool `[n, Sk]`, or None."""
    (left, right), chunk = work.window_size, work.config.chunk
    distance = q_index - k_index
    hidden = [] if right == UNBOUNDED else [distance < -right]
    if left != UNBOUNDED:
        hidden.append(distance > left)
    if chunk is not None:
        q_chunk, k_chunk = (t.div(chunk, rounding_mode="floor") for t in (q_index, k_index))
        hidden.append(q_chunk != k_chunk)
    return reduce(torch.bitwise_or, hidden) if hidden else None


def _apply_mask(mask: Tensor, scores: Tensor, hidden: Tensor | None) -> Tensor:
    """Add a mask `[1 or H, n, Sk]` of numbers to `scores`; return which keys are hidden."""
    groups = (1, 1) if len(mask) == 1 else scores.shape[:2]
    mask = mask.view(*groups, *mask.shape[1:])
    if mask.dtype is torch.bool:
        masked = ~mask
    else:
        scores.add_(mask)
        masked = mask == -torch.inf
    return masked if hidden is None else masked | hidden


def _softmax_times(
    scores: Tensor, v: Tensor, hidden: Tensor | None, sinks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return softmax(scores) @ v and the log-sum-exp of scores; 0 and -inf if all are -inf.

    Args:
        scores: `[Hkv, G, n, Sk]`, overwritten.
        v: `[Hkv, 1, Sk, Dv]`.
        hidden: bool `[n, Sk]` or `[Hkv, G, n, Sk]`, broadcast: which scores are -inf.
        sinks: `[Hkv, G, 1]`: one more score with a value of 0.

    Returns:
        `[Hkv, G, n, Dv]` and `[Hkv, G, n]`.
    """
    if not scores.shape[-1]:
        lse = scores.new_full(scores.shape[:-1], -torch.inf)
        out = lse.new_zeros((*lse.shape, v.shape[-1]))
        return out, lse if sinks is None else lse.maximum(sinks)
    m_i = scores.amax(-1)  # [Hkv, G, n]: the names of FlashAttention
    if sinks is not None:
        m_i = m_i.maximum(sinks)
    m_i.masked_fill_(m_i == -torch.inf, 0)
    weights = scores.sub_(m_i[..., None]).exp_()
    l_i = weights.sum(-1)
    if sinks is not None:
        l_i += (sinks - m_i).exp()
    # divide by the sum: exp(-lse) is off by the rounding of lse if scores are near the lowest float
    divisor = l_i.masked_fill(l_i == 0, 1)[..., None]
    out = _weighted_sum(weights, v) / divisor
    lse = l_i.log() + m_i
    if hidden is None:
        return out, lse
    finite = v.isfinite()
    if not v.is_cpu or not bool(finite.all()):  # no read of a device, which would wait for it
        # 0 * NaN is NaN: outs that no visible key made NaN are computed without NaN
        visible_nan = (~hidden).float() @ (~finite).float() > 0  # [Hkv, 1 or G, n, Dv]
        finite_out = _weighted_sum(weights, v.masked_fill(~finite, 0)) / divisor
        out = torch.where(visible_nan, out, finite_out)
    return out, lse
