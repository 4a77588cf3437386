"""Builds the call of each route that needs the device from tensors and parameters."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core import Attend, Call, ConfigError, CosSin, Merge, Rotate, ShapeError, Shift
from rope_core.attention_warnings import attention_warnings
from rope_core.calls import TakenLength
from rope_core.calls.rope_checks import widths
from rope_core.checks import MAX_USUAL_HEADS
from rope_core.config import MAX_HEAD_DIM
from service.endpoints.params import (
    AttentionParams,
    CosSinParams,
    MergeParams,
    RotateParams,
    ShiftParams,
)
from service.endpoints.rope_params import Rope
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.endpoints.tensor_layout import as_bshd, layout_warnings, order_warnings
from service.endpoints.token_index import token_index
from service.errors import ConflictingTensors, MissingTensor, TooLarge

Tensors = Mapping[str, Tensor]

EXACT_IN_FLOAT32 = 2**24
"""Largest magnitude up to which float32 holds every integer."""


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call for the device, made from a message."""

    call: Call

    warnings: tuple[str, ...] = ()
    """Warnings for the client, in addition to the result."""

    backend: str | None = None
    """Name of the backend that the request chooses; None leaves the choice to the service."""

    is_bhsd: bool = False
    """Whether heads are transposed views of the message's, and the answer must be transposed."""

    length: TakenLength | None = None
    """The length that decides the frequencies; None if they do not depend on one."""

    to_length: TakenLength | None = None
    """As `length`, of the rope to which `Shift` moves keys."""


def build_rotate(tensors: Tensors, params: RotateParams, resolver: RopeResolver) -> PreparedCall:
    """Build the rotation of `q`, `k` or both."""
    if params.tensor_layout == "bhsd":
        tensors = as_bshd(tensors)
    q, k, positions = tensors.get("q"), tensors.get("k"), tensors.get("positions")
    heads = k if q is None else q
    if heads is None:
        raise MissingTensor("q", "k")
    resolved = resolver.resolve(params.rope, *widths(heads, positions))
    call = Rotate(
        q,
        k,
        resolved.rope,
        positions,
        tensors.get("cu_seqlens"),
        inverse=params.inverse,
        frequencies=tensors.get("frequencies"),
    )
    warnings = _warnings(resolved, positions)
    if heads.shape[-2] > MAX_USUAL_HEADS:
        warnings += layout_warnings(params.tensor_layout, "k" if q is None else "q", heads)
    is_bhsd, length = params.tensor_layout == "bhsd", resolved.length or call.length
    return PreparedCall(call, warnings, params.backend, is_bhsd, length)


def build_attend(tensors: Tensors, params: AttentionParams, resolver: RopeResolver) -> PreparedCall:
    """Build the attention of `q` over `k` and `v`."""
    if params.tensor_layout == "bhsd":
        tensors = as_bshd(tensors)
    q = tensors["q"]
    q_positions, k_positions = positions_of_q_and_k(tensors, params)
    resolved = ResolvedRope(None)
    if params.rope is not None:
        of_rope = (tensors["k"], k_positions) if params.rotate == "k" else (q, q_positions)
        resolved = resolver.resolve(params.rope, *widths(*of_rope))
    if resolved.model is not None and resolved.model.differ:
        expected = "given, or layer_type: the layers of this model differ"
        raise ConfigError("rope.layer", expected, "none")
    if resolved.model is not None:
        resolved.model.require_attention()
    cu_seqlens = tensors_of_q_and_k(tensors, "cu_seqlens", "cu_seqlens_q", "cu_seqlens_k")
    q_index, k_index = token_index(tensors, params, *cu_seqlens)
    call = Attend(
        q,
        tensors["k"],
        tensors["v"],
        resolved.config,
        params.override(resolved.attention) if resolved.attention else params.config,
        q_positions,
        k_positions,
        *cu_seqlens,
        return_lse=params.return_lse,
        sinks=tensors.get("sinks"),
        mask=tensors.get("mask"),
        frequencies=tensors.get("frequencies"),
        q_index=q_index,
        k_index=k_index,
        out_dtype=torch.float32 if params.out_dtype else None,
        # all layers of a model may have the same parameters, also those that rotate nothing
        rotate="both" if resolved.model and resolved.config is None else params.rotate,
    )
    if call.q.numel() and not call.k.numel():
        raise ShapeError("k", "of at least one token, as q has tokens", list(call.k.shape))
    warnings = _warnings(resolved, q_positions, k_positions)
    warnings += attention_warnings(call, resolved.config)
    if q.shape[-2] > MAX_USUAL_HEADS:
        warnings += layout_warnings(params.tensor_layout, "q", q)
    elif q_positions is None and q_index is None:
        warnings += order_warnings(params.tensor_layout, call)
    is_bhsd = params.tensor_layout == "bhsd"
    length = call.length and (resolved.length or call.length)  # none if the call rotates nothing
    return PreparedCall(call, warnings, params.backend, is_bhsd, length)


def build_cos_sin(tensors: Tensors, params: CosSinParams, resolver: RopeResolver) -> PreparedCall:
    """Build the table of cosines and sines of `positions`."""
    positions = tensors["positions"]
    if isinstance(params.rope, Rope):
        _check_width(params.rope)
    num_axes = len(positions) if positions.ndim > 1 else 1
    resolved = resolver.resolve(params.rope, None, num_axes)
    call = CosSin(positions, resolved.rope, tensors.get("frequencies"))
    length = resolved.length or call.length
    return PreparedCall(call, _warnings(resolved, positions), length=length)


def build_shift(tensors: Tensors, params: ShiftParams, resolver: RopeResolver) -> PreparedCall:
    """Build the move of rotated keys by `delta`."""
    if params.tensor_layout == "bhsd":
        tensors = as_bshd(tensors)
    k, positions, delta = tensors["k"], tensors.get("positions"), tensors["delta"]
    of_rope = widths(k, positions)
    resolved = resolver.resolve(params.rope, *of_rope)
    warnings = _warnings(resolved, positions, delta)
    to = to_length = None
    if params.to is not None:
        resolved_to = resolver.resolve(params.to, *of_rope, "to")
        to, to_length = resolved_to.rope, resolved_to.length
        warnings = tuple(dict.fromkeys(warnings + resolved_to.warnings))
    call = Shift(k, delta, resolved.rope, positions, to)
    if k.shape[-2] > MAX_USUAL_HEADS:
        warnings += layout_warnings(params.tensor_layout, "k", k)
    is_bhsd = params.tensor_layout == "bhsd"
    lengths = resolved.length or call.length, to_length or call.to_length
    return PreparedCall(call, warnings, params.backend, is_bhsd, *lengths)


def build_merge(tensors: Tensors, params: MergeParams, resolver: RopeResolver) -> PreparedCall:
    """Build the merge of attention over parts of the keys. It is the same in every layout."""
    out = tensors["out"]
    if params.tensor_layout == "bhsd" and out.ndim != 5:
        expected = "[N, B, H, S, Dv] with tensor_layout bhsd (packed parts are for bshd only)"
        raise ShapeError("out", expected, list(out.shape))
    return PreparedCall(Merge(out, tensors["lse"]), backend=params.backend)


def _check_width(rope: Rope) -> None:
    """Check the size of a table, which no tensor of the request limits.

    Raises:
        TooLarge: the heads are too wide.
    """
    for name in ("head_dim", "rotary_dim"):
        width = getattr(rope, name)
        if width is not None and width > MAX_HEAD_DIM:
            raise TooLarge(f"rope.{name}", MAX_HEAD_DIM, f"{width:,}")


def tensors_of_q_and_k(
    tensors: Tensors, shared: str, of_q: str, of_k: str
) -> tuple[Tensor | None, Tensor | None]:
    """Return the tensors of q and of k: either two tensors, or one that is shared."""
    if shared not in tensors:
        return tensors.get(of_q), tensors.get(of_k)
    if of_q in tensors or of_k in tensors:
        raise ConflictingTensors(shared, of_q, of_k)
    return tensors[shared], tensors[shared]


def positions_of_q_and_k(
    tensors: Tensors, params: AttentionParams
) -> tuple[Tensor | None, Tensor | None]:
    """Return the positions of q and of k. `positions` are those of the sides that rotate."""
    of_q, of_k = tensors_of_q_and_k(tensors, "positions", "q_positions", "k_positions")
    if "positions" not in tensors or params.rotate == "both":
        return of_q, of_k
    if params.rotate == "none":
        expected = "absent: with rotate none, nothing is rotated"
        raise ShapeError("positions", expected, list(tensors["positions"].shape))
    return (of_q, None) if params.rotate == "q" else (None, of_k)


def _warnings(resolved: ResolvedRope, *positions: Tensor | None) -> tuple[str, ...]:
    config = resolved.config
    if config is None or config.arithmetic == "float64":
        return resolved.warnings
    for tensor in positions:
        if tensor is None or not tensor.numel():
            continue
        low, high = tensor.aminmax()  # not abs, which overflows for -2**63
        if max(-low.item(), high.item()) > EXACT_IN_FLOAT32:
            text = (
                "arithmetic hf: positions beyond 2**24 are rounded to float32, as in transformers"
            )
            return (*resolved.warnings, text)
    return resolved.warnings
