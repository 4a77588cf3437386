"""What each route asks for, given the tensors and the parameters of its message."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core import Attend, Call, ConfigError, CosSin, Merge, Rotate, ShapeError, Shift
from service.endpoints.params import (
    AttentionParams,
    CosSinParams,
    MergeParams,
    PositionsParams,
    ResolveParams,
    RotateParams,
    ShiftParams,
)
from service.endpoints.position_builders import build_positions
from service.endpoints.resolve import resolve_rope
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.endpoints.token_index import read_index
from service.wire import Message

Tensors = Mapping[str, Tensor]

EXACT_IN_FLOAT32 = 2**24
"""Whole numbers beyond it are not all float32's."""


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call for the device, made from a message."""

    call: Call

    warnings: tuple[str, ...] = ()
    """What the answer tells the client beside the result."""

    backend: str | None = None
    """Name of the backend that the request chooses; None leaves the choice to the service."""


def build_rotate(
    tensors: Tensors, params: RotateParams, rope_resolver: RopeResolver
) -> PreparedCall:
    """Ask for q and k, rotated."""
    q, k = tensors.get("q"), tensors.get("k")
    x = k if q is None else q
    if x is None:
        raise ShapeError("q or k", "a tensor of the message", "neither")
    positions = tensors.get("positions")
    found = rope_resolver.read(params.rope, _head_dim(x), _num_axes(x, positions))
    call = Rotate(
        q,
        k,
        found.rope,
        positions,
        tensors.get("cu_seqlens"),
        params.inverse,
        tensors.get("frequencies"),
    )
    return PreparedCall(call, _warnings(found, positions), params.backend)


def build_attend(
    tensors: Tensors, params: AttentionParams, rope_resolver: RopeResolver
) -> PreparedCall:
    """Ask for attention."""
    q = tensors["q"]
    q_positions, k_positions = _each(tensors, "positions", "q_positions", "k_positions")
    found = ResolvedRope(None)
    if params.rope is not None:
        found = rope_resolver.read(params.rope, _head_dim(q), _num_axes(q, q_positions))
    model = found.attention
    if found.resolved is not None and found.resolved.differ:
        expected = "given, or layer_type: layers of this model differ"
        raise ConfigError("rope.layer", expected, "none")
    cu_seqlens = _each(tensors, "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k")
    q_index, k_index = read_index(tensors, params, cu_seqlens)
    call = Attend(
        q,
        tensors["k"],
        tensors["v"],
        found.config,
        params.config if model is None else params.over(model),
        q_positions,
        k_positions,
        *cu_seqlens,
        params.return_lse,
        tensors.get("sinks"),
        tensors.get("mask"),
        tensors.get("frequencies"),
        q_index,
        k_index,
        torch.float32 if params.out_dtype else None,
    )
    return PreparedCall(call, _warnings(found, q_positions, k_positions), params.backend)


def build_cos_sin(
    tensors: Tensors, params: CosSinParams, rope_resolver: RopeResolver
) -> PreparedCall:
    """Ask for cosine and sine."""
    positions = tensors["positions"]
    found = rope_resolver.read(params.rope, None, len(positions) if positions.ndim > 1 else 1)
    call = CosSin(positions, found.rope, tensors.get("frequencies"))
    return PreparedCall(call, _warnings(found, positions))


def build_shift(tensors: Tensors, params: ShiftParams, rope_resolver: RopeResolver) -> PreparedCall:
    """Ask for keys, moved."""
    k, positions = tensors["k"], tensors.get("positions")
    num_axes = _num_axes(k, positions)
    found = rope_resolver.read(params.rope, _head_dim(k), num_axes)
    to = found if params.to is None else rope_resolver.read(params.to, _head_dim(k), num_axes, "to")
    moved_to = None if params.to is None else to.rope
    call = Shift(k, tensors["delta"], found.rope, positions, moved_to)
    far = _warnings(found, positions, tensors["delta"])
    return PreparedCall(call, tuple(dict.fromkeys(far + to.warnings)), params.backend)


def build_merge(tensors: Tensors, params: MergeParams, rope_resolver: RopeResolver) -> PreparedCall:
    """Ask for parts, merged."""
    return PreparedCall(Merge(tensors["out"], tensors["lse"]), backend=params.backend)


def answer_resolve(tensors: Tensors, params: ResolveParams, rope_resolver: RopeResolver) -> Message:
    """Return what a rope resolves to."""
    return resolve_rope(rope_resolver.read(params.rope, None, None))


def answer_positions(
    tensors: Tensors, params: PositionsParams, rope_resolver: RopeResolver
) -> Message:
    """Return the positions that a builder makes."""
    return build_positions(params.builder, params.arguments, tensors)


def _each(tensors: Tensors, both: str, of_q: str, of_k: str) -> tuple[Tensor | None, Tensor | None]:
    """Return the tensors of q and of k: given apart, or one for both."""
    if both not in tensors:
        return tensors.get(of_q), tensors.get(of_k)
    if of_q in tensors or of_k in tensors:
        raise ShapeError(both, f"absent where {of_q} or {of_k} is given", "all of them")
    return tensors[both], tensors[both]


def _head_dim(x: Tensor) -> int | None:
    return x.shape[-1] if x.ndim else None


def _num_axes(x: Tensor, positions: Tensor | None) -> int | None:
    """Return how many numbers make up a position, as far as the shapes tell."""
    if positions is None:
        return None
    if 0 < positions.ndim == x.ndim - 1:
        return positions.shape[0]
    # [A, S] beside [B, S, H, D], unless it is [B, S]
    several = positions.ndim == 2 and x.ndim == 4 and positions.shape[0] != x.shape[0]
    return positions.shape[0] if several else 1


def _warnings(found: ResolvedRope, *positions: Tensor | None) -> tuple[str, ...]:
    rope = found.config
    if rope is None or rope.arithmetic == "float64":
        return found.warnings
    for each in positions:
        if each is not None and each.numel() and _farthest(each) > EXACT_IN_FLOAT32:
            text = (
                "arithmetic hf: positions beyond 2**24 are rounded to float32, as in transformers"
            )
            return (*found.warnings, text)
    return found.warnings


def _farthest(positions: Tensor) -> float:
    low, high = positions.aminmax()  # not abs: int64 has no 2**63
    return max(-low.item(), high.item())
