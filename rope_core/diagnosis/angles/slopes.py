"""Measure frequencies: the slope of each pair's angle over the positions, unwrapped."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.calls import Clues, RotaryCall

LAGS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)
"""Distances, in sorted positions, of the tokens whose angles are compared."""

MAX_RESIDUAL = 0.3
"""Largest rms of an angle's residual, in radians, of a pair whose frequency is decided."""

GEOMETRIC = 1e-3
"""Largest deviation of the logarithm of a frequency from a geometric progression."""


@dataclass(frozen=True, slots=True)
class _Lines:
    """Angle = slope * position + phase of each pair, and the rms of the residuals, `[n]`."""

    slope: Tensor
    phase: Tensor
    residual: Tensor
    """Infinity for a pair that is not decided."""


def measure(table: AngleTable, call: RotaryCall) -> Clues:
    """Return the frequencies, phases, gain and axes that the table shows.

    Args:
        table: measured angles.
        call: the right call. Its frequencies decide among those that differ by whole turns between
            all given positions, and are compared with the measured ones.
    """
    expected = call.rope.frequency_table.inv_freq.double()
    expected = -expected if call.rope.negative else expected
    if len(expected) != table.z.shape[1]:
        expected = torch.zeros(table.z.shape[1], dtype=torch.float64)
    fits = [_fit_lines(table, row, expected) for row in table.positions]
    axis = None
    if len(fits) == 1:
        best = fits[0]
    else:
        residuals = torch.stack([fit.residual for fit in fits])
        least, axis = residuals.min(0)
        second = residuals.kthvalue(2, 0).values
        best = _Lines(
            *(
                torch.stack([getattr(fit, name) for fit in fits]).gather(0, axis[None])[0]
                for name in ("slope", "phase", "residual")
            )
        )
        axis = axis.where(least * 3 < second, -1)
    decided = best.residual <= MAX_RESIDUAL
    slope, phase = (t.where(decided, math.nan) for t in (best.slope, best.phase))
    return Clues(
        inv_freq=slope,
        phase=phase,
        axis=axis,
        gain=measure_gain(table),
        position_offset=_offset(slope, phase) if len(fits) == 1 else None,
        position_scale=_scale(slope, expected),
        theta=geometric_base(slope.abs()),
    )


def line_residuals(table: AngleTable, call: RotaryCall) -> Tensor:
    """Return the rms of what a line over the positions leaves of each pair's angle, `[n]`."""
    expected = call.rope.frequency_table.inv_freq.double()
    expected = -expected if call.rope.negative else expected
    fits = [_fit_lines(table, row, expected) for row in table.positions]
    return torch.stack([fit.residual for fit in fits]).amin(0)


def measure_gain(table: AngleTable) -> float | None:
    """Return the weighted mean of |z|, None if no token tells anything."""
    total = float(table.weights.sum())
    if not total:
        return None
    return float((table.z.abs() * table.weights).sum()) / total


def _fit_lines(table: AngleTable, positions: Tensor, expected: Tensor) -> _Lines:
    """Fit a line to each pair's angle over one axis of positions, `[T]`."""
    where, group = torch.unique(positions, return_inverse=True)  # sorted
    weighted = table.z * table.weights
    sums = weighted.new_zeros((len(where), table.z.shape[1])).index_add_(0, group, weighted)
    none = torch.full((table.z.shape[1],), math.inf, dtype=torch.float64)
    zero = torch.zeros_like(none)
    if len(where) < 2:
        return _Lines(zero, zero, none)
    magnitude = sums.abs()
    units = torch.where(magnitude > 0, sums / magnitude.where(magnitude > 0, 1), 0)
    known = (magnitude > 0).double()
    lags = [lag for lag in LAGS if lag < len(where)]
    steps = torch.cat([where[lag:] - where[:-lag] for lag in lags])  # [P]
    turns = torch.cat([units[lag:] * units[:-lag].conj() for lag in lags])  # [P, n]
    order = steps.argsort()
    steps, turns = steps[order], turns[order]

    span = float(steps[0])
    count = int((steps <= span * 1.001).sum())
    slope = turns[:count].sum(0).angle() / span
    if span > 1.5:  # other frequencies, whole turns apart, have the same angles
        turn = 2 * math.pi / span
        slope = slope + ((expected - slope) / turn).round() * turn
    longest = float(steps[-1])
    while span < longest:
        span *= 2
        end = int((steps <= span * 1.001).sum())
        if end > count:
            count = end
            slope = slope + _correction(steps[:end], turns[:end], slope)
    back = torch.polar(torch.ones(()).double(), -where[:, None] * slope)
    phase = (units * back).sum(0).angle()
    residual = _angle(units * back * torch.polar(torch.ones(()).double(), -phase))
    centred = where[:, None] - (known * where[:, None]).sum(0) / known.sum(0).clamp_min(1)
    correction = (residual * centred).sum(0) / (known * centred.square()).sum(0).clamp_min(1e-300)
    slope = slope + correction
    phase = phase + residual.sum(0) / known.sum(0).clamp_min(1)
    phase = phase - correction * (where[:, None] - centred)[0]
    back = torch.polar(torch.ones(()).double(), -(positions[:, None] * slope + phase))
    energy = table.weights.sum(0)
    errors = (table.z * back).angle().square() * table.weights
    rms = (errors.sum(0) / energy.clamp_min(1e-300)).sqrt()
    spread = (known.sum(0) >= 2) & (energy > 0)
    phase = torch.remainder(phase + math.pi, 2 * math.pi) - math.pi
    return _Lines(slope, phase, rms.where(spread, math.inf))


def _correction(steps: Tensor, turns: Tensor, slope: Tensor) -> Tensor:
    """Return what to add to the slopes so that they fit the turns of these steps."""
    back = torch.polar(torch.ones(()).double(), -steps[:, None] * slope)
    residual = _angle(turns * back)
    energy = (turns.abs() * steps[:, None].square()).sum(0)
    return (residual * steps[:, None]).sum(0) / energy.clamp_min(1e-300)


def _angle(z: Tensor) -> Tensor:
    """Return the angles of complex numbers, 0 of those that are 0 with any sign."""
    return torch.where(z == 0, 0, z.angle())


def _offset(slope: Tensor, phase: Tensor) -> float | None:
    """Return the constant that the positions are off by, from slow to fast pairs."""
    decided = slope.isfinite() & (slope.abs() > 1e-12)
    if not bool(decided.any()):
        return None
    slope, phase = slope[decided], phase[decided]
    order = slope.abs().argsort()
    offset = energy = 0.0
    for w, angle in zip(slope[order].tolist(), phase[order].tolist(), strict=True):
        error = math.remainder(angle - w * offset, 2 * math.pi)
        energy += w * w
        offset += error * w / energy
    rest = torch.remainder(phase - slope * offset + math.pi, 2 * math.pi) - math.pi
    return offset if float(rest.square().mean()) < MAX_RESIDUAL**2 else None


def _scale(slope: Tensor, expected: Tensor) -> float | None:
    """Return measured / expected frequency, if it is the same for all pairs."""
    decided = slope.isfinite() & (expected.abs() > 1e-12)
    if not bool(decided.any()):
        return None
    weights = expected[decided].square()
    scale = float((slope[decided] * expected[decided]).sum() / weights.sum())
    ratio = slope[decided] / expected[decided]
    middle = float(ratio.median())
    return scale if abs(middle - scale) < 0.01 * abs(scale) else None


def geometric_base(inv_freq: Tensor) -> float | None:
    """Return the base of frequencies `[n]` that are a geometric progression from 1 on."""
    decided = inv_freq.isfinite() & (inv_freq > 0)
    count = len(inv_freq)
    if int(decided.sum()) < 3 or not bool(decided[0]):
        return None
    steps = torch.arange(count, dtype=torch.float64)[decided]
    logarithm = inv_freq[decided].log()
    weights = inv_freq[decided]  # fast pairs are measured better
    mean_step, mean = ((t * weights).sum() / weights.sum() for t in (steps, logarithm))
    slope = ((steps - mean_step) * (logarithm - mean) * weights).sum()
    slope = slope / ((steps - mean_step).square() * weights).sum()
    errors = (logarithm - mean - slope * (steps - mean_step)).abs() * weights / weights.max()
    first = float(mean - slope * mean_step)
    if float(errors.max()) > GEOMETRIC or abs(first) > GEOMETRIC:
        return None
    return math.exp(-float(slope) * count)


def scaled_base(inv_freq: Tensor) -> float | None:
    """Return the base of frequencies that are a geometric progression times a number."""
    first = inv_freq[0]
    return geometric_base(inv_freq / first) if bool(first > 0) else None
