"""What tensors of a call must be, each with an error that names the tensor."""

import math
from typing import Any

import torch
from torch import Tensor

from rope_core.config import RopeConfig
from rope_core.errors import ConfigError, ShapeError

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32)

WHOLE_UP_TO = {torch.float16: 2048, torch.bfloat16: 256}
"""Beyond it the dtype has not every whole number: positions there are others than were meant."""

MAX_EMPTY = 4096
"""Most sequences of no tokens that a pack may have."""

MAX_XPOS_POWER = 60.0
"""Largest power of xPos's scale: float32 holds 0.4 / 1.4 to it, and its inverse."""

FARTHEST = 2.0**63
"""Bound of fractional positions: that of the whole ones."""


def check_heads(name: str, tensor: Tensor, head_dim: int | None = None) -> None:
    """Heads must be `[B, S, H, D]` or `[T, H, D]`, floating point and not without width."""
    if tensor.dtype not in DTYPES:
        raise ShapeError(name, "float32, float16 or bfloat16", dtype_of(tensor))
    shape = tensor.shape
    if len(shape) not in (3, 4):
        raise ShapeError(name, "[B, S, H, D] or packed [T, H, D]", shape_of(tensor))
    if not shape[-1] or not shape[-2]:
        raise ShapeError(name, "of at least one head, one element wide", shape_of(tensor))
    if head_dim is not None and shape[-1] != head_dim:
        raise ShapeError(name, f"of head_dim {head_dim}", shape_of(tensor))


def check_positions(
    name: str,
    positions: Tensor | None,
    tokens: Tensor,
    rope: RopeConfig | None = None,
    frequencies: Tensor | None = None,
) -> None:
    """Positions must be one for each token, or for each of a row of the batch.

    With several axes they are that many numbers each, axes first; one number does for a token of
    text.
    """
    num_axes, of_text = _axes(rope, frequencies)
    if positions is None:
        if not of_text:
            raise ShapeError(name, f"given, of {num_axes} axes", "none")
        return
    check_position_dtype(name, positions)
    _check_whole(name, positions, rope)
    if num_axes == 1 and positions.shape == tokens.shape[:-2]:  # as most have it
        return
    leading = [*tokens.shape[:-2]]
    shapes = [leading[-1:], leading] if of_text else []
    if num_axes > 1:
        shapes.append([num_axes, *leading])
        shapes += [] if of_text else [[num_axes, leading[-1]]]
    if [*positions.shape] not in shapes:
        raise ShapeError(name, " or ".join(dict.fromkeys(map(str, shapes))), shape_of(positions))


def check_position_axes(
    name: str, positions: Tensor, rope: RopeConfig, frequencies: Tensor | None
) -> None:
    """Positions of any shape must have their axes first."""
    check_position_dtype(name, positions)
    _check_whole(name, positions, rope)
    num_axes, of_text = _axes(rope, frequencies)
    if num_axes == 1 or (of_text and positions.ndim < 2):
        return
    if not positions.ndim or positions.shape[0] != num_axes:
        raise ShapeError(name, f"of {num_axes} axes, [{num_axes}, ...]", shape_of(positions))


def check_frequencies(
    frequencies: Tensor | None, rope: RopeConfig, q: Tensor | None = None, k: Tensor | None = None
) -> None:
    """Learned frequencies must be there for a rope that has them, and only there."""
    name = "frequencies"
    if rope.learned is None:
        if frequencies is not None:
            raise ShapeError(
                name, "absent where the rope has not learned any", shape_of(frequencies)
            )
        return
    if frequencies is None:
        if rope.learned == "frequencies":
            raise ShapeError(name, f"given, [axes, heads, {rope.half}]", "none")
        return
    if frequencies.dtype not in (torch.float32, torch.float64):
        raise ShapeError(name, "float32 or float64", dtype_of(frequencies))
    if not bool(frequencies.isfinite().all()):
        raise ShapeError(name, "of finite numbers", "others")
    if rope.learned == "log_scale":
        if frequencies.shape != (rope.half,):
            raise ShapeError(name, f"[{rope.half}]", shape_of(frequencies))
        return
    for x in (q, k):
        heads = frequencies.shape[1] if x is None and frequencies.ndim > 1 else None
        heads = x.shape[-2] if x is not None else heads
        if frequencies.ndim != 3 or [*frequencies.shape[1:]] != [heads, rope.half]:
            raise ShapeError(
                name, f"[axes, {heads or 'heads'}, {rope.half}]", shape_of(frequencies)
            )


def _check_whole(name: str, positions: Tensor, rope: RopeConfig | None) -> None:
    if rope is None or not rope.whole_positions or not positions.numel():
        return
    if positions.is_floating_point() or bool((positions < 0).any()):
        expected = "whole and not negative: this model looks its angles up in a table"
        raise ShapeError(name, expected, "fractional or negative ones")


def check_scale(
    name: str, positions: Tensor | None, tokens: Tensor | None, rope: RopeConfig
) -> None:
    """Positions of xPos must be near enough to the middle of the call for float32."""
    if rope.rope_type != "xpos":
        return
    given: dict[str, Any] = dict(rope.parameters)
    centre, reach = given.get("length", 0) // 2, MAX_XPOS_POWER * given.get("scale_base", 512.0)
    if positions is None:
        ends = [0.0, 0.0 if tokens is None else float(tokens.shape[-3])]
    else:
        ends = [float(end) for end in positions.aminmax()] if positions.numel() else []
    if any(abs(end - centre) > reach for end in ends):
        expected = f"within {reach:,.0f} of {centre}, half the call's length: xPos's scale grows"
        raise ShapeError(name, expected, f"from {ends[0]:,.0f} to {ends[-1]:,.0f}")


def _axes(rope: RopeConfig | None, frequencies: Tensor | None) -> tuple[int, bool]:
    if rope is None:
        return 1, True
    if frequencies is not None and rope.learned == "frequencies":
        return len(frequencies), False
    columns = rope.columns
    return columns.num_axes, columns.of_text


def check_position_dtype(name: str, positions: Tensor) -> None:
    """Positions must be integers, or finite float32 or float64."""
    if positions.dtype in INTEGERS:
        return
    if positions.dtype not in (torch.float32, torch.float64):
        got = dtype_of(positions)
        if positions.dtype in WHOLE_UP_TO:
            most = WHOLE_UP_TO[positions.dtype]
            got += f", which tells whole numbers apart only up to {most}"
        raise ShapeError(name, "int64, or fractional in float32 or float64", got)
    if not bool((positions.abs() <= FARTHEST).all()):  # false for NaN
        raise ShapeError(name, "of numbers between -2**63 and 2**63", "others, or NaN")


def check_cu_seqlens(name: str, cu_seqlens: Tensor | None, tokens: Tensor) -> None:
    """Offsets must rise from 0 to the number of packed tokens."""
    if cu_seqlens is None:
        return
    if tokens.ndim != 3:
        raise ShapeError(name, "absent where tensors are [B, S, H, D]", shape_of(cu_seqlens))
    if cu_seqlens.dtype not in INTEGERS:
        raise ShapeError(name, "int32 or int64", dtype_of(cu_seqlens))
    if cu_seqlens.ndim != 1 or not len(cu_seqlens):
        raise ShapeError(name, "[sequences + 1]", shape_of(cu_seqlens))
    if len(cu_seqlens) > len(tokens) + MAX_EMPTY:
        expected = f"of at most {len(tokens) + MAX_EMPTY} elements for {len(tokens)} tokens"
        raise ShapeError(name, expected, shape_of(cu_seqlens))
    ends = int(cu_seqlens[0]), int(cu_seqlens[-1])
    if ends != (0, len(tokens)):
        raise ShapeError(name, f"from 0 to {len(tokens)} tokens", f"from {ends[0]} to {ends[1]}")
    if bool((cu_seqlens[1:] < cu_seqlens[:-1]).any()):
        raise ShapeError(name, "non-decreasing", "a sequence that ends before it starts")


def check_gain(name: str, rope: RopeConfig) -> None:
    """The gain of a rotation that is undone must not be 0."""
    if not rope.attention_scaling:
        raise ConfigError(f"{name}.attention_factor", "other than 0 to rotate back", 0.0)


def check_sinks(name: str, sinks: Tensor | None, num_heads: int) -> None:
    """Sinks must be one logit for each query head; -inf is none."""
    if sinks is None:
        return
    if sinks.dtype not in DTYPES:
        raise ShapeError(name, "float32, float16 or bfloat16", dtype_of(sinks))
    if sinks.shape != (num_heads,):
        raise ShapeError(name, f"[{num_heads}], one for each head of q", shape_of(sinks))
    _check_logits(name, sinks)


def check_mask(name: str, mask: Tensor | None, q: Tensor, k: Tensor) -> None:
    """A mask must have the axes of scores, and be of booleans or of what can be added to them."""
    if mask is None:
        return
    num_rows = q.shape[0] if q.ndim == 4 else 1
    scores = [num_rows, q.shape[-2], q.shape[-3], k.shape[-3]]
    if mask.dtype not in (torch.bool, *DTYPES):
        raise ShapeError(name, "bool, float32, float16 or bfloat16", dtype_of(mask))
    shape = mask.shape
    if len(shape) not in (2, 4) or any(
        size not in (1, full) for size, full in zip(shape, scores[-len(shape) :], strict=True)
    ):
        expected = f"{scores[2:]} or {scores}, or 1 in place of any of these"
        raise ShapeError(name, expected, shape_of(mask))
    if mask.dtype != torch.bool:
        _check_logits(name, mask)


def check_index(name: str, index: Tensor | None, tokens: Tensor) -> None:
    """An index must be a whole number for each token, or for each of a row of the batch."""
    if index is None:
        return
    if index.dtype not in INTEGERS:
        raise ShapeError(name, "int64", dtype_of(index))
    leading = [*tokens.shape[:-2]]
    if [*index.shape] not in (leading, leading[-1:]):
        shapes = dict.fromkeys((str(leading[-1:]), str(leading)))
        raise ShapeError(name, " or ".join(shapes), shape_of(index))
    if index.numel() and not -(2**62) <= int(index.min()) <= int(index.max()) < 2**62:
        raise ShapeError(name, "in [-2**62, 2**62)", "others")


def _check_logits(name: str, logits: Tensor) -> None:
    if logits.numel() and not logits.amax().item() < math.inf:  # NaN, too, is not
        raise ShapeError(name, "of finite numbers or -Infinity", "Infinity, or NaN")


def tokens_of(tensor: Tensor) -> int:
    """Return the number of tokens."""
    return tensor.shape[:-2].numel()


def bytes_of(tensor: Tensor | None) -> int:
    """Return the bytes of a tensor, 0 where there is none."""
    return 0 if tensor is None else tensor.nbytes


def shape_of(tensor: Tensor) -> str:
    """Return a shape as errors show it."""
    return str(list(tensor.shape))


def dtype_of(tensor: Tensor) -> str:
    """Return a dtype as errors show it."""
    return str(tensor.dtype).removeprefix("torch.")
