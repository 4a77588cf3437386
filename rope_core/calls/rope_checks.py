"""What positions and frequencies of a call must be for its rope."""

from typing import Any

import torch
from torch import Tensor

from rope_core.checks import INTEGERS, dtype_of, shape_of
from rope_core.config import RopeConfig
from rope_core.errors import ConfigError, ShapeError

WHOLE_UP_TO = {torch.float16: 2048, torch.bfloat16: 256}
"""Beyond it the dtype has not every whole number: positions there are others than were meant."""


MAX_XPOS_POWER = 60.0
"""Largest power of xPos's scale: float32 holds 0.4 / 1.4 to it, and its inverse."""


FARTHEST = 2.0**63
"""Bound of fractional positions: that of the whole ones."""


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


def check_gain(name: str, rope: RopeConfig) -> None:
    """The gain of a rotation that is undone must not be 0."""
    if not rope.attention_scaling:
        raise ConfigError(f"{name}.attention_factor", "other than 0 to rotate back", 0.0)
