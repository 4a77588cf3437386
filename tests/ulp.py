"""How near a recorded vector must be on any processor."""

import torch
from torch import Tensor

from rope_core import RopeConfig
from rope_core.axes.frequency_table import learned_frequencies


def within_ulp(
    actual: Tensor, expected: Tensor, *, size: Tensor | float, angle: Tensor | float = 0.0, ulp=2
) -> bool:
    """Tell whether all numbers are within `ulp` units in the last place of the expected ones.

    The unit is that of `size`, the magnitude of the numbers that the result is made of, and not of
    the result: where x cos(a) - y sin(a) is near 0, the rounding errors of both terms remain.
    `angle` is such a number as well. It is rounded to float32 whatever the dtype of the result, and
    one unit of it moves the result by as much, times `size`.

    `size` and `angle` broadcast to the result. NaN is within of nothing.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    unit = torch.finfo(expected.dtype).eps + torch.finfo(torch.float32).eps * angle
    distance = (actual.double() - expected.double()).abs()
    return bool((distance <= ulp * unit * size).all())


def rotated_within_ulp(
    actual: Tensor,
    expected: Tensor,
    x: Tensor,
    rope: RopeConfig,
    positions: Tensor,
    frequencies: Tensor | None = None,
) -> bool:
    """Tell whether two rotations of x `[B, S, H, D]` are within 2 ulp.

    The unit is that of the largest number of a head and of the largest angle of a token.
    """
    size = torch.maximum(x.abs(), expected.abs()).amax(-1, keepdim=True).double()
    angle = radians(rope, positions, frequencies).amax(-1)  # [T] or, of learned ones, [T, H]
    angle = angle.view(-1, x.shape[1], angle.shape[1] if angle.ndim == 2 else 1, 1)
    return within_ulp(actual, expected, size=size, angle=angle)


def radians(rope: RopeConfig, positions: Tensor, frequencies: Tensor | None = None) -> Tensor:
    """Return the size of all angles, `[T, pairs]` or `[T, H, pairs]`, of T tokens.

    Positions are `[S]`, `[B, S]` or `[A, B, S]`.
    """
    table = rope.frequency_table if frequencies is None else learned_frequencies(frequencies)
    rows = positions.flatten(1) if positions.ndim == 3 else positions.reshape(1, -1)
    rows = rows.to(table.inv_freq.dtype).expand(table.num_axes, -1)
    return table.angles(rows, table).abs().double()
