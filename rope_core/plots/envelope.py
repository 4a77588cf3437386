"""A curve over positions: a mean, and the range of all whole positions that a point stands for."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUM_COLUMNS = 300
"""Points of a curve, at equal distances on a logarithmic axis."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A curve over whole positions: each point stands for all positions from one to the next."""

    position: Tensor
    """int64 `[n]`: the first position of each point."""

    lowest: Tensor
    highest: Tensor
    mean: Tensor


def make_envelope(values: list[Tensor]) -> Envelope:
    """Gather the values at positions 1, 2, ... into columns of a logarithmic axis."""
    value = torch.cat(values)
    powers = torch.linspace(0, math.log(len(value)), NUM_COLUMNS)
    starts = torch.tensor(sorted({round(position) for position in powers.exp().tolist()}))
    column = torch.bucketize(torch.arange(1, len(value) + 1), starts, right=True) - 1
    empty = torch.zeros(len(starts), dtype=value.dtype)
    lowest, highest, mean = (
        empty.scatter_reduce(0, column, value, reduce, include_self=False)
        for reduce in ("amin", "amax", "mean")
    )
    return Envelope(starts, lowest, highest, mean)


def draw_envelope(ax: "Axes", curve: Envelope, name: str, color: str, linestyle: str) -> None:
    """Draw the mean as a line on the range from the lowest to the highest value."""
    position = curve.position.tolist()
    ax.fill_between(
        position,
        curve.lowest.tolist(),
        curve.highest.tolist(),
        color=color,
        alpha=0.16,
        linewidth=0,
        label=f"_range of {name}",
    )
    ax.plot(
        position,
        curve.mean.tolist(),
        color=color,
        linestyle=linestyle,
        linewidth=1.7,
        label=name,
    )
