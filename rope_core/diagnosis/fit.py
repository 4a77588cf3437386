"""Fit the numbers of mistakes to evidence: from a coarse grid to the last digit.

An angle is known up to whole turns. A number that is roughly known predicts those angles well that
depend on the number little: slow pairs, small positions. They make the number more exact, so that
more angles are predicted to a part of a turn, and so on.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product

import torch
from torch import Tensor

from rope_core.diagnosis.calls import RotaryCall
from rope_core.diagnosis.evidence import Evidence
from rope_core.diagnosis.mistake import Number
from rope_core.errors import ConfigError

Build = Callable[[Sequence[float]], RotaryCall]
"""From numbers to a call. Raises ConfigError if no call has these numbers."""

MAX_PHASE = 1.0
"""Largest standard deviation of a predicted angle that is used, in radians."""

ROUNDS = 14
STARTS = 3
"""How many of the best starts are followed."""

STEP = 1e-6


def fit(
    evidence: Evidence, build: Build, numbers: Sequence[Number], right: RotaryCall, step: float = 0
) -> list[list[float]]:
    """Return numbers that fit the evidence, best first; [] if none does.

    Args:
        evidence: angles or frequencies.
        build: makes the call.
        numbers: one or two.
        right: the call that the starts belong to.
        step: relative error of angles that are rounded.
    """
    axes = [_starts(number, right) for number in numbers]
    if len(axes) == 2:
        axes = [axis[:: 1 + len(axis) // 12] for axis in axes]
    scored = []
    for values in product(*axes):
        start, spread = [value for value, _ in values], [width for _, width in values]
        with suppress(ConfigError):
            score = _score(evidence, build, numbers, start, spread, step)
            scored.append((score, start, spread))
    scored.sort(key=lambda one: one[0])
    found = []
    for _, start, spread in scored[:STARTS]:
        with suppress(ConfigError):
            values = refine(evidence, build, numbers, start, spread, step)
            found.append((evidence.error(evidence.numbers(build(values))), values))
    found.sort(key=lambda one: one[0])
    return [values for _, values in found]


def _starts(number: Number, call: RotaryCall) -> list[tuple[float, float]]:
    """Return starts in order, each with the distance of its neighbours."""
    values = sorted(number.starts(call))
    points = [_coordinate(number, value) for value in values]
    if len(points) == 1:
        return [(values[0], 1.0)]
    gaps = [b - a for a, b in zip(points, points[1:], strict=False)]
    widths = [max(a, b) for a, b in zip([0.0, *gaps], [*gaps, 0.0], strict=True)]
    return list(zip(values, widths, strict=True))


def _coordinate(number: Number, value: float) -> float:
    return math.log(value) if number.is_ratio else value


def _moved(number: Number, value: float, by: float) -> float:
    """Return a number moved by a step of its coordinate."""
    return value * math.exp(max(-50.0, min(by, 50.0))) if number.is_ratio else value + by


def _score(
    evidence: Evidence,
    build: Build,
    numbers: Sequence[Number],
    start: Sequence[float],
    spread: Sequence[float],
    step: float,
) -> float:
    """Return how badly the numbers fit what changes little between them and their neighbours."""
    smooth, slopes = _linear(evidence, build, numbers, start)
    noise = evidence.noise(smooth, step)
    deviation = (slopes * torch.tensor(spread, dtype=torch.float64)[:, None] / 2).square().sum(0)
    weights = evidence.weights / (1 + deviation + (noise / 0.3).square()).square()
    residual = evidence.residual(smooth)
    total = float(weights.sum())
    return float(((1 - residual.cos()) * weights).sum()) / total if total else math.inf


def _linear(
    evidence: Evidence, build: Build, numbers: Sequence[Number], values: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Return the smooth numbers `[m]`, and their slopes over each coordinate `[k, m]`."""
    smooth = evidence.smooth(build(values))
    slopes = []
    for place, number in enumerate(numbers):
        moved = list(values)
        moved[place] = _moved(number, values[place], STEP if number.is_ratio else 1.0)
        width = STEP if number.is_ratio else 1.0
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
    for _ in range(ROUNDS):
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
        weights = weights / scale.square() / (1 + (residual / (3 * scale * noise[is_used])).square())
        prior = torch.diag(1 / torch.tensor(spread, dtype=torch.float64).square())
        information = prior + (used * weights) @ used.T
        moves = torch.linalg.solve(information, (used * weights) @ residual).tolist()
        values = [_moved(n, v, by) for n, v, by in zip(numbers, values, moves, strict=True)]
        covariance = torch.linalg.inv(information) * 9
        moved = max(abs(by) / wide for by, wide in zip(moves, spread, strict=True))
        is_settled = bool((is_used == (known & (noise < MAX_PHASE))).all())
        if moved < 1e-9 or (is_settled and _is_small(moves, slopes, noise)):
            break
    assert len(values) == count
    return values


def _is_small(moves: Sequence[float], slopes: Tensor, noise: Tensor) -> bool:
    """Tell whether the last step changed every number by less than a part of its noise."""
    change = (torch.tensor(moves, dtype=torch.float64)[:, None] * slopes).sum(0).abs()
    return bool((change < 0.05 * noise).all())


def round_values(number: Number, value: float) -> list[float]:
    """Return plain numbers near a value, plainest first."""
    if not math.isfinite(value) or value == 0:
        return []
    near = [float(f"{value:.{digits}e}") for digits in range(3)]
    if number.is_whole:
        return list(dict.fromkeys([*near, float(round(value))]))
    if number.is_ratio and value > 0:
        near.insert(1, 2.0 ** round(math.log2(value)))
        near.insert(2, 1 / max(1, round(1 / value)) if value < 1 else float(round(value)))
    return [one for one in dict.fromkeys(near) if abs(one / value - 1) < 0.03]
