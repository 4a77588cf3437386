"""How far a call is from the evidence of attention, and which numbers fit best."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rope_core.diagnosis.attention_call import AttentionCall, AttentionClues
from rope_core.diagnosis.attention_simulation import Part, Result, simulate

STARTS = 25
"""Numbers from which the search of a number starts."""

STEPS = 8
"""Steps of the search, at most."""

CONVERGED = 1e-9
SAME = 1e-4
"""Relative difference below which a number is the one of the call."""

ROUNDED = 5e-3
"""Relative difference at which a round number is tried in place of a fitted one."""


def relative_error(call: AttentionCall, parts: Sequence[Part], limit: float = math.inf) -> float:
    """Return |evidence - reproduced| / |reproduced|, the greater of out and lse.

    Infinite once the first parts are above `limit`.
    """
    sums = torch.zeros(2, 2, dtype=torch.float64)
    error = math.inf
    for part in parts:
        result = simulate(call, part)
        sums[0] += _squares(part.out, result.out)
        if part.lse is not None:
            sums[1] += _squares(part.lse, result.lse)
        error = max(_ratio(*row) for row in sums.tolist())
        if not error <= limit:
            return math.inf
    return error


def _squares(got: Tensor, reproduced: Tensor) -> Tensor:
    """Return the squares of |got - reproduced| and of |reproduced|, `[2]`."""
    both = torch.stack((difference(got, reproduced), reproduced.nan_to_num(0.0, 0.0, 0.0)))
    return both.square().sum(tuple(range(1, both.ndim)))


def difference(got: Tensor, expected: Tensor) -> Tensor:
    """Return got - expected: 0 where both are -inf, |the other| + 1 where one is (log-sum-exp)."""
    values = got - expected
    if bool(values.isfinite().all()):
        return values
    finite = got.nan_to_num(0.0, 0.0, 0.0).abs() + expected.nan_to_num(0.0, 0.0, 0.0).abs()
    values = torch.where(values.isfinite(), values, finite + 1)
    return values.masked_fill(got == expected, 0)


def _ratio(error: float, norm: float) -> float:
    if norm == 0:
        return 0.0 if error == 0 else math.inf
    return math.sqrt(error / norm)


def measure(
    call: AttentionCall, probe: Part, parts: Sequence[Part], limit: float, mscale: float | None
) -> AttentionClues:
    """Return the numbers that fit best if all else is as `call` has it.

    Args:
        call: attention that may have a wrong number.
        probe: a small part.
        parts: all parts.
        limit: relative error above which a number does not fit.
        mscale: factor of YaRN in the softmax scale of the model.
    """
    scale = fit(call, "scale", _around(call.scale), probe, parts, limit)
    if scale is not None:
        scale = rounded(
            scale, named_scales(call, mscale), lambda value: replace(call, scale=value), parts
        )
    softcap = fit(call, "softcap", [0.5 * 1.4**i for i in range(STARTS)], probe, parts, limit)
    if softcap is not None:
        softcap = rounded(softcap, (), lambda value: replace(call, softcap=value), parts)
    return AttentionClues(
        scale=None if scale is None or _is_same(scale, call.scale) else scale,
        softcap=None if softcap is None or _is_same(softcap, call.softcap) else softcap,
        lse_shift=lse_shift(call, parts),
        mscale=mscale,
    )


def _around(value: float) -> list[float]:
    return [value * 1.45 ** (i - STARTS // 2) for i in range(STARTS)]


def _is_same(value: float, other: float | None) -> bool:
    return other is not None and abs(value - other) <= SAME * abs(other)


def fit(
    call: AttentionCall,
    name: str,
    starts: Sequence[float],
    probe: Part,
    parts: Sequence[Part],
    limit: float,
) -> float | None:
    """Return the `scale` or the `softcap` that fits best; None if none fits or all do."""
    if probe.out.shape[-1] == 0:
        return None
    values = torch.tensor(starts, dtype=torch.float64)
    errors = _errors(simulate(_with(call, name, values), probe), probe)
    if not bool(errors.isfinite().any()) or float(errors.max() - errors.min()) < 1e-9:
        return None
    best = float(values[errors.nan_to_num(math.inf).argmin()])
    best = _newton(call, name, best, [probe])
    if not relative_error_of_out(replace(call, **{name: best}), [probe]) <= limit:
        return None
    return _newton(call, name, best, parts)


def relative_error_of_out(call: AttentionCall, parts: Sequence[Part]) -> float:
    """Return the relative error of out alone."""
    sums = sum((_squares(part.out, simulate(call, part).out) for part in parts), torch.zeros(2))
    return _ratio(*sums.tolist())


def _with(call: AttentionCall, name: str, values: Tensor) -> AttentionCall:
    return replace(call, **{name: values.view(-1, 1, 1, 1)})


def _errors(result: Result, part: Part) -> Tensor:
    """Return |theirs - reproduced| of each value, `[C]`."""
    return (result.out - part.out).square().sum((-3, -2, -1))


def _newton(call: AttentionCall, name: str, value: float, parts: Sequence[Part]) -> float:
    """Return the value of the least squares near `value`, by steps of Gauss and Newton."""
    step = 1e-6
    for _ in range(STEPS):
        values = torch.tensor([value, value * (1 + step)], dtype=torch.float64)
        slope_error, slope_slope = 0.0, 0.0
        for part in parts:
            out = simulate(_with(call, name, values), part).out
            slope = (out[1] - out[0]) / step
            slope_error += float((slope * (part.out - out[0])).sum())
            slope_slope += float(slope.square().sum())
        if not slope_slope > 0:
            return value
        change = min(0.5, max(-0.5, slope_error / slope_slope))
        value *= math.exp(change)
        if abs(change) < CONVERGED:
            break
    return value


def named_scales(call: AttentionCall, mscale: float | None) -> tuple[float, ...]:
    """Return factors of scores that code is known to have."""
    widths = [call.head_dim, call.value_dim, call.head_dim // 2]
    if call.rope is not None:
        widths += [call.rope.rotary_dim, call.head_dim - call.rope.rotary_dim]
    scales = [width**-0.5 for width in widths if width > 0]
    scales += [1.0, 1.0 / call.head_dim, call.scale**2]
    if mscale is not None:
        scales += [call.scale / mscale, call.scale / mscale**2]
    return tuple(scales)


def rounded(
    value: float,
    named: Sequence[float],
    change: Callable[[float], AttentionCall],
    parts: Sequence[Part],
) -> float:
    """Return a named or round number in place of a fitted one, if it fits as well."""
    tried = [near for near in named if abs(near - value) <= ROUNDED * abs(value)]
    tried += [float(f"{value:.{digits}g}") for digits in (1, 2, 3)]
    best = relative_error_of_out(change(value), parts)
    for near in tried:
        if abs(near - value) > ROUNDED * abs(value):
            continue
        if relative_error_of_out(change(near), parts) <= 1.05 * best + 1e-7:
            return near
    return value


def lse_shift(call: AttentionCall, parts: Sequence[Part]) -> float | None:
    """Return the number by which the log-sum-exp is off, None if it is not the same everywhere."""
    differences = []
    for part in parts:
        if part.lse is None:
            return None
        values = (part.lse - simulate(call, part).lse) * math.log(call.lse_base)
        differences.append(values[values.isfinite()])
    values = torch.cat(differences)
    if len(values) < 2:
        return None
    shift, spread = float(values.mean()), float(values.std())
    return shift if abs(shift) > 1e-4 and spread < abs(shift) / 4 else None
