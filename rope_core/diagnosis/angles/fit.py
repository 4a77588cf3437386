"""Fit the numbers of mistakes to evidence: from a coarse grid to the last digit.

An angle is known up to whole turns. A number that is roughly known predicts those angles well that
depend on the number little: slow pairs, small positions. They make the number more exact, so that
more angles are predicted to a part of a turn, and so on.
"""

import math
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from rope_core.diagnosis.angles.evidence import Array, Evidence
from rope_core.diagnosis.angles.grid import Build, Grid
from rope_core.diagnosis.calls import RotaryCall
from rope_core.diagnosis.mistake import Number
from rope_core.errors import ConfigError

MAX_PHASE = 1.0
"""Largest standard deviation of a predicted angle that is used, in radians."""

MAX_MISFIT = 40.0
"""Residuals so many times their noise are not due to the numbers: the call is another."""

MAX_ERROR = 0.9
"""Relative error of a call whose numbers are nearly right."""

CAUTION = 9.0
"""Variances are taken to be larger than the residuals say, by this factor."""

ROUNDS = 14

STEP = 1e-6
WHOLE_STEP = 1e-2
"""Ratios of a number that are told apart in the slopes."""


def fit(
    evidence: Evidence,
    build: Build,
    numbers: Sequence[Number],
    right: RotaryCall,
    step: float = 0,
    points: int | None = None,
) -> list[float] | None:
    """Return the numbers that fit the evidence best; None if no call has any.

    Args:
        evidence: angles or frequencies.
        build: makes the call.
        numbers: one or two.
        right: the call that the starts belong to.
        step: relative error of angles that are rounded.
        points: how many starts of each number at most; None for all.
    """
    grid = Grid.of(evidence, build, numbers, right, points)
    if not grid.values or not grid.is_reachable(evidence, step):
        return None
    found = []
    for start, spread in grid.best(evidence, step):
        with suppress(ConfigError):
            if evidence.error(evidence.numbers(build(start))) <= evidence.tolerance / 10:
                return start
            values = refine(evidence, build, numbers, start, spread, step)
            found.append((evidence.error(evidence.numbers(build(values))), values, spread))
    if not found:
        return None
    error, values, spread = min(found, key=lambda one: one[0])
    if error < MAX_ERROR:
        values = _scan_steps(evidence, build, numbers, values, spread)
    return values


def _moved(number: Number, value: float, by: float) -> float:
    """Return a number moved by a step of its coordinate."""
    return value * math.exp(max(-50.0, min(by, 50.0))) if number.is_ratio else value + by


def _linear(
    evidence: Evidence, build: Build, numbers: Sequence[Number], values: Sequence[float]
) -> tuple[Array, Array]:
    """Return the smooth numbers `[m]`, and their slopes over each coordinate `[k, m]`."""
    smooth = evidence.smooth(build(values))
    slopes = []
    for place, number in enumerate(numbers):
        width = (WHOLE_STEP if number.is_whole else STEP) if number.is_ratio else 1.0
        moved = list(values)
        moved[place] = _moved(number, values[place], width)
        slopes.append((evidence.smooth(build(moved)) - smooth) / width)
    return smooth, np.stack(slopes)


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
    prior = np.diag(1 / np.square(spread))
    covariance = np.diag(np.square(spread))
    known = evidence.weights > 0
    if not known.any():
        return values
    for turn in range(ROUNDS):
        smooth, slopes = _linear(evidence, build, numbers, values)
        noise = evidence.noise(smooth, step)
        deviation = ((covariance @ slopes) * slopes).sum(0) + noise**2
        is_used = known & (deviation < MAX_PHASE**2)
        if not is_used.any():
            is_used = known & (deviation <= 2 * deviation[known].min())
        used, noise_used = slopes[:, is_used], noise[is_used]
        residual = evidence.residual(smooth)[is_used]
        # residuals far above the rounding are no errors of the numbers: they count less
        ratio = np.abs(residual) / noise_used
        depends = (used * np.array(spread)[:, None] > noise_used).any(0)
        scale = max(1.0, float(np.median(ratio[depends] if depends.any() else ratio)))
        wide = scale * noise_used
        weights = evidence.weights[is_used] / (wide**2 + (residual / 3) ** 2)
        information = prior + (used * weights) @ used.T
        gradient = (used * weights) @ residual
        inverse = np.linalg.pinv(information, hermitian=True)
        covariance = inverse * CAUTION
        moves = (inverse @ gradient).tolist()
        values = [_moved(n, v, by) for n, v, by in zip(numbers, values, moves, strict=True)]
        if turn >= 3 and scale > MAX_MISFIT:
            break
        moved = max(abs(by) / far for by, far in zip(moves, spread, strict=True))
        is_settled = bool((is_used == (known & (noise < MAX_PHASE))).all())
        if moved < 1e-9 or (is_settled and _is_small(moves, slopes, noise)):
            break
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
        best = evidence.error(evidence.numbers(build(values)))
        if best <= evidence.tolerance / 10:
            return values
        around = values[place]
        far = math.exp(spread[place])
        for value in number.starts(build(values)):
            if around / far <= value <= around * far:
                tried = [*values[:place], value, *values[place + 1 :]]
                with suppress(ConfigError):
                    error = evidence.error(evidence.numbers(build(tried)))
                    if error < best:
                        best, values = error, tried
    return values


def _is_small(moves: Sequence[float], slopes: Array, noise: Array) -> bool:
    """Tell whether the last step changed every number by less than a part of its noise."""
    return bool((np.abs(np.array(moves) @ slopes) < 0.05 * noise).all())


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
