"""Name what angles or frequencies do differently from a rope.

First each mistake alone: those with named values as they are, those with a number after a fit of
the number. Then pairs of them, if no mistake alone explains the evidence.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.angles.evidence import (
    Angles,
    Evidence,
    Frequencies,
    few_tokens,
    subset,
)
from rope_core.diagnosis.angles.pairs import Pairs
from rope_core.diagnosis.angles.trials import GAINS, SAME, Trial, Trials, is_same
from rope_core.diagnosis.angles.work import Work
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import CODES
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.diagnosis.mistakes.changes import parameter
from rope_core.diagnosis.mistakes.scaling import LONGEST, ORIGINAL
from rope_core.diagnosis.ranking import Candidate

FEW = 20
"""Tokens of the search. The best of what was found is compared with all tokens of the table."""

VERIFIED = 24
"""Candidates that are compared with all tokens."""

MILLION = 1_000_000
"""No model was trained on so many positions."""

OF_STRUCTURE = frozenset(
    ("layout_swapped", "layout_mixed", "layout_permuted", "slice_at_other_end", "axis_mistaken")
) | {"nope_layer_rotated"}
"""Mistakes that do not show in a table of angles."""

OF_CONFIG = frozenset(
    ("scaling_ignored", "truncate_wrong", "beta_swapped", "longrope_other_list", "gain_missing")
) | {"gain_twice", "exponent_width_wrong", "layer_type_wrong", "config_of_other_version"}
"""Mistakes whose numbers are all of the config."""


class Naming:
    """Names the mistakes in one piece of evidence. Single mistakes are searched once."""

    def __init__(
        self,
        few: Evidence,
        whole: Evidence,
        codes: Sequence[str],
        call: RotaryCall,
        clues: Clues,
    ) -> None:
        self._whole = whole
        self._explained = whole.explained
        self._decided = whole.decided
        self._trials = Trials(few=few, call=call, codes=codes, clues=clues)

    @classmethod
    def of_angles(
        cls,
        table: AngleTable,
        call: RotaryCall,
        clues: Clues,
        kind: Literal["rotation", "table"],
        work: Work,
    ) -> "Naming":
        """Return the names of what a table of angles does differently from `call`."""
        few = Angles.of(subset(table, few_tokens(table, FEW)), work)
        return cls(few, Angles.of(table, work), _codes(kind), call, clues)

    @classmethod
    def of_frequencies(
        cls, row: Tensor, call: RotaryCall, clues: Clues, tolerance: float
    ) -> "Naming":
        """Return the names of what frequencies, float64 `[n]`, are differently from `call`."""
        positions = torch.ones((call.rope.num_axes, 1), dtype=torch.float64)
        evidence = Frequencies.of(row, call, tolerance)
        one = replace(call, positions=positions, shape=(1, 1, 1))
        return cls(evidence, evidence, _codes("frequencies"), one, clues)

    def candidates(self, max_mistakes: int) -> list[Candidate]:
        """Return calls that give the evidence, with at most `max_mistakes` mistakes.

        The call itself is one of them, without mistakes, if it gives the evidence. Errors of
        angles are those of `table.relative_error(predict(call, table.index))`.
        """
        found = [*self._singles]
        if max_mistakes > 1 and not self._is_explained(found):
            for stage in self._pairs.stages():
                for trial in stage():
                    if not self._is_underdetermined(trial):
                        found.append(trial)
                    if not self._trials.few.work.is_left:
                        break
                if self._is_explained(found) or self._is_paired(found):
                    break
        ignored = [t for t in found if any(code == "scaling_ignored" for code, _ in t.named)]
        return self._verified([trial for trial in found if not self._is_limit(trial, ignored)])

    def _is_underdetermined(self, trial: Trial) -> bool:
        """Tell whether the evidence has no more numbers than were fitted to it.

        Its numbers are the angles and, for all of them, one gain.
        """
        if self._decided > 2:
            return False
        fitted = [code for code, given in trial.named if _is_fitted(code, given)]
        gains = sum(code in GAINS for code in fitted)
        return len(fitted) > 1 and len(fitted) - gains >= self._decided

    def _is_limit(self, trial: Trial, others: Sequence[Trial]) -> bool:
        """Tell whether a fitted length only mimics a variant without effect.

        Beyond some trained length a variant keeps all frequencies. `scaling_ignored` says so, and
        a length of millions that says the same is not told, unless the config has it.
        """
        named = dict(trial.named)
        length = named.pop("original_length_wrong", {}).get(ORIGINAL)
        resolved = self._trials.clues.resolved
        own = parameter(trial.call, LONGEST), resolved and resolved.lengths.allowed
        if length is None or length in own:
            return False
        limit = self._trials.few.tolerance / 10 if length > MILLION else SAME
        ignored = {"scaling_ignored", *named}
        return any(
            {code for code, _ in other.named} == ignored and is_same(other, trial, limit)
            for other in others
        )

    @cached_property
    def _pairs(self) -> Pairs:
        """Single mistakes, of which pairs are made."""
        trials = self._trials
        right = trials.right
        plain = [*trials.plain(right)]
        fitted = [t for code in trials.numbered() for t in trials.fitted(right, code)]
        return Pairs(trials=trials, right=right, plain=plain, fitted=fitted)

    @cached_property
    def _singles(self) -> list[Trial]:
        pairs = self._pairs
        named = [*self._trials.named_numbers(pairs.right)]
        named += self._trials.with_offsets(pairs.right, 1)
        return [pairs.right, *pairs.plain, *named, *pairs.fitted]

    def _is_explained(self, trials: Iterable[Trial]) -> bool:
        """Tell whether nothing better can be expected than the best trial."""
        return min(trial.error for trial in trials) <= self._explained

    def _is_paired(self, trials: Iterable[Trial]) -> bool:
        """Tell whether a pair is so good that more fits are not worth their time."""
        limit = self._whole.tolerance / 4
        return any(trial.error <= limit for trial in trials if len(trial.named) > 1)

    def _verified(self, trials: Sequence[Trial]) -> list[Candidate]:
        """Return the best trials, compared with the whole evidence."""
        by_count = [[t for t in trials if len(t.named) == count] for count in range(3)]
        found = []
        for of_count in by_count:
            good = [t for t in of_count if t.error <= 4 * self._whole.tolerance]
            good = sorted(
                good, key=lambda t: (t.error > self._trials.few.tolerance / 20, t.is_odd, t.error)
            )
            for trial in good[:VERIFIED]:
                call = trial.call
                found.append(
                    Candidate(
                        mistakes=trial.named,
                        call=call,
                        relative_error=self._whole.error(self._whole.numbers(call)),
                        of_config=all(code in OF_CONFIG for code, _ in trial.named),
                        is_odd=trial.is_odd or self._is_far(trial),
                    )
                )
        return found

    def _is_far(self, trial: Trial) -> bool:
        """Tell whether a pair of mistakes has one of positions, of which a row has none."""
        has_positions = isinstance(self._whole, Angles)
        named = [code for code, _ in trial.named]
        return not has_positions and len(named) > 1 and "position_scaled" in named


def _is_fitted(code: str, given: Mapping[str, Any]) -> bool:
    """Tell whether the number of a mistake is one that code hardly has written down."""
    number = MISTAKES[code].number
    value = None if number is None else given.get(number.parameter)
    if not value:
        return False
    is_power_of_two = math.frexp(abs(value))[0] == 0.5
    return not is_power_of_two and value != float(f"{value:.1e}")


def _codes(kind: str) -> tuple[str, ...]:
    return tuple(
        code for code in CODES if kind in MISTAKES[code].evidence and code not in OF_STRUCTURE
    )
