"""How far a call is from the evidence of attention, and which numbers fit best."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from rope_core.diagnosis.attention.simulation import Part, Result, least_error, simulate
from rope_core.diagnosis.attention_call import AttentionCall, AttentionClues, Fitted
from rope_core.errors import ConfigError

PROBE_STEPS = 6
"""Steps of the search of a number on a small part, at most."""

STEPS = 4
"""Steps on all parts, at most."""

FAR = (2.0, 1.0, 0.5, 0.2)
"""Relative error before each step above which the search of a number is given up."""

STEP = 1e-6
"""Change of a number, relative to it, to which the change of the output is measured."""

ROPE_STEP = 1e-3
"""As STEP, of numbers of a rope, whose frequencies may be float32."""

WHOLE_STEP = 1e-2
"""As STEP, of whole numbers, which change by 1 at least."""

FLOAT32_STEP = 1e-3
"""As STEP, of parts in float32."""

CONVERGED = 1e-8
FLOAT32_CONVERGED = 1e-5
SAME = 1e-4
"""Relative difference below which a fitted number is that of the call."""

NEAR = 5e-3
"""Relative difference at which a plain number is tried in place of a fitted one."""

Output = Literal["out", "lse"]
OUT: Output = "out"
Change = Callable[[float], AttentionCall]
"""From a number to a call. Raises ConfigError if no call has the number."""


def relative_error(call: AttentionCall, parts: Sequence[Part], limit: float = math.inf) -> float:
    """Return |evidence - reproduced| / |reproduced|, the greater of out and lse.

    Infinite once the first parts are above `limit`.
    """
    sums = torch.zeros(2, 2, dtype=torch.float64)
    error = math.inf
    for part in parts:
        if least_error(call, part) > limit:
            return math.inf
        result = simulate(call, part)
        sums[0] += _squares(part.out, result.out)
        if part.lse is not None:
            sums[1] += _squares(part.lse, result.lse)
        error = max(_ratio(*row) for row in sums.tolist())
        if not error <= limit:
            return math.inf
    return error


def error_of_out(
    call: AttentionCall, parts: Sequence[Part], output: Output = "out", limit: float = math.inf
) -> float:
    """Return |evidence - reproduced| / |reproduced| of one output.

    Infinite once the first parts are above `limit`.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    error = math.inf
    for part in parts:
        sums += _squares(getattr(part, output), getattr(simulate(call, part), output))
        error = _ratio(*sums.tolist())
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
    call: AttentionCall, parts: Sequence[Part], limit: float, mscale: float | None, *, caps: bool
) -> AttentionClues:
    """Return the numbers that fit best if all else is as `call` has it.

    Args:
        call: attention that may have a wrong number.
        parts: the evidence, a small part first.
        limit: relative error above which a number does not fit.
        mscale: factor of YaRN in the softmax scale of the model.
        caps: whether the scores may have a soft cap.
    """
    if least_error(call, parts[0]) > limit:
        return AttentionClues(mscale=mscale)
    scales = [call.scale * 1.45 ** (i - 12) for i in range(25)]
    scale = _fit_field(call, "scale", scales, named_scales(call, mscale), parts, limit)
    softcaps = [0.5 * 1.4**i for i in range(20)]
    softcap = _fit_field(call, "softcap", softcaps, (), parts, limit) if caps else None
    return AttentionClues(
        scale=scale, softcap=softcap, lse_shift=lse_shift(call, parts), mscale=mscale
    )


def _fit_field(
    call: AttentionCall,
    name: str,
    starts: Sequence[float],
    named: Sequence[float],
    parts: Sequence[Part],
    limit: float,
) -> Fitted | None:
    """Return the scale or the softcap that fits best; None if it is that of the call."""
    starts = [*named, *starts]
    values = torch.tensor(starts, dtype=torch.float64)
    fields: dict[str, Any] = {name: values.view(-1, 1, 1, 1)}
    result = simulate(replace(call, **fields), parts[0])
    errors, output = errors_of(result, parts[0]), OUT
    if parts[0].lse is not None and float(errors.max() - errors.min()) < 1e-9:
        # queries that see one key: only the log-sum-exp depends on the scale
        errors, output = (result.lse - parts[0].lse).square().sum((-2, -1)), "lse"
    start = starts[int(errors.nan_to_num(math.inf).argmin())]

    def change(value: float) -> AttentionCall:
        field: dict[str, Any] = {name: value}
        return replace(call, **field)

    if start in named and error_of_out(change(start), parts, output, limit / 30) <= limit / 30:
        found: Fitted | None = Fitted(start, False)  # also where weights are 0 and 1 at any scale
    else:
        found = fitted(change, start, parts, limit, named=named, output=output)
    right = getattr(call, name)
    if found is None or (right is not None and abs(found.value / right - 1) < SAME):
        return None
    return found


def errors_of(result: Result, part: Part) -> Tensor:
    """Return |evidence - reproduced| ** 2 of each of the results `[C, ...]`: `[C]`."""
    return (result.out - part.out).square().sum((-3, -2, -1)).nan_to_num(math.inf)


def fitted(
    change: Change,
    start: float,
    parts: Sequence[Part],
    limit: float,
    *,
    is_ratio: bool = True,
    named: Sequence[float] = (),
    step: float = STEP,
    output: Output = "out",
) -> Fitted | None:
    """Return the number near `start` that fits best, None if none fits.

    Args:
        change: makes a call of a number.
        start: where the search starts.
        parts: the evidence, a small part first.
        limit: relative error above which a number does not fit.
        is_ratio: whether numbers differ by ratios.
        named: numbers that code is known to have.
        step: change of the number to which the change of the output is measured.
        output: what has to fit.
    """
    if output == "out" and least_error(change(start), parts[0]) > limit:
        return None
    value = _least_squares(change, start, is_ratio, parts[:1], step, PROBE_STEPS, output)
    if value is None or not error_of_out(change(value), parts[:1], output) <= limit:
        return None
    value = _least_squares(change, value, is_ratio, parts, step, STEPS, output)
    if value is None:
        return None
    best = error_of_out(change(value), parts, output, limit)
    if not best <= limit:
        return None
    for near in (*named, *plain_numbers(value)):
        if abs(near - value) <= NEAR * abs(value):
            with suppress(ConfigError):
                most = 1.1 * best + 1e-7
                if error_of_out(change(near), parts, output) <= most:
                    return Fitted(near, False)
    return Fitted(value, True)


def _least_squares(
    change: Change,
    value: float,
    is_ratio: bool,
    parts: Sequence[Part],
    step: float,
    steps: int,
    output: Output,
) -> float | None:
    """Return the number near `value` that fits best, by steps of Gauss and Newton.

    None if no output depends on it, or if the first steps come no nearer.
    """
    is_far = any(part.is_far for part in parts)
    step, converged = (max(step, FLOAT32_STEP), FLOAT32_CONVERGED) if is_far else (step, CONVERGED)
    for number in range(steps):
        moved = value * (1 + step) if is_ratio else value + step
        slope_error = slope_slope = error = norm = 0.0
        one, other = change(value), change(moved)
        for part in parts:
            out, given = getattr(simulate(one, part), output), getattr(part, output)
            slope = (getattr(simulate(other, part), output) - out) / step
            slope_error += float((slope * (given - out)).sum())
            slope_slope += float(slope.square().sum())
            error += float((given - out).square().sum())
            norm += float(out.square().sum())
        if not slope_slope > 1e-12 or error > FAR[min(number, len(FAR) - 1)] ** 2 * norm:
            return None
        by = slope_error / slope_slope
        if is_ratio:
            by = min(0.4, max(-0.4, by))
            value *= math.exp(by)
        else:
            value += by
        if abs(by) < converged * (1 if is_ratio else max(1.0, abs(value))):
            break
    return value


def two_numbers(
    change: Callable[[float, float], AttentionCall],
    start: tuple[float, float],
    parts: Sequence[Part],
    limit: float,
) -> tuple[float, float] | None:
    """Return two numbers that fit together, None if none do.

    Args:
        change: makes a call of the number of a rope, and of the scale of the scores.
        start: where the search starts; both differ by ratios.
        parts: the evidence, a small part first.
        limit: relative error above which numbers do not fit.
    """
    values = list(start)
    is_far = any(part.is_far for part in parts)
    of_scale, converged = (FLOAT32_STEP, FLOAT32_CONVERGED) if is_far else (STEP, CONVERGED)
    for some, steps in ((parts[:1], PROBE_STEPS + 4), (parts, STEPS)):
        for number in range(steps):
            moved = [
                (values[0] * (1 + ROPE_STEP), values[1]),
                (values[0], values[1] * (1 + of_scale)),
            ]
            normal, side = torch.zeros(2, 2).double(), torch.zeros(2).double()
            error = norm = 0.0
            one, others = change(values[0], values[1]), [change(*pair) for pair in moved]
            for part in some:
                out = simulate(one, part).out
                slopes = torch.stack(
                    [
                        ((simulate(other, part).out - out) / step).flatten()
                        for other, step in zip(others, (ROPE_STEP, of_scale), strict=True)
                    ]
                )
                normal += slopes @ slopes.T
                side += slopes @ (part.out - out).flatten()
                error += float((part.out - out).square().sum())
                norm += float(out.square().sum())
            if error > FAR[min(number // 2, len(FAR) - 1)] ** 2 * norm:
                return None
            damping = 1e-9 * torch.eye(2).double() * normal.diagonal().sum().clamp(min=1e-12)
            moves = torch.linalg.solve(normal + damping, side).clamp(-0.4, 0.4).tolist()
            values = [value * math.exp(move) for value, move in zip(values, moves, strict=True)]
            if max(map(abs, moves)) < converged:
                break
        if not error_of_out(change(values[0], values[1]), some) <= limit:
            return None
    return values[0], values[1]


def plain_numbers(value: float) -> list[float]:
    """Return round numbers near `value`."""
    return [float(f"{value:.{digits}e}") for digits in range(3)]


def named_scales(call: AttentionCall, mscale: float | None) -> tuple[float, ...]:
    """Return factors of scores that code is known to have."""
    widths = [call.head_dim, call.value_dim, call.head_dim // 2]
    if call.rope is not None:
        widths += [call.rope.rotary_dim, call.head_dim - call.rope.rotary_dim]
    scales = [width**-0.5 for width in widths if width > 0]
    scales += [1.0, 1.0 / call.head_dim, call.scale**2, call.scale * call.head_dim**-0.5]
    if mscale is not None:
        scales += [call.scale / mscale, call.scale / mscale**2, call.scale * mscale**2]
    scales += [call.scale * ratio for ratio in (0.25, 0.5, 2.0, 4.0)]
    return tuple(scales)


def lse_shift(call: AttentionCall, parts: Sequence[Part]) -> Fitted | None:
    """Return the number by which the log-sum-exp is off, None if it is not the same everywhere."""
    values = torch.zeros(0, dtype=torch.float64)
    for part in parts:
        if part.lse is None:
            return None
        off = (part.lse - simulate(call, part).lse) * math.log(call.lse_base)
        values = torch.cat((values, off[off.isfinite()]))
        if not len(values):
            continue
        shift = float(values.median())
        spread = float((values - shift).abs().median())
        if abs(shift) < 1e-4 or spread > abs(shift) / 10:
            return None
    if not len(values):
        return None
    for near in (*(math.log(n) for n in range(2, 9)), *plain_numbers(shift)):
        for signed in (near, -near):
            if abs(signed - shift) <= max(spread, 1e-6):
                return Fitted(signed, False)
    return Fitted(shift, True)
