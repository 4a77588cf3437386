"""The frequencies that a scheme starts from, and the table that it returns."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class AxisFrequencies:
    """The frequencies of the model's variant for one axis, at any width."""

    theta: float
    dtype: torch.dtype
    for_theta: Callable[[float, int], Tensor]
    """From theta and a width in channels to `[width / 2]`."""

    def __call__(self, width: int) -> Tensor:
        """Return the frequencies of `width` channels, `[width / 2]`."""
        return self.for_theta(self.theta, width)


AngleFunction = Callable[[Tensor, "FrequencyTable"], Tensor]
"""From positions `[A, T]` and a table to angles `[T, n]`, in the dtype of the positions."""


def multiply(positions: Tensor, table: "FrequencyTable") -> Tensor:
    """Return position times frequency: positions `[A, T]` -> angles `[T, n]`."""
    if table.axis is None:
        return positions[0, :, None] * table.inv_freq
    return positions.index_select(0, table.axis).mT * table.inv_freq


@dataclass(frozen=True, slots=True, eq=False)
class FrequencyTable:
    """The frequency and the position axis of each angle."""

    inv_freq: Tensor
    """Float64 or float32 `[n]`: angular frequencies, radians per unit of position."""

    axis: Tensor | None = None
    """int64 `[n]`: the axis of each angle. None if there is one axis."""

    num_axes: int = 1
    """Numbers in the position of a token."""

    broadcasts_axes: bool = True
    """Whether one number may stand for all axes, as for a token of text."""

    angles: AngleFunction = multiply

    coupled: bool = False
    """Whether one angle depends on several axes."""


def learned_frequencies(frequencies: Tensor) -> FrequencyTable:
    """Return the table of learned frequencies `[A, H, n]`: angles are sums over axes.

    Models: Mochi 1.
    """

    def sum_over_axes(positions: Tensor, table: FrequencyTable) -> Tensor:
        return torch.einsum("an,ahf->nhf", positions, table.inv_freq)

    return FrequencyTable(frequencies, None, len(frequencies), False, sum_over_axes, coupled=True)


def section_axes(sections: tuple[int, ...]) -> Tensor:
    """Return the axis of each angle, int64 `[sum(sections)]`: axis i has `sections[i]` angles."""
    return torch.arange(len(sections)).repeat_interleave(torch.tensor(sections))
