"""Checks of the positions and frequencies of a call against its rope."""

from typing import Any

import torch
from torch import Tensor

from rope_core.checks import (
    INTEGERS,
    check_count,
    check_dtype,
    check_shape,
    dtype_of,
    not_a_tensor,
    shape_of,
)
from rope_core.config import RopeConfig
from rope_core.errors import ConfigError, ShapeError

MAX_EXACT_INTEGER = {torch.float16: 2048, torch.bfloat16: 256}
"""Up to here the dtype holds every whole number. Larger positions would be rounded to others."""

MAX_XPOS_POWER = 60.0
"""Largest power of xPos's scale: float32 holds 0.4 / 1.4 to it, and its inverse."""

MAX_POSITION = 2**53
"""Largest absolute value of a position: float64, in which angles are computed, holds every integer
up to 2**53."""

POSITION_RANGE = "between -2**53 and 2**53"
"""The range of positions, for errors."""


def widths(heads: Tensor, positions: Tensor | None) -> tuple[int | None, int | None]:
    """Return head_dim, and how many numbers make up a position; None if the shapes do not show it.

    Args:
        heads: `[B, S, H, D]` or `[T, H, D]`, not checked yet.
        positions: `[S]`, `[B, S]` or `[T]`, or with the axes first; not checked yet.
    """
    if not heads.ndim:
        return None, None
    head_dim = heads.shape[-1]
    if positions is None:
        return head_dim, None
    if 0 < positions.ndim == heads.ndim - 1:
        return head_dim, positions.shape[0]
    # [A, S] beside [B, S, H, D], unless it is [B, S]
    has_axes = positions.ndim == 2 and heads.ndim == 4 and positions.shape[0] != heads.shape[0]
    return head_dim, positions.shape[0] if has_axes else 1


def check_positions(
    name: str,
    positions: Tensor | None,
    heads_name: str,
    tokens: Tensor,
    rope: RopeConfig | None = None,
    frequencies: Tensor | None = None,
) -> None:
    """Raise ShapeError unless there is one position for each token of q or k.

    Args:
        name: of the tensor in the call.
        positions: `[S]`, `[B, S]` or `[T]`; of several axes `[A, B, S]` or `[A, T]`.
        heads_name: of `tokens` in the call: q or k.
        tokens: `[B, S, H, D]` or `[T, H, D]`.
        rope: how many axes a position has, and whether positions are whole.
        frequencies: learned frequencies of the call.
    """
    if positions is not None:
        check_position_values(name, positions, rope)
        has_axes = frequencies is not None or (rope is not None and rope.num_axes > 1)
        if not has_axes and positions.shape == tokens.shape[:-2]:  # the usual case, fast
            return
    num_axes, broadcasts = _axes(rope, frequencies)
    if positions is None:
        if not broadcasts:
            raise ShapeError(name, f"given, of {num_axes} axes", "none")
        return
    leading = [*tokens.shape[:-2]]
    shapes = [leading[-1:], leading] if broadcasts else []
    if num_axes > 1 or not broadcasts:
        shapes.append([num_axes, *leading])
        shapes += [] if broadcasts else [[num_axes, leading[-1]]]
    check_count(name, positions, heads_name, tokens, *shapes)


def check_position_axes(
    name: str, positions: Tensor, rope: RopeConfig, frequencies: Tensor | None
) -> None:
    """Raise ShapeError unless positions of any shape have their axes first, `[A, ...]`."""
    check_position_values(name, positions, rope)
    num_axes, broadcasts = _axes(rope, frequencies)
    if num_axes == 1 or (broadcasts and positions.ndim < 2):
        return
    if not positions.ndim or positions.shape[0] != num_axes:
        raise ShapeError(name, f"of {num_axes} axes, [{num_axes}, ...]", shape_of(positions))


def _axes(rope: RopeConfig | None, frequencies: Tensor | None) -> tuple[int, bool]:
    """Return the number of axes of a position, and whether one number may stand for all."""
    if rope is None:
        return 1, True
    if frequencies is not None and rope.learned == "frequencies":
        return len(frequencies), False
    return rope.num_axes, rope.frequency_table.broadcasts_axes


def check_position_values(name: str, positions: Tensor, rope: RopeConfig | None) -> None:
    """Raise ShapeError unless positions are integers, or finite float32 or float64.

    The range of integers is checked on the CPU only: reading a tensor on a GPU would wait for all
    work of the GPU.
    """
    if not isinstance(positions, Tensor):
        raise not_a_tensor(name, positions)
    if positions.dtype not in INTEGERS:
        if positions.dtype not in (torch.float32, torch.float64):
            got = dtype_of(positions)
            if positions.dtype in MAX_EXACT_INTEGER:
                largest = MAX_EXACT_INTEGER[positions.dtype]
                got += f", which holds integers exactly only up to {largest}"
            raise ShapeError(name, "int64, or fractional in float32 or float64", got)
        if not bool((positions.abs() <= MAX_POSITION).all()):  # true for NaN
            raise ShapeError(name, POSITION_RANGE, "other numbers, or NaN")
    elif positions.dtype is torch.int64 and positions.is_cpu and positions.numel():
        low, high = map(int, positions.aminmax())
        if low < -MAX_POSITION or high > MAX_POSITION:
            outside = low if low < -MAX_POSITION else high
            raise ShapeError(name, POSITION_RANGE, outside)
    if rope is None or not rope.whole_positions or not positions.numel():
        return
    if positions.is_floating_point() or bool((positions < 0).any()):
        expected = "whole and not negative: this model looks its angles up in a table"
        raise ShapeError(name, expected, "fractional or negative ones")


def check_frequencies(frequencies: Tensor | None, rope: RopeConfig, *heads: Tensor | None) -> None:
    """Raise ShapeError unless learned frequencies are there if the rope has them, and only then.

    Args:
        frequencies: `[A, H, rotary_dim / 2]`, or `[rotary_dim / 2]` of `log_scale`.
        rope: what it learned.
        heads: q and k of the call, `[..., H, D]`; none if the call has neither.
    """
    name, pairs = "frequencies", rope.half
    if rope.learned is None and frequencies is not None:
        expected = "absent: this rope has no learned frequencies"
        raise ShapeError(name, expected, shape_of(frequencies))
    if rope.learned == "frequencies" and frequencies is None:
        raise ShapeError(name, f"given, [axes, heads, {pairs}]", "none")
    if frequencies is None:
        return
    check_dtype(name, frequencies, torch.float32, torch.float64)
    if not bool(frequencies.isfinite().all()):
        raise ShapeError(name, "of finite numbers", "others")
    if rope.learned == "log_scale":
        check_shape(name, frequencies, [pairs])
        return
    for x in heads or (None,):
        num_heads: Any = "heads" if x is None else x.shape[-2]
        if (
            frequencies.ndim != 3
            or frequencies.shape[2] != pairs
            or (x is not None and frequencies.shape[1] != num_heads)
        ):
            raise ShapeError(name, f"[axes, {num_heads}, {pairs}]", shape_of(frequencies))


def check_scale(name: str, positions: Tensor | None, tokens: Tensor, rope: RopeConfig) -> None:
    """Raise ShapeError if a position is too far from the middle of a call with xPos for float32."""
    parameters: dict[str, Any] = dict(rope.parameters)
    centre = parameters.get("length", 0) // 2
    distance = MAX_XPOS_POWER * parameters.get("scale_base", 512.0)
    if positions is None:
        ends = [0.0, float(tokens.shape[-3])]
    else:
        ends = [float(end) for end in positions.aminmax()] if positions.numel() else []
    if any(abs(end - centre) > distance for end in ends):
        expected = f"within {distance:,.0f} of {centre}, half the call's length: xPos's scale grows"
        raise ShapeError(name, expected, f"from {ends[0]:,.0f} to {ends[-1]:,.0f}")


def not_a_rope(name: str, value: object) -> ConfigError:
    """Return the error for an argument of a call that is no RopeConfig."""
    return ConfigError(name, "a RopeConfig, such as resolve(...).rope", f"a {type(value).__name__}")


def check_invertible(name: str, rope: RopeConfig) -> None:
    """Raise ConfigError if the attention scaling of a rotation that is undone is 0."""
    if not rope.attention_scaling:
        raise ConfigError(f"{name}.attention_factor", "other than 0 to rotate back", 0.0)
