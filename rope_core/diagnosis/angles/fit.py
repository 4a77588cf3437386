"""Fit the numbers of mistakes to evidence: from a coarse grid to the last digit.

An angle is known up to whole turns. A number that is roughly known predicts those angles well that
depend on the number little: slow pairs, small positions. They make the number more exact, so that
more angles are predicted to a part of a turn, and so on.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from torch import Tensor

from rope_core.diagnosis.angles.evidence import Evidence
from rope_core.diagnosis.calls import RotaryCall
from rope_core.diagnosis.mistake import Number
from rope_core.errors import ConfigError

Build = Callable[[Sequence[float]], RotaryCall]
"""From numbers to a call. Raises ConfigError if no call has these numbers."""

MAX_PHASE = 1.0
"""Largest standard deviation of a predicted angle that is used, in radians."""

MAX_MISFIT = 40.0
"""Residuals so many times their noise are not due to the numbers: the call is another."""

MAX_ERROR = 0.9
"""Relative error of a call whose numbers are nearly right."""

CAUTION = 9.0
"""Variances are taken to be larger than the residuals say, by this factor."""

ROUNDS = 14
LEAST_SHARE = 0.3
"""A start is followed if so much of what it predicts is right."""

STARTS = 2
"""How many of the best starts are followed."""

STEP = 1e-6
WHOLE_STEP = 1e-2
SCAN_STEP = 0.05
"""Ratios of a number that are told apart: in the slopes, and where a number acts in steps."""


def fit(
    evidence: Evidence, build: Build, numbers: Sequence[Number], right: RotaryCall, step: float = 0
) -> list[float] | None:
    """Return the numbers that fit the evidence best; None if no call has any.

    Args:
        evidence: angles or frequencies.
        build: makes the call.
        numbers: one or two.
        right: the call that the starts belong to.
        step: relative error of angles that are rounded.
    """
    grid = _Grid.of(evidence, build, numbers, right)
    found = []
    for start, spread in grid.best(evidence, step):
        with suppress(ConfigError):
            values = refine(evidence, build, numbers, start, spread, step)
            found.append((evidence.error(evidence.numbers(build(values))), values, spread))
    if not found:
        return None
    error, values, spread = min(found, key=lambda one: one[0])
    if error < MAX_ERROR:
        values = _scan_steps(evidence, build, numbers, values, spread)
    return values


@dataclass(frozen=True, slots=True, eq=False)
class _Grid:
    """The smooth numbers of calls on a grid of the fitted numbers."""

    values: list[list[float]]
    smooth: Tensor
    """`[g, m]`"""

    deviation: Tensor
    """`[g, m]`: how much they change halfway to the next point of the grid, squared."""

    spreads: list[list[float]]
    """Distance of each point's neighbours in each coordinate."""

    @classmethod
    def of(
        cls, evidence: Evidence, build: Build, numbers: Sequence[Number], right: RotaryCall
    ) -> "_Grid":
        """Return the numbers at all starts; points that no call has are left out."""
        axes = [sorted(number.starts(right)) for number in numbers]
        if len(axes) == 2:
            axes = [axis[:: 1 + (len(axis) - 1) // 16] for axis in axes]
        points = list(product(*axes))
        known: dict[tuple[float, ...], Tensor] = {}
        for point in points:
            with suppress(ConfigError):
                known[point] = evidence.smooth(build(point))
        kept = [point for point in points if point in known]
        if not kept:
            return cls([], torch.empty(0), torch.empty(0), [])
        gaps = [_gaps(number, axis) for number, axis in zip(numbers, axes, strict=True)]
        spreads = [[gap[x] for gap, x in zip(gaps, point, strict=True)] for point in kept]
        squares = []
        for point in kept:
            total = torch.zeros_like(known[point])
            for place, axis in enumerate(axes):
                near = _neighbour(point, place, axis, known)
                total = total + (known[near] - known[point]).square() / 4
            squares.append(total)
        smooth = torch.stack([known[point] for point in kept])
        return cls([list(point) for point in kept], smooth, torch.stack(squares), spreads)

    def best(self, evidence: Evidence, step: float) -> list[tuple[list[float], list[float]]]:
        """Return the points, and their spreads, that fit best what changes little around them."""
        if not self.values:
            return []
        noise = evidence.noise(self.smooth, step)
        weights = evidence.weights / (1 + self.deviation + (noise / 0.3).square()).square()
        likeness = evidence.likeness(evidence.residual(self.smooth))
        score = -(likeness * weights).sum(1)  # what changes much tells nothing, and counts nothing
        share = -score / weights.sum(1).clamp_min(1e-300)
        order = [place for place in score.argsort()[:STARTS].tolist() if share[place] > LEAST_SHARE]
        return [(self.values[place], self.spreads[place]) for place in order]


def _gaps(number: Number, axis: Sequence[float]) -> dict[float, float]:
    """Return the distance of each start from the farther of its neighbours."""
    points = [_coordinate(number, value) for value in axis]
    gaps = [b - a for a, b in pairwise(points)]
    around = zip([0.0, *gaps], [*gaps, 0.0], strict=True)
    return {value: max(*near) or 1.0 for value, near in zip(axis, around, strict=True)}


def _neighbour(
    point: tuple[float, ...],
    place: int,
    axis: Sequence[float],
    known: Mapping[tuple[float, ...], Tensor],
) -> tuple[float, ...]:
    """Return the next point of a grid along one axis, the one before at its end."""
    at = axis.index(point[place])
    for other in (at + 1, at - 1):
        if 0 <= other < len(axis):
            near = (*point[:place], axis[other], *point[place + 1 :])
            if near in known:
                return near
    return point


def _coordinate(number: Number, value: float) -> float:
    return math.log(value) if number.is_ratio else value


def _moved(number: Number, value: float, by: float) -> float:
    """Return a number moved by a step of its coordinate."""
    return value * math.exp(max(-50.0, min(by, 50.0))) if number.is_ratio else value + by


def _linear(
    evidence: Evidence, build: Build, numbers: Sequence[Number], values: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the smooth numbers `[m]`, and their slopes over each coordinate `[k, m]`."""
    smooth = evidence.smooth(build(values))
    slopes = []
    for place, number in enumerate(numbers):
        width = (WHOLE_STEP if number.is_whole else STEP) if number.is_ratio else 1.0
        moved = list(values)
        moved[place] = _moved(number, values[place], width)
        slopes.append((evidence.smooth(build(moved)) - smooth) / width)
    return smooth, torch.stack(slopes)


def refine(
    evidence: Evidence,
    build: Build,
    numbers: Sequence[Number],
    start: Sequence[float],
    spread: Sequence[float],
    step: float = 0,
) -> list[float]:
    """Return the numbers near `start` that fit best; `spread` tells how far they may be."""
    values = list(start)
    count = len(numbers)
    covariance = torch.diag(torch.tensor(spread, dtype=torch.float64).square())
    for turn in range(ROUNDS):
        smooth, slopes = _linear(evidence, build, numbers, values)
        noise = evidence.noise(smooth, step)
        deviation = ((covariance @ slopes) * slopes).sum(0) + noise.square()
        known = evidence.weights > 0
        is_used = known & (deviation < MAX_PHASE**2)
        if not bool(is_used.any()):
            if not bool(known.any()):
                return values
            least = deviation[known].min()
            is_used = known & (deviation <= 2 * least)
        used = slopes[:, is_used]
        residual = evidence.residual(smooth)[is_used]
        weights = evidence.weights[is_used] / noise[is_used].square()
        # residuals far above the rounding are no errors of the numbers: they count less
        scale = (residual / noise[is_used]).abs().median().clamp_min(1.0)
        weights = (
            weights / scale.square() / (1 + (residual / (3 * scale * noise[is_used])).square())
        )
        prior = torch.diag(1 / torch.tensor(spread, dtype=torch.float64).square())
        information = prior + (used * weights) @ used.T
        gradient = (used * weights) @ residual
        covariance = torch.linalg.pinv(information, hermitian=True) * CAUTION
        moves = (covariance @ gradient / CAUTION).tolist()
        values = [_moved(n, v, by) for n, v, by in zip(numbers, values, moves, strict=True)]
        if turn >= 3 and float(scale) > MAX_MISFIT:
            break
        moved = max(abs(by) / wide for by, wide in zip(moves, spread, strict=True))
        is_settled = bool((is_used == (known & (noise < MAX_PHASE))).all())
        if moved < 1e-9 or (is_settled and _is_small(moves, slopes, noise)):
            break
    assert len(values) == count
    return values


def _scan_steps(
    evidence: Evidence,
    build: Build,
    numbers: Sequence[Number],
    values: list[float],
    spread: Sequence[float],
) -> list[float]:
    """Return better numbers nearby, if one of them acts in steps, as YaRN's trained length does."""
    for place, number in enumerate(numbers):
        if not (number.is_whole and number.is_ratio):
            continue
        count = round(spread[place] / SCAN_STEP)
        best = evidence.error(evidence.numbers(build(values)))
        if best <= evidence.tolerance / 10:
            return values
        for away in range(-count, count + 1):
            tried = list(values)
            tried[place] = _moved(number, values[place], away * SCAN_STEP)
            with suppress(ConfigError):
                error = evidence.error(evidence.numbers(build(tried)))
                if error < best:
                    best, values = error, tried
    return values


def _is_small(moves: Sequence[float], slopes: Tensor, noise: Tensor) -> bool:
    """Tell whether the last step changed every number by less than a part of its noise."""
    change = (torch.tensor(moves, dtype=torch.float64)[:, None] * slopes).sum(0).abs()
    return bool((change < 0.05 * noise).all())


def round_values(number: Number, value: float) -> list[float]:
    """Return plain numbers near a value, plainest first."""
    if not math.isfinite(value) or value == 0:
        return []
    if number.is_whole and number.is_ratio:  # lengths: they may act in steps
        power = 2.0 ** round(math.log2(value))
        wide = [power, *(float(f"{value:.{digits}e}") for digits in range(3))]
        return [one for one in dict.fromkeys((*wide, round(value))) if abs(one / value - 1) < 0.45]
    near = [float(f"{value:.{digits}e}") for digits in range(3)]
    if number.is_whole:
        return list(dict.fromkeys([*near, float(round(value))]))
    if number.is_ratio and value > 0:
        near.insert(1, 2.0 ** round(math.log2(value)))
        near += [1 / max(1, round(1 / value)) if value < 1 else float(round(value))]
    return [one for one in dict.fromkeys(near) if abs(one / value - 1) < 0.03]
