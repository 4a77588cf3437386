"""Attention of one row over a list of tokens, everything rotated afresh, in float64."""

import numpy as np

from tests.kvcache_oracle.configurations import Array, Group


def visible(group: Group, q_index: Array, k_index: Array) -> Array:
    """Return which keys each query sees by index, `[n, m]`."""
    ahead = q_index[:, None] - k_index[None]
    seen = np.ones(ahead.shape, dtype=bool)
    if group.causal:
        seen &= ahead >= 0
    if group.window is not None:
        seen &= (ahead >= 0) & (ahead < group.window)
    if group.chunk is not None:
        seen &= q_index[:, None] // group.chunk == k_index[None] // group.chunk
    return seen


def attend(
    group: Group,
    q: Array,
    q_positions: Array,
    keys: Array,
    k_positions: Array,
    values: Array,
    seen: Array,
) -> tuple[Array, Array]:
    """Return `out [n, H, Dv]` and `lse [n, H]` of q `[n, H, D]` over keys `[m, Hkv, D]`.

    Positions are `[n, A]` and `[m, A]`, neither q nor keys are rotated.
    """
    if group.rope:
        q = group.rope.rotate(q, q_positions)
        keys = group.rope.rotate(keys, k_positions)
    share = group.heads // group.kv_heads
    keys, values = np.repeat(keys, share, axis=1), np.repeat(values, share, axis=1)
    scale = group.head_dim**-0.5 if group.scale is None else group.scale
    scores = np.einsum("nhd,mhd->hnm", q, keys) * scale
    if group.softcap is not None:
        scores = group.softcap * np.tanh(scores / group.softcap)
    scores = np.where(seen[None], scores, -np.inf)
    sinks = np.full(group.heads, -np.inf) if group.sinks is None else np.array(group.sinks)
    sink = np.broadcast_to(sinks[:, None, None], (*scores.shape[:2], 1))
    scores = np.concatenate([scores, sink], axis=-1)
    highest = scores.max(axis=-1, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    weights = np.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = np.log(total) + highest
    shares = weights[..., :-1] / np.where(total == 0, 1.0, total)
    out = np.einsum("hnm,mhd->nhd", shares, values)
    return out, lse[..., 0].T
