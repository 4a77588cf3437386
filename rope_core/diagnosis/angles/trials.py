"""Try mistakes: make a call, fit its number, and compare it with a few tokens of the evidence."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from rope_core.diagnosis.angles.evidence import Evidence, in_float64, in_other_arithmetic
from rope_core.diagnosis.angles.fit import fit, refine, round_values
from rope_core.diagnosis.angles.grid import Build
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import Number
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.errors import ConfigError

NEUTRAL = 1e-3
"""Numbers that differ by less are the same."""

SAME = 1e-12
"""Relative difference of the numbers of calls that are the same."""

MAX_POINTS = 16
"""Starts of each number of a call with two mistakes."""

MANY = 30.0
"""Tolerances from which on an error is not due to the arithmetic of float32."""

OFFSET = "position_offset"
GAINS = ("gain_missing", "gain_twice", "gain_wrong")
"""Mistakes whose number is measured, not fitted."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A call with mistakes, before it is compared with the whole evidence."""

    named: tuple[tuple[str, Mapping[str, Any]], ...]
    call: RotaryCall
    numbers: Tensor
    error: float
    is_odd: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Trials:
    """Makes trials of the calls that mistakes make."""

    few: Evidence
    """The evidence of a few tokens."""

    call: RotaryCall
    """The call without mistakes."""

    codes: Sequence[str]
    """Mistakes that the evidence can show."""

    clues: Clues

    @cached_property
    def right(self) -> Trial:
        """The call without mistakes."""
        return self.trial((), self.call)

    def numbered(self) -> list[str]:
        return [
            code
            for code in self.codes
            if (number := MISTAKES[code].number) is not None
            and code not in GAINS
            and number.value(self.call) is not None
        ]

    def trial(
        self,
        named: tuple[tuple[str, Mapping[str, Any]], ...],
        call: RotaryCall,
        is_odd: bool = False,
    ) -> Trial:
        numbers = self.few.numbers(call)
        error = self.few.error(numbers)
        tolerance = self.few.tolerance
        if tolerance / 50 < error < MANY * tolerance:  # the evidence may be of the other arithmetic
            for again in in_other_arithmetic(call):
                others = self.few.numbers(again)
                less = self.few.error(others)
                if less < error / 2 or less <= tolerance < error:
                    call, numbers, error = again, others, less
        return Trial(named, call, numbers, error, is_odd)

    def plain(self, base: Trial, codes: Iterable[str] | None = None) -> Iterator[Trial]:
        """Return the calls that mistakes without fitted numbers make of a call."""
        made = {code for code, _ in base.named}
        for code in self.codes if codes is None else codes:
            number = MISTAKES[code].number
            if code in made:
                continue
            if number is not None and code not in GAINS and number.value(base.call) is not None:
                continue
            for parameters, wrong in MISTAKES[code].find(base.call, self.clues):
                if wrong.is_repeated:  # its angles are not those of the same pairs
                    continue
                trial = self.trial((*base.named, (code, parameters)), wrong, base.is_odd)
                if not is_same(trial, base):
                    yield trial

    def named_numbers(self, base: Trial) -> Iterator[Trial]:
        """Return the calls with the numbers that code often has, without a fit."""
        for code in self.numbered():
            for parameters, wrong in MISTAKES[code].find(base.call, self.clues):
                yield self.trial((*base.named, (code, parameters)), wrong, base.is_odd)

    def with_right_gain(self, base: Trial) -> Iterator[Trial]:
        """Return the call with the wrong gains that belong to the right call."""
        for code in GAINS:
            if code in self.codes and code != "gain_wrong":
                for parameters, wrong in MISTAKES[code].find(self.call, self.clues):
                    call = replace(base.call, gain=wrong.gain)
                    yield self.trial((*base.named, (code, parameters)), call, base.is_odd)

    def with_offsets(self, base: Trial, count: int) -> Iterator[Trial]:
        """Return the calls whose positions are off by the whole numbers that fit best."""
        if OFFSET not in self.codes or OFFSET in dict(base.named):
            return
        number = number_of(OFFSET)
        for offset in self.few.offsets(base.call, count):
            call = number.vary(base.call, float(offset))
            yield self.trial((*base.named, (OFFSET, {number.parameter: offset})), call)

    def fitted(self, base: Trial, code: str) -> Iterator[Trial]:
        """Return the calls with the fitted number of a mistake."""
        number = number_of(code)
        if number.value(base.call) is None or base.numbers.shape != self.few.shape:
            return
        if base.named and not self.few.work.is_left:
            return

        def build(values: Sequence[float], call: RotaryCall = base.call) -> RotaryCall:
            return number.vary(call, values[0])

        exact = partial(build, call=in_float64(base.call))
        points = MAX_POINTS if base.named else None
        values = fit(self.few, exact, [number], base.call, points=points)
        if values is not None:
            yield from self.rounded(base, [code], build, values)

    def nearly_fitted(self, code: str, step: float) -> Iterator[Trial]:
        """Return the calls with numbers that fit nearly, if angles are rounded by `step`."""
        number = number_of(code)
        if self.right.numbers.shape != self.few.shape or not self.few.work.is_left:
            return

        def build(values: Sequence[float], call: RotaryCall = self.call) -> RotaryCall:
            return number.vary(call, values[0])

        exact = partial(build, call=in_float64(self.call))
        values = fit(self.few, exact, [number], self.call, step, MAX_POINTS)
        if values is not None:
            for value in dict.fromkeys((*round_values(number, values[0]), values[0])):
                is_odd = value == values[0]
                trial = self.number_trial(self.right, [code], build, [value], is_odd)
                if trial is not None:
                    yield trial

    def rounded(
        self, base: Trial, codes: Sequence[str], build: Build, values: Sequence[float]
    ) -> Iterator[Trial]:
        """Return the call with plain numbers near the fitted ones, or with the fitted ones."""
        best = self.number_trial(base, codes, build, values, True)
        if best is None:
            return
        fitted_error, exact = best.error, best
        chosen = list(values)
        is_odd = False
        for place, code in enumerate(codes):
            number = number_of(code)
            for plain in round_values(number, chosen[place]):
                tried = [*chosen[:place], plain, *chosen[place + 1 :]]
                if len(codes) > 1:
                    tried = self._refit(base, codes, build, tried, place)
                trial = self.number_trial(base, codes, build, tried, False)
                limit = max(1.2 * fitted_error, fitted_error + self.few.tolerance / 50)
                if trial is not None and trial.error <= limit:
                    chosen, best = tried, trial
                    break
            else:
                is_odd = True
        yield replace(best, is_odd=is_odd or base.is_odd)
        if best is not exact and best.error > self.few.tolerance:
            yield exact  # another mistake, such as a gain, hides which number is better

    def _refit(
        self, base: Trial, codes: Sequence[str], build: Build, values: Sequence[float], fixed: int
    ) -> list[float]:
        """Return both numbers, the one that is not fixed fitted again."""
        free = 1 - fixed
        number = number_of(codes[free])

        def one(values_: Sequence[float]) -> RotaryCall:
            both = list(values)
            both[free] = values_[0]
            return build(both)

        both = list(values)
        with suppress(ConfigError):
            spread = 0.01 if number.is_ratio else 1.0
            both[free] = refine(self.few, one, [number], [values[free]], [spread])[0]
        return both

    def number_trial(
        self, base: Trial, codes: Sequence[str], build: Build, values: Sequence[float], is_odd: bool
    ) -> Trial | None:
        with suppress(ConfigError):
            values = [_plain_number(number_of(c), v) for c, v in zip(codes, values, strict=True)]
            if any(
                _is_neutral(number_of(c), base.call, v) for c, v in zip(codes, values, strict=True)
            ):
                return None
            call = build(values)
            named = [
                (code, {number_of(code).parameter: value})
                for code, value in zip(codes, values, strict=True)
            ]
            return self.trial((*base.named, *named), call, is_odd)
        return None


def _is_neutral(number: Number, call: RotaryCall, value: float) -> bool:
    """Tell whether a number is the one that the call has already."""
    right = number.value(call)
    return right is not None and abs(value - right) <= NEUTRAL * max(abs(right), 1)


def number_of(code: str) -> Number:
    """Return the number of a mistake that has one."""
    number = MISTAKES[code].number
    assert number is not None, "the caller has a code with a number"
    return number


def _plain_number(number: Number, value: float) -> float | int:
    return round(value) if number.is_whole else float(value)


def is_same(one: Trial, other: Trial, limit: float = SAME) -> bool:
    """Tell whether the numbers of two calls differ by a relative error of at most `limit`."""
    a, b = one.numbers, other.numbers
    return a.shape == b.shape and bool((a - b).norm() <= limit * b.norm())
