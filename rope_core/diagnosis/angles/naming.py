"""Name what angles or frequencies do differently from a rope.

First each mistake alone: those with named values as they are, those with a number after a fit of
the number. Then pairs of them, if no mistake alone explains the evidence.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.angles.evidence import (
    HALF_STEP,
    Angles,
    Evidence,
    Frequencies,
    few_tokens,
    in_float64,
    subset,
)
from rope_core.diagnosis.angles.fit import fit, refine, round_values
from rope_core.diagnosis.angles.grid import Build
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import CODES, Number
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.diagnosis.ranking import Candidate
from rope_core.errors import ConfigError

FEW = 20
"""Tokens of the search. The best of what was found is compared with all tokens of the table."""

VERIFIED = 24
"""Candidates that are compared with all tokens."""

WHOLE_ROPE = frozenset(
    ("layer_type_wrong", "config_of_other_version", "partial_ignored", "rotary_dim_wrong")
) | {"scaling_ignored", "scaling_other_type"}

NEUTRAL = 1e-3
"""Numbers that differ by less are the same."""

MANY = 30.0
"""Tolerances from which on an error is not due to the arithmetic of float32."""

OF_STRUCTURE = frozenset(
    ("layout_swapped", "layout_mixed", "layout_permuted", "slice_at_other_end", "axis_mistaken")
) | {"nope_layer_rotated"}
"""Mistakes that do not show in a table of angles."""

OF_CONFIG = frozenset(
    ("scaling_ignored", "truncate_wrong", "beta_swapped", "longrope_other_list", "gain_missing")
) | {"gain_twice", "exponent_width_wrong", "layer_type_wrong", "config_of_other_version"}
"""Mistakes whose numbers are all of the config."""

GAINS = ("gain_missing", "gain_twice", "gain_wrong")
ROUNDED = ("angles_rounded", "positions_rounded")
OFFSET = "position_offset"
LAST = (*GAINS, *ROUNDED)
"""Mistakes that are made of a call whose numbers are wrong already: they do not hide numbers, or
hide them too well."""

HIDES = {"exponent_width_wrong": ("wrong_base",)}
"""Mistakes that a fitted number would undo: they are made of a call with that number."""


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A call with mistakes, before it is compared with the whole evidence."""

    named: tuple[tuple[str, Mapping[str, Any]], ...]
    call: RotaryCall
    numbers: Tensor
    error: float
    is_odd: bool = False


def name_angles(
    table: AngleTable,
    call: RotaryCall,
    clues: Clues,
    max_mistakes: int,
    kind: Literal["rotation", "table"] = "rotation",
) -> list[Candidate]:
    """Return calls that give the table, with at most `max_mistakes` mistakes made of `call`.

    The call itself is one of them, without mistakes, if it gives the table. Errors are those of
    `table.relative_error(predict(call, table.index))`.
    """
    few = Angles.of(subset(table, few_tokens(table, FEW)))
    search = _Search(few, Angles.of(table), _codes(kind), call, clues)
    return search.candidates(max_mistakes)


def name_frequencies(
    row: Tensor, call: RotaryCall, clues: Clues, max_mistakes: int, tolerance: float
) -> list[Candidate]:
    """Return calls whose frequencies are `row`, float64 `[n]`, as `name_angles` does."""
    positions = torch.ones((call.rope.num_axes, 1), dtype=torch.float64)
    evidence = Frequencies.of(row, tolerance)
    one = replace(call, positions=positions, shape=(1, 1, 1))
    return _Search(evidence, evidence, _codes("frequencies"), one, clues).candidates(max_mistakes)


def _codes(kind: str) -> tuple[str, ...]:
    return tuple(
        code
        for code in CODES
        if code in MISTAKES and kind in MISTAKES[code].evidence and code not in OF_STRUCTURE
    )


class _Search:
    """Looks for mistakes in a few tokens, and compares the best with all of them."""

    def __init__(
        self,
        few: Evidence,
        whole: Evidence,
        codes: Sequence[str],
        call: RotaryCall,
        clues: Clues,
    ) -> None:
        self.few, self.whole, self.call = few, whole, call
        self.clues = clues
        self.codes = codes
        self.right = self._trial((), call)

    def candidates(self, max_mistakes: int) -> list[Candidate]:
        """Return the best of what explains the evidence."""
        plain = list(self._plain(self.right))
        fitted = [t for code in self._numbered() for t in self._fitted(self.right, code)]
        trials = [self.right, *plain, *self._named_numbers(self.right), *fitted]
        if max_mistakes > 1 and not self._is_explained(trials):
            for stage in (
                self._with_offset,
                self._plain_pairs,
                self._number_pairs,
                self._two_number_pairs,
                self._rounded_pairs,
            ):
                trials += stage(plain, fitted)
                if self._is_explained(trials):
                    break
        return self._verified(trials)

    def _is_explained(self, trials: Iterable[Trial]) -> bool:
        """Tell whether nothing better can be expected than the best trial."""
        return min(trial.error for trial in trials) <= self.few.tolerance / 10

    def _numbered(self) -> list[str]:
        return [
            code
            for code in self.codes
            if (number := MISTAKES[code].number) is not None
            and code not in GAINS
            and number.value(self.call) is not None
        ]

    def _trial(
        self,
        named: tuple[tuple[str, Mapping[str, Any]], ...],
        call: RotaryCall,
        is_odd: bool = False,
    ) -> Trial:
        numbers = self.few.numbers(call)
        error = self.few.error(numbers)
        tolerance = self.few.tolerance
        if tolerance / 50 < error < MANY * tolerance and call.rope.arithmetic != "float64":
            exact = in_float64(call)  # other code may be more exact than the rope is
            other = self.few.numbers(exact)
            if (exact_error := self.few.error(other)) < error / 2:
                call, numbers, error = exact, other, exact_error
        return Trial(named, call, numbers, error, is_odd)

    def _plain(self, base: Trial, codes: Iterable[str] | None = None) -> Iterator[Trial]:
        """Return the calls that mistakes without fitted numbers make of a call."""
        made = {code for code, _ in base.named}
        for code in self.codes if codes is None else codes:
            number = MISTAKES[code].number
            if code in made:
                continue
            if number is not None and code not in GAINS and number.value(base.call) is not None:
                continue
            for parameters, wrong in MISTAKES[code].find(base.call, self.clues):
                trial = self._trial((*base.named, (code, parameters)), wrong, base.is_odd)
                if not self._is_same(trial, base):
                    yield trial

    def _named_numbers(self, base: Trial) -> Iterator[Trial]:
        """Return the calls with the numbers that code often has, without a fit."""
        for code in self._numbered():
            for parameters, wrong in MISTAKES[code].find(base.call, self.clues):
                yield self._trial((*base.named, (code, parameters)), wrong)

    def _is_same(self, one: Trial, other: Trial) -> bool:
        a, b = one.numbers, other.numbers
        return a.shape == b.shape and bool((a - b).abs().max() < 1e-12 * b.abs().max())

    def _fitted(self, base: Trial, code: str) -> Iterator[Trial]:
        """Return the calls with the fitted number of a mistake."""
        number = _number(code)
        if number.value(base.call) is None or base.numbers.shape != self.few.shape:
            return

        def build(values: Sequence[float], call: RotaryCall = base.call) -> RotaryCall:
            return number.vary(call, values[0])  # type: ignore[no-any-return]

        exact = partial(build, call=in_float64(base.call))
        values = fit(self.few, exact, [number], base.call)
        if values is not None:
            yield from self._rounded(base, [code], build, values)

    def _nearly_fitted(self, code: str, step: float) -> Iterator[Trial]:
        """Return the calls with numbers that fit nearly, if angles are rounded by `step`."""
        number = _number(code)
        if self.right.numbers.shape != self.few.shape:
            return

        def build(values: Sequence[float], call: RotaryCall = self.call) -> RotaryCall:
            return number.vary(call, values[0])  # type: ignore[no-any-return]

        values = fit(
            self.few, partial(build, call=in_float64(self.call)), [number], self.call, step
        )
        if values is not None:
            for value in dict.fromkeys((*round_values(number, values[0]), values[0])):
                is_odd = value == values[0]
                trial = self._number_trial(self.right, [code], build, [value], is_odd)
                if trial is not None:
                    yield trial

    def _rounded(
        self, base: Trial, codes: Sequence[str], build: Build, values: Sequence[float]
    ) -> Iterator[Trial]:
        """Return the call with plain numbers near the fitted ones, or with the fitted ones."""
        best = self._number_trial(base, codes, build, values, True)
        if best is None:
            return
        fitted_error = best.error
        chosen = list(values)
        is_odd = False
        for place, code in enumerate(codes):
            number = _number(code)
            for plain in round_values(number, chosen[place]):
                tried = [*chosen[:place], plain, *chosen[place + 1 :]]
                if len(codes) > 1:
                    tried = self._refit(base, codes, build, tried, place)
                trial = self._number_trial(base, codes, build, tried, False)
                limit = max(1.2 * fitted_error, fitted_error + self.few.tolerance / 50)
                if trial is not None and trial.error <= limit:
                    chosen, best = tried, trial
                    break
            else:
                is_odd = True
        yield replace(best, is_odd=is_odd or base.is_odd)

    def _refit(
        self, base: Trial, codes: Sequence[str], build: Build, values: Sequence[float], fixed: int
    ) -> list[float]:
        """Return both numbers, the one that is not fixed fitted again."""
        free = 1 - fixed
        number = _number(codes[free])

        def one(values_: Sequence[float]) -> RotaryCall:
            both = list(values)
            both[free] = values_[0]
            return build(both)

        both = list(values)
        with suppress(ConfigError):
            spread = 0.01 if number.is_ratio else 1.0
            both[free] = refine(self.few, one, [number], [values[free]], [spread])[0]
        return both

    def _number_trial(
        self, base: Trial, codes: Sequence[str], build: Build, values: Sequence[float], is_odd: bool
    ) -> Trial | None:
        with suppress(ConfigError):
            values = [_plain_number(_number(c), v) for c, v in zip(codes, values, strict=True)]
            if any(
                _is_neutral(_number(c), base.call, v) for c, v in zip(codes, values, strict=True)
            ):
                return None
            call = build(values)
            named = [
                (code, {_number(code).parameter: value})
                for code, value in zip(codes, values, strict=True)
            ]
            return self._trial((*base.named, *named), call, is_odd)
        return None

    def _with_offset(self, plain: Sequence[Trial], fitted: Sequence[Trial]) -> Iterator[Trial]:
        """Return pairs with the offset of positions that was measured, if one was."""
        offset = self.clues.position_offset
        if (
            offset is None
            or OFFSET not in self.codes
            or abs(offset) < 0.5
            or len(self.call.positions) > 1
        ):
            return
        near = round(offset)
        base = self._number_trial(self.right, [OFFSET], self._offset_call, [near], False)
        if base is None or abs(offset - near) > 0.1:
            return
        yield from self._plain(base)
        for code in self._numbered():
            if code != OFFSET:
                yield from self._fitted(base, code)

    def _offset_call(self, values: Sequence[float]) -> RotaryCall:
        return _number(OFFSET).vary(self.call, values[0])  # type: ignore[no-any-return]

    def _plain_pairs(self, plain: Sequence[Trial], fitted: Sequence[Trial]) -> Iterator[Trial]:
        """Return pairs of which at most the first has a fitted number."""
        numbered = self._numbered()
        explaining: set[str] = set()
        for trial in plain:
            place = _order(trial.named[0][0])
            later = [code for code in self.codes if _order(code) > place]
            for pair in self._plain(trial, later):
                if pair.error <= self.few.tolerance / 10:
                    explaining |= {code for code, _ in pair.named}
                yield pair
        for trial in plain:  # a number may explain as much as one of the two
            if trial.named[0][0] in explaining and trial.named[0][0] not in LAST:
                for code in numbered:
                    yield from self._fitted(trial, code)
        for trial in fitted:
            hidden = [code for code, others in HIDES.items() if trial.named[0][0] in others]
            made_last = [code for code in (*hidden, *LAST) if code in self.codes]
            yield from self._plain(trial, made_last)

    def _number_pairs(self, plain: Sequence[Trial], fitted: Sequence[Trial]) -> Iterator[Trial]:
        """Return pairs with a number that is fitted to a call with another mistake."""
        numbered = self._numbered()
        for trial in plain:
            code = trial.named[0][0]
            if code not in LAST:
                for other in numbered:
                    if other not in HIDES.get(code, ()):
                        yield from self._fitted(trial, other)

    def _rounded_pairs(self, plain: Sequence[Trial], fitted: Sequence[Trial]) -> Iterator[Trial]:
        """Return pairs of a rounding and a number, which is fitted as if angles were rounded."""
        for trial in plain:
            if trial.named[0][0] in ROUNDED:
                yield from self._named_numbers(trial)
        for code in self._numbered():
            for step in sorted(set(HALF_STEP.values())):
                for trial in self._nearly_fitted(code, step):
                    for last in ("exponent_width_wrong", *ROUNDED):
                        if last in self.codes:
                            yield from self._plain(trial, [last])

    def _two_number_pairs(self, plain: Sequence[Trial], fitted: Sequence[Trial]) -> Iterator[Trial]:
        """Return pairs of two numbers that are fitted at once."""
        numbered = self._numbered()
        if self.right.numbers.shape == self.few.shape:
            for place, one in enumerate(numbered):
                for other in numbered[place + 1 :]:
                    yield from self._two_numbers(one, other)

    def _two_numbers(self, one: str, other: str) -> Iterator[Trial]:
        numbers = [_number(one), _number(other)]

        def build(values: Sequence[float], call: RotaryCall = self.call) -> RotaryCall:
            varied = numbers[0].vary(call, values[0])
            return numbers[1].vary(varied, values[1])  # type: ignore[no-any-return]

        exact = partial(build, call=in_float64(self.call))
        values = fit(self.few, exact, numbers, self.call)
        if values is not None:
            yield from self._rounded(self.right, [one, other], build, values)

    def _verified(self, trials: Sequence[Trial]) -> list[Candidate]:
        """Return the best trials, compared with the whole evidence."""
        by_count = [[t for t in trials if len(t.named) == count] for count in range(3)]
        found = []
        for of_count in by_count:
            good = [t for t in of_count if t.error <= 4 * self.whole.tolerance]
            good = sorted(
                good, key=lambda t: (t.error > self.few.tolerance / 20, t.is_odd, t.error)
            )
            for trial in good[:VERIFIED]:
                call = trial.call
                found.append(
                    Candidate(
                        mistakes=trial.named,
                        call=call,
                        relative_error=self.whole.error(self.whole.numbers(call)),
                        of_config=all(code in OF_CONFIG for code, _ in trial.named),
                        is_odd=trial.is_odd or self._is_far(trial),
                    )
                )
        return found

    def _is_far(self, trial: Trial) -> bool:
        """Tell whether a pair of mistakes has one of positions, of which a row has none."""
        has_positions = isinstance(self.whole, Angles)
        named = [code for code, _ in trial.named]
        return not has_positions and len(named) > 1 and "position_scaled" in named


def _order(code: str) -> tuple[int, int]:
    """Return when a mistake of a pair is made: those that change the whole rope come first."""
    stage = 0 if code in WHOLE_ROPE else 2 if code in GAINS else 3 if code in ROUNDED else 1
    return stage, CODES.index(code)


def _is_neutral(number: Number, call: RotaryCall, value: float) -> bool:
    """Tell whether a number is the one that the call has already."""
    right = number.value(call)
    return right is not None and abs(value - right) <= NEUTRAL * max(abs(right), 1)


def _number(code: str) -> Number:
    number = MISTAKES[code].number
    assert number is not None, "the caller has a code with a number"
    return number


def _plain_number(number: Number, value: float) -> float | int:
    return round(value) if number.is_whole else float(value)
