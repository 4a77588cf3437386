"""Attention as a port computes it, in float64."""

from dataclasses import dataclass

import numpy as np

from tests.diagnosis_oracle.rope import Array, Rope

LEAST = -1e30
"""Score of a hidden key."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Port:
    """What the code of a port does between q, k, v and the output."""

    q: Rope
    k: Rope
    rotates_v: bool = False
    scale: float
    causal: str | None = "bottom_right"
    """bottom_right, top_left, or None."""

    window: int | None = None
    ahead: int | None = None
    """How many later keys a window shows; None without a limit."""

    chunk: int | None = None
    softcap: float | None = None
    sinks: Array | None = None
    mask: Array | None = None
    tiled: bool = False
    lse_base_2: bool = False
    lse_counts_sinks: bool = True
    lse_shift: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """Tensors of a call, `[B, S, H, D]`, and positions `[A, B, S]`."""

    q: Array
    k: Array
    v: Array
    q_positions: Array
    k_positions: Array
    sequence_lengths: tuple[int, ...] | None = None
    """Of packed sequences in one row."""


def attend(port: Port, given: Inputs) -> dict[str, Array]:
    """Return `out` `[B, Sq, H, Dv]` and `lse` `[B, Sq, H]`."""
    last = max(given.q_positions.max(), given.k_positions.max())
    q = _rotated(port.q, given.q, given.q_positions, int(last) + 1)
    k = _rotated(port.k, given.k, given.k_positions, int(last) + 1)
    v = given.v
    if port.rotates_v:
        v = _rotated(port.k, v, given.k_positions, int(last) + 1)
    group = q.shape[2] // k.shape[2]
    read = np.arange(q.shape[2])
    read = read % k.shape[2] if port.tiled else read // group
    k, v = k[:, :, read], v[:, :, read]
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) * port.scale
    if port.softcap is not None:
        scores = port.softcap * np.tanh(scores / port.softcap)
    if port.mask is not None:
        mask = port.mask
        scores = np.where(mask, scores, LEAST) if mask.dtype == bool else scores + mask
    scores = np.where(_visible(port, given), scores, LEAST)
    top = scores.max(-1, keepdims=True)
    if port.sinks is not None:
        top = np.maximum(top, port.sinks[None, :, None, None])
    weights = np.where(scores > LEAST / 2, np.exp(scores - top), 0.0)
    total = keys = weights.sum(-1, keepdims=True)
    if port.sinks is not None:
        total = keys + np.exp(port.sinks[None, :, None, None] - top)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.einsum("bhqk,bkhd->bqhd", weights / np.where(total > 0, total, 1.0), v)
        lse = np.log(total if port.lse_counts_sinks else keys) + top
    lse = lse[..., 0].transpose(0, 2, 1) + port.lse_shift
    return {"out": out, "lse": lse / np.log(2) if port.lse_base_2 else lse}


def _rotated(rope: Rope, x: Array, positions: Array, length: int) -> Array:
    if rope.times == 0:
        return x
    return rope.rotate(x.astype(rope.arithmetic), positions, length=length).astype(np.float64)


def _visible(port: Port, given: Inputs) -> Array:
    """Return which keys a query sees, `[Sq, Sk]`."""
    queries, keys = given.q.shape[1], given.k.shape[1]
    if given.sequence_lengths is None:
        return _visible_in_sequence(port, queries, keys)
    seen = np.zeros((queries, keys), bool)
    start = 0
    for length in given.sequence_lengths:
        part = slice(start, start + length)
        seen[part, part] = _visible_in_sequence(port, length, length)
        start += length
    return seen


def _visible_in_sequence(port: Port, queries: int, keys: int) -> Array:
    j = np.arange(keys)[None]
    aligned = np.arange(queries)[:, None] + keys - queries
    i = np.arange(queries)[:, None] if port.causal == "top_left" else aligned
    seen = np.ones((queries, keys), bool)
    if port.causal:
        seen &= j <= i
    if port.window is not None:
        seen &= i - j < port.window
        if port.ahead is not None:
            seen &= j - i <= port.ahead
    if port.chunk is not None:
        seen &= i // port.chunk == j // port.chunk
    return seen


def tolerance_of(dtype: str) -> float:
    """Return the relative error that is certainly no difference, of attention."""
    return {"float32": 1e-4, "bfloat16": 4e-2, "float16": 6e-3}[dtype]
