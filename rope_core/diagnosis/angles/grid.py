"""Calls on a grid of fitted numbers: where a fit may start, and what no number can reach."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from rope_core.diagnosis.angles.evidence import Array, Evidence
from rope_core.diagnosis.calls import RotaryCall
from rope_core.diagnosis.mistake import Number
from rope_core.errors import ConfigError

Build = Callable[[Sequence[float]], RotaryCall]
"""From numbers to a call. Raises ConfigError if no call has these numbers."""

Start = tuple[list[float], list[float]]
"""Numbers, and how far they may be off in each coordinate."""

LEAST_SHARE = 0.3
"""A start is followed if so much of what it predicts is right."""

STARTS = 2
"""How many of the best starts are followed."""

UNREACHABLE = 4.0
"""A call is not fitted if its error is above so many tolerances at any point of the grid."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The smooth numbers of calls on a grid of the fitted numbers."""

    values: list[list[float]]
    smooth: Array
    """`[g, m]`"""

    deviation: Array
    """`[g, m]`: how much they change halfway to the next point of the grid, squared."""

    spreads: list[list[float]]
    """Distance of each point's neighbours in each coordinate."""

    @classmethod
    def of(
        cls,
        evidence: Evidence,
        build: Build,
        numbers: Sequence[Number],
        right: RotaryCall,
        points: int | None = None,
    ) -> "Grid":
        """Return the numbers at all starts; points that no call has are left out."""
        axes = [sorted(number.starts(right)) for number in numbers]
        if points is not None:
            axes = [axis[:: 1 + (len(axis) - 1) // points] for axis in axes]
        known: dict[tuple[float, ...], Array] = {}
        for point in product(*axes):
            with suppress(ConfigError):
                known[point] = evidence.smooth(build(point))
        if not known:
            return cls([], np.empty(0), np.empty(0), [])
        gaps = [_gaps(number, axis) for number, axis in zip(numbers, axes, strict=True)]
        spreads = [[gap[x] for gap, x in zip(gaps, point, strict=True)] for point in known]
        smooth = np.stack([*known.values()])
        row = {point: place for place, point in enumerate(known)}
        deviation = np.zeros_like(smooth)
        for place, axis in enumerate(axes):
            near = [row[_neighbour(point, place, axis, known)] for point in known]
            deviation += (smooth[near] - smooth) ** 2 / 4
        return cls([list(point) for point in known], smooth, deviation, spreads)

    def is_reachable(self, evidence: Evidence, step: float) -> bool:
        """Tell whether numbers between the points of the grid may give the evidence.

        Args:
            evidence: angles or frequencies.
            step: relative error of angles that are rounded.
        """
        low, high = self.smooth.min(0), self.smooth.max(0)
        rounding = np.maximum(np.abs(low), np.abs(high)) * step
        away = np.abs(evidence.residual((low + high) / 2)) - (high - low) / 2 - 4 * rounding
        return evidence.least_error(np.maximum(away, 0)) <= UNREACHABLE * evidence.tolerance

    def best(self, evidence: Evidence, step: float) -> list[Start]:
        """Return the points, and their spreads, that fit best what changes little around them."""
        noise = evidence.noise(self.smooth, step)
        weights = evidence.weights / (1 + self.deviation + (noise / 0.3) ** 2) ** 2
        likeness = evidence.likeness(evidence.residual(self.smooth))
        score = (likeness * weights).sum(1)  # what changes much tells nothing, and counts nothing
        share = score / np.maximum(weights.sum(1), 1e-300)
        order = [
            place for place in (-score).argsort()[:STARTS].tolist() if share[place] > LEAST_SHARE
        ]
        return [(self.values[place], self.spreads[place]) for place in order]


def _gaps(number: Number, axis: Sequence[float]) -> dict[float, float]:
    """Return the distance of each start from the farther of its neighbours."""
    points = [math.log(value) if number.is_ratio else value for value in axis]
    gaps = [b - a for a, b in pairwise(points)]
    around = zip([0.0, *gaps], [*gaps, 0.0], strict=True)
    return {value: max(*near) or 1.0 for value, near in zip(axis, around, strict=True)}


def _neighbour(
    point: tuple[float, ...],
    place: int,
    axis: Sequence[float],
    known: Mapping[tuple[float, ...], Array],
) -> tuple[float, ...]:
    """Return the next point of a grid along one axis, the one before at its end."""
    at = axis.index(point[place])
    for other in (at + 1, at - 1):
        if 0 <= other < len(axis):
            near = (*point[:place], axis[other], *point[place + 1 :])
            if near in known:
                return near
    return point
