"""What schemes are made from, and what they make."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.errors import ShapeError


@dataclass(frozen=True, slots=True)
class Spectra:
    """The frequencies of one axis, at whatever width a scheme asks for."""

    theta: float
    dtype: torch.dtype
    at: Callable[[float, int], Tensor]
    """From base and width to `[width / 2]`."""

    def __call__(self, width: int) -> Tensor:
        """Return the frequencies of `width` channels."""
        return self.at(self.theta, width)


Angles = Callable[[Tensor, "Columns"], Tensor]


def product(positions: Tensor, columns: "Columns") -> Tensor:
    """Return position times frequency for each token and column: `[A, T]` -> `[T, n]`."""
    if columns.axis is None:
        return positions[0, :, None] * columns.inv_freq
    return positions.index_select(0, columns.axis).mT * columns.inv_freq


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What is multiplied to angles."""

    inv_freq: Tensor
    """Angular frequencies `[n]`, radians per unit of position."""

    axis: Tensor | None = None
    """int64 `[n]`: the axis of each; None where there is one axis."""

    num_axes: int = 1

    of_text: bool = True
    """Whether one number may stand for all axes, as it does for a token of text."""

    angles: Angles = product

    coupled: bool = False
    """Whether an angle is made of several axes, and not of its own alone."""


def summed(frequencies: Tensor, dim: int) -> Columns:
    """Return the columns of learned frequencies `[A, H, dim / 2]`, summed over axes (Mochi 1)."""
    if frequencies.ndim != 3 or frequencies.shape[-1] != dim // 2:
        expected = f"[axes, heads, {dim // 2}]"
        raise ShapeError("frequencies", expected, list(frequencies.shape))

    def summing(positions: Tensor, columns: Columns) -> Tensor:
        return torch.einsum("an,ahf->nhf", positions, columns.inv_freq)

    return Columns(frequencies, None, len(frequencies), False, summing, coupled=True)


def runs(lengths: tuple[int, ...]) -> Tensor:
    """Return 0 as often as the first length says, then 1, ..."""
    return torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
