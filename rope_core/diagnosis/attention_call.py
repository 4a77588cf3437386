"""Attention as some code computes it: the right one, and those with mistakes."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rope_core.angles import has_axes
from rope_core.calls import Attend
from rope_core.config import RopeConfig
from rope_core.diagnosis.calls import RotaryCall
from rope_core.ragged import token_positions


@dataclass(frozen=True, slots=True)
class Sequence:
    """Tokens that attend among themselves: a row of a batch, or a packed sequence."""

    row: int
    """Of the mask."""

    queries: slice
    keys: slice
    """Tokens of all rows, one row after the other."""

    mask_queries: slice
    mask_keys: slice
    """Rows and columns of the mask."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionCall:
    """Attention as some code computes it.

    A mistake changes fields of the right call with `dataclasses.replace`. Tokens of all rows of a
    batch follow each other: T is B * S.
    """

    rope: RopeConfig | None
    """Of the model; None if the layer does not rotate."""

    q: RotaryCall | None
    """The rotation of the queries; None if they stay as they are."""

    k: RotaryCall | None
    v: RotaryCall | None
    rotates_back: bool
    """Whether the output is rotated back at the position of its query."""

    frequencies: Tensor | None
    """Learned frequencies of the call."""

    scale: float
    causal: bool
    window: int | None
    """A query sees no key that is `window` or more before it."""

    window_ahead: int | None
    """A query sees at most that many later keys; None without a limit of its own."""

    chunk: int | None
    softcap: float | None
    sinks: Tensor | None
    mask: Tensor | None
    q_index: Tensor
    """int64 `[Tq]`: index of each query in its sequence."""

    q_index_from_zero: Tensor
    """int64 `[Tq]`: index of each query, counted from 0 in its sequence."""

    k_index: Tensor
    sequences: tuple[Sequence, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    has_lse: bool
    """Whether the evidence has the log-sum-exp."""

    tiled: bool = False
    """Query head h reads kv head h mod Hkv."""

    lse_base: float = math.e
    lse_shift: float = 0.0
    lse_counts_sinks: bool = True


@dataclass(frozen=True, slots=True)
class Fitted:
    """A number that fits the evidence."""

    value: float
    is_odd: bool
    """Whether it is no plain number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionClues:
    """What fits the evidence best if all else is as a call has it; None: no value fits better."""

    scale: Fitted | None = None
    softcap: Fitted | None = None
    lse_shift: Fitted | None = None
    mscale: float | None = None
    """The factor that the config's YaRN adds to the softmax scale."""


def right_call(call: Attend, has_lse: bool, silent: RopeConfig | None = None) -> AttentionCall:
    """Return what `call` computes.

    Args:
        call: the call.
        has_lse: whether the evidence has the log-sum-exp.
        silent: the rope of other layers, if this layer does not rotate.
    """
    config, rope = call.attention, call.rope
    two_sided = config.window is not None and not config.causal
    q = k = v = None
    if rope is not None:
        if call.rotate != "k":
            q = _rotation(call.q, call.q_positions, call.cu_seqlens_q, rope)
        if call.rotate != "q":
            k = _rotation(call.k, call.k_positions, call.cu_seqlens_k, rope)
        v = None if rope.values == "kept" else k
    elif silent is not None:
        q = replace(_rotation(call.q, call.q_positions, call.cu_seqlens_q, silent), times=0)
        k = replace(_rotation(call.k, call.k_positions, call.cu_seqlens_k, silent), times=0)
    sequences = _sequences(call)
    return AttentionCall(
        rope=rope,
        q=q,
        k=k,
        v=v,
        rotates_back=rope is not None and rope.values == "and_back" and q is not None,
        frequencies=call.frequencies,
        scale=call.q.shape[-1] ** -0.5 if config.scale is None else config.scale,
        causal=config.causal,
        window=config.window,
        window_ahead=config.window_ahead if two_sided else None,
        chunk=config.chunk,
        softcap=config.softcap,
        sinks=call.sinks,
        mask=call.mask,
        q_index=_query_index(call, sequences),
        q_index_from_zero=_from_zero(call, sequences),
        k_index=_index(call.k, call.k_index, call.cu_seqlens_k),
        sequences=sequences,
        num_heads=call.q.shape[-2],
        num_kv_heads=call.k.shape[-2],
        head_dim=call.q.shape[-1],
        value_dim=call.v.shape[-1],
        has_lse=has_lse,
    )


def angles_rms(call: AttentionCall) -> float:
    """Return the root mean square of the angles of queries and keys, in radians; about, of axes."""
    squares = [0.0]
    for rotation in (call.q, call.k):
        if rotation is not None and rotation.positions.numel():
            inv_freq = rotation.rope.frequency_table.inv_freq.double()
            means = rotation.positions.square().mean() * inv_freq.square().mean()
            squares.append(float(means))
    return math.sqrt(max(squares))


def is_float32(call: AttentionCall) -> bool:
    """Return whether angles are computed in float32."""
    return any(
        rotation is not None and rotation.rope.arithmetic == "hf" for rotation in (call.q, call.k)
    )


def in_float64(call: AttentionCall) -> AttentionCall:
    """Return the call with angles in float64."""
    sides: dict[str, Any] = {
        name: replace(rotation, rope=replace(rotation.rope, arithmetic="float64"))
        for name, rotation in (("q", call.q), ("k", call.k), ("v", call.v))
        if rotation is not None
    }
    return replace(call, **sides)


def _rotation(
    x: Tensor, positions: Tensor | None, cu_seqlens: Tensor | None, rope: RopeConfig
) -> RotaryCall:
    flat = token_positions(x, positions, cu_seqlens, has_axes(x, positions, rope)).double()
    return RotaryCall(
        rope=rope,
        positions=flat.expand(rope.num_axes, -1) if flat.ndim == 1 else flat,
        shape=(len(x) if x.ndim == 4 else 1, x.shape[-3], x.shape[-2]),
    )


def _sequences(call: Attend) -> tuple[Sequence, ...]:
    q, k = call.q, call.k
    if call.lengths is None:
        rows, num_queries, num_keys = len(q) if q.ndim == 4 else 1, q.shape[-3], k.shape[-3]
        lengths = [num_queries] * rows, [num_keys] * rows
    else:
        lengths = list(call.lengths[0]), list(call.lengths[1])
    sequences, first_query, first_key = [], 0, 0
    for row, (num_queries, num_keys) in enumerate(zip(*lengths, strict=True)):
        queries = slice(first_query, first_query + num_queries)
        keys = slice(first_key, first_key + num_keys)
        if call.lengths is None:
            of_mask = row, slice(0, num_queries), slice(0, num_keys)
        else:
            of_mask = 0, queries, keys
        sequences.append(Sequence(of_mask[0], queries, keys, of_mask[1], of_mask[2]))
        first_query, first_key = queries.stop, keys.stop
    return tuple(
        sequence for sequence in sequences if sequence.queries.stop > sequence.queries.start
    )


def _index(x: Tensor, index: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
    """Return the index of each token of `x`, by default counted from 0: int64 `[T]`."""
    return token_positions(x, index, cu_seqlens).long()


def _query_index(call: Attend, sequences: tuple[Sequence, ...]) -> Tensor:
    """Return the index of each query, int64 `[Tq]`; by default the last has the last key's."""
    if call.q_index is not None:
        return _index(call.q, call.q_index, call.cu_seqlens_q)
    index = torch.empty(call.q.shape[:-2].numel(), dtype=torch.int64)
    for sequence in sequences:
        part = index[sequence.queries]
        num_keys = sequence.keys.stop - sequence.keys.start
        part.copy_(torch.arange(num_keys - len(part), num_keys))
    return index


def _from_zero(call: Attend, sequences: tuple[Sequence, ...]) -> Tensor:
    """Return the index of each query, counted from 0 in its sequence: int64 `[Tq]`."""
    index = torch.empty(call.q.shape[:-2].numel(), dtype=torch.int64)
    for sequence in sequences:
        part = index[sequence.queries]
        part.copy_(torch.arange(len(part)))
    return index
