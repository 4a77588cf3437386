"""Try pairs of mistakes, from those that are found at once to those that need many fits."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from rope_core.diagnosis.angles.evidence import HALF_STEP, in_float64
from rope_core.diagnosis.angles.fit import fit
from rope_core.diagnosis.angles.trials import GAINS, MAX_POINTS, OFFSET, Trial, Trials, number_of
from rope_core.diagnosis.calls import RotaryCall
from rope_core.diagnosis.mistake import CODES

WHOLE_ROPE = frozenset(
    ("layer_type_wrong", "config_of_other_version", "partial_ignored", "rotary_dim_wrong")
) | {"scaling_ignored", "scaling_other_type"}
"""Mistakes that replace a rope, so that they are made first."""

ROUNDED = ("angles_rounded", "positions_rounded")
LAST = (*GAINS, *ROUNDED)
"""Mistakes that are made of a call whose numbers are wrong already: they do not hide numbers, or
hide them too well."""

HIDES = {"exponent_width_wrong": ("wrong_base",)}
"""Mistakes that a fitted number would undo: they are made of a call with that number."""

NEARLY = 0.1
"""Relative error of a call with one of two wrong numbers made right."""

OFFSETS = 12
"""Offsets of positions that are tried with a rounding, which hides the right one."""

Stage = Callable[[], Iterator[Trial]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Tries pairs of mistakes."""

    trials: Trials
    right: Trial
    """The call without mistakes."""

    plain: Sequence[Trial]
    """Single mistakes without fitted numbers."""

    fitted: Sequence[Trial]
    """Single mistakes with a fitted number."""

    def stages(self) -> tuple[Stage, ...]:
        """Return functions that return pairs, cheapest first."""
        return (
            self._with_offset,
            self._plain_pairs,
            self._named_pairs,
            self._number_pairs,
            self._two_number_pairs,
            self._rounded_pairs,
        )

    def _with_offset(self) -> Iterator[Trial]:
        """Return pairs with the offset of positions that was measured, if one was."""
        offset = self.trials.clues.position_offset
        if (
            offset is None
            or OFFSET not in self.trials.codes
            or abs(offset) < 0.5
            or len(self.trials.call.positions) > 1
        ):
            return
        near = round(offset)
        base = self.trials.number_trial(self.right, [OFFSET], self._offset_call, [near], False)
        if base is None or abs(offset - near) > 0.1:
            return
        yield from self.trials.plain(base)
        for code in self.trials.numbered():
            if code != OFFSET:
                yield from self.trials.fitted(base, code)

    def _offset_call(self, values: Sequence[float]) -> RotaryCall:
        return number_of(OFFSET).vary(self.trials.call, values[0])

    def _plain_pairs(self) -> Iterator[Trial]:
        """Return pairs of which at most the first has a fitted number."""
        numbered = self.trials.numbered()
        explaining: set[str] = set()
        for trial in self.plain:
            place = _order(trial.named[0][0])
            later = [code for code in self.trials.codes if _order(code) > place]
            for pair in self.trials.plain(trial, later):
                if pair.error <= self.trials.few.tolerance / 10:
                    explaining |= {code for code, _ in pair.named}
                yield pair
        for trial in self.plain:  # a number may explain as much as one of the two
            if trial.named[0][0] in explaining and trial.named[0][0] not in LAST:
                for code in numbered:
                    yield from self.trials.fitted(trial, code)
        for trial in self.fitted:
            hidden = [code for code, others in HIDES.items() if trial.named[0][0] in others]
            made_last = [code for code in (*hidden, *LAST) if code in self.trials.codes]
            yield from self.trials.plain(trial, made_last)
            yield from self.trials.with_right_gain(trial)

    def _named_pairs(self) -> Iterator[Trial]:
        """Return pairs with a number that code often has, and with the offset that fits best."""
        for trial in self.plain:
            if trial.named[0][0] not in LAST:
                yield from self.trials.named_numbers(trial)
                yield from self.trials.with_offsets(trial, 1)

    def _number_pairs(self) -> Iterator[Trial]:
        """Return pairs with a number that is fitted to a call with another mistake."""
        numbered = self.trials.numbered()
        for trial in self.plain:
            code = trial.named[0][0]
            if code not in LAST:
                for other in numbered:
                    if other not in HIDES.get(code, ()):
                        yield from self.trials.fitted(trial, other)
        for trial in self.fitted:  # a number that is nearly right: the other may be small
            if trial.error < NEARLY:
                for other in numbered:
                    if other != trial.named[0][0]:
                        yield from self.trials.fitted(trial, other)

    def _rounded_pairs(self) -> Iterator[Trial]:
        """Return pairs of a rounding and a number, which is fitted as if angles were rounded."""
        for trial in self.plain:
            if trial.named[0][0] in ROUNDED:
                yield from self.trials.named_numbers(trial)
        roundings = [code for code in ROUNDED if code in self.trials.codes]
        for trial in self.trials.with_offsets(self.right, OFFSETS):
            yield from self.trials.plain(trial, roundings)
        for code in self.trials.numbered():
            for step in sorted(set(HALF_STEP.values())):
                for trial in self.trials.nearly_fitted(code, step):
                    for last in ("exponent_width_wrong", *ROUNDED):
                        if last in self.trials.codes:
                            yield from self.trials.plain(trial, [last])

    def _two_number_pairs(self) -> Iterator[Trial]:
        """Return pairs of two numbers that are fitted at once."""
        numbered = self.trials.numbered()
        if self.right.numbers.shape == self.trials.few.shape:
            for place, one in enumerate(numbered):
                for other in numbered[place + 1 :]:
                    yield from self._two_numbers(one, other)

    def _two_numbers(self, one: str, other: str) -> Iterator[Trial]:
        numbers = [number_of(one), number_of(other)]
        if not self.trials.few.work.is_left:
            return

        def build(values: Sequence[float], call: RotaryCall = self.trials.call) -> RotaryCall:
            varied = numbers[0].vary(call, values[0])
            return numbers[1].vary(varied, values[1])

        exact = partial(build, call=in_float64(self.trials.call))
        values = fit(self.trials.few, exact, numbers, self.trials.call, points=MAX_POINTS)
        if values is not None:
            yield from self.trials.rounded(self.right, [one, other], build, values)


def _order(code: str) -> tuple[int, int]:
    """Return when a mistake of a pair is made: those that change the whole rope come first."""
    stage = 0 if code in WHOLE_ROPE else 2 if code in GAINS else 3 if code in ROUNDED else 1
    return stage, CODES.index(code)
