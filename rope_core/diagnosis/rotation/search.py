"""Search the mistakes that reproduce a rotation: pairs of channels first, then their angles."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from rope_core.diagnosis.angles.angle_table import AngleTable
from rope_core.diagnosis.angles.naming import Naming
from rope_core.diagnosis.angles.slopes import measure, measure_gain
from rope_core.diagnosis.angles.work import Work
from rope_core.diagnosis.calls import Clues, RotaryCall, predict
from rope_core.diagnosis.mistake import Wrong
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.diagnosis.ranking import Candidate
from rope_core.diagnosis.rotation.evidence import RotationEvidence
from rope_core.diagnosis.rotation.geometry import GeometryKey, geometry_key
from rope_core.diagnosis.rotation.permutation import match_channels, measure_permutation
from rope_core.diagnosis.sample import SLACK
from rope_core.errors import RopeError

NEUTRAL = 1e-6
"""Relative difference of numbers that are the same."""

FEW = 8
"""Tokens, about, that show which calls are far from the evidence."""

HOPELESS = 0.3
"""Relative error of a few tokens of a call that does not reproduce the evidence."""

SETTLED = 3.0
"""Errors that are smaller than the tolerance by this factor need no second mistake."""

OF_WIDTH = ("partial_ignored", "rotary_dim_wrong")
"""Mistakes in how much of a head turns."""

EXCLUSIVE = (
    ("layout_swapped", "layout_mixed"),
    OF_WIDTH,
)
"""Mistakes of which a call has one at most."""

FOR_ANY_WIDTH = ("scaling_ignored", "axes_ignored")
"""Mistakes without whose lists or sections a rope can have another width."""

Named = tuple[str, Mapping[str, Any]]


def wrong_calls(
    call: RotaryCall, clues: Clues, skip: tuple[str, ...] = ()
) -> Iterator[tuple[str, Wrong]]:
    """Return the code, and parameters and call, of each mistake that can be made of `call`."""
    for code, mistake in MISTAKES.items():
        if "rotation" in mistake.evidence and code not in skip:
            with suppress(RopeError):  # a rope that cannot be
                for wrong in mistake.find(call, clues):
                    yield code, wrong


@dataclass(kw_only=True, eq=False)
class Search:
    """Looks for calls that reproduce a sample of the evidence."""

    evidence: RotationEvidence
    right: RotaryCall
    clues: Clues
    max_mistakes: int

    def __post_init__(self) -> None:
        self._tables: dict[GeometryKey, AngleTable] = {}
        self._naming: dict[RotaryCall, Naming] = {}
        self._work = Work()
        self.clues = replace(self.clues, rotary_dim=self.evidence.width())

    def table(self, call: RotaryCall) -> AngleTable:
        """Return the measured angles of the sample for the pairs of `call`."""
        key = geometry_key(call)
        if key not in self._tables:
            self._tables[key] = self.evidence.angle_table(call)
        return self._tables[key]

    def fits(self, call: RotaryCall) -> bool:
        """Return whether the pairs of `call` can be those of the evidence, at some angles."""
        return self.misfit(call) <= self._limit

    def misfit(self, call: RotaryCall) -> float:
        """Return the relative error of the best angles for the pairs of `call`."""
        table = self.table(call)
        wrong = table.misfit
        if call.rope.rope_type != "xpos" and (gain := measure_gain(table)) is not None:
            wrong += float(((table.z.abs() - gain).square() * table.weights).sum())
        right = float((table.z.abs().square() * table.weights).sum()) + table.rest
        return float((wrong / right) ** 0.5) if right else float("inf")

    def _is_steady(self, call: RotaryCall) -> bool:
        """Return whether tokens with the same position, and index in their row, turn alike."""
        table = self.table(call)
        of_tokens = call.position_axis == "tokens"
        slots = call.slots[table.index] if of_tokens else torch.zeros(len(table.index))
        keys = torch.cat((table.positions, slots[None].double()))
        _, group = torch.unique(keys, dim=1, return_inverse=True)
        sums, weights = (
            torch.zeros_like(t).index_add_(0, group, t)
            for t in (table.z * table.weights, table.weights)
        )
        mean = (sums / weights.clamp_min(1e-300))[group]
        return table.relative_error(mean) <= self._limit

    def measured(self, call: RotaryCall) -> Clues:
        """Return the clues of the measured angles for the pairs of `call`."""
        known = self.clues
        found = measure(self.table(call), call)
        return replace(
            found, resolved=known.resolved, resolve=known.resolve, permutation=known.permutation
        )

    def run(self) -> list[Candidate]:
        """Return all candidates found, with the relative error of the sample."""
        return [self._without_neutral(candidate) for candidate in self._found()]

    def _without_neutral(self, candidate: Candidate) -> Candidate:
        """Return the candidate without mistakes whose number is the right one."""
        kept = []
        for code, given in candidate.mistakes:
            number = MISTAKES[code].number
            right = None if number is None else number.value(self.right)
            value = None if number is None else given.get(number.parameter)
            if right is None or value is None or abs(value - right) > NEUTRAL * abs(right):
                kept.append((code, given))
        return replace(candidate, mistakes=tuple(kept))

    def _found(self) -> list[Candidate]:
        permutation = match_channels(self.evidence, self.right, self._limit)
        self.clues = replace(self.clues, permutation=permutation)
        found = self._single()
        if all(candidate.is_odd for candidate in found):
            permutation = measure_permutation(self.evidence, self.right)
            if permutation is not None:
                self.clues = replace(self.clues, permutation=permutation)
                found = self._single()
        if self.max_mistakes == 1 or self._is_settled(found):
            return found
        return found + self._reordered() + self._double()

    def _is_settled(self, found: list[Candidate]) -> bool:
        """Return whether no second mistake can make an explanation 10 times better."""
        least = min((candidate.relative_error for candidate in found), default=float("inf"))
        tolerance = self.evidence.tolerance
        if least > tolerance / SETTLED:
            floor = min((self.misfit(candidate.call) for candidate in found), default=0.0)
            return least <= min(tolerance, 10 * floor)
        return True

    def _single(self) -> list[Candidate]:
        found = self._name(self.right, (), 1)
        is_silent = not bool(self.table(self.right).weights.any())
        for code, (parameters, wrong) in wrong_calls(self.right, self.clues):
            if is_silent or self._is_structural(wrong):
                found += self._direct(((code, parameters),), wrong)
        return found

    def _is_structural(self, wrong: RotaryCall) -> bool:
        """Return whether a mistake is one that angles do not show."""
        if not self.right.times:
            return wrong.times > 0
        return geometry_key(wrong) != geometry_key(self.right) or wrong.is_repeated

    @property
    def _limit(self) -> float:
        """Largest relative error of the sample."""
        return SLACK * self.evidence.tolerance

    def _direct(self, mistakes: tuple[Named, ...], call: RotaryCall) -> list[Candidate]:
        """Return the candidate if `call` itself reproduces the sample."""
        is_mixed = call.table_layout is not None  # of sparse rows, its table says nothing
        if is_mixed or call.is_repeated or not bool(self.table(call).weights.any()):
            if HOPELESS < self.evidence.sample_error(call, FEW) < float("inf"):
                return []
            error = self.evidence.sample_error(call)
        elif self.fits(call):
            table = self.table(call)
            error = table.relative_error(predict(call, table.index))
        else:
            return []
        if error > self._limit:
            return []
        return [Candidate(mistakes=mistakes, call=call, relative_error=error)]

    def _name(
        self, call: RotaryCall, mistakes: tuple[Named, ...], max_mistakes: int
    ) -> list[Candidate]:
        """Return candidates with `mistakes`, which made `call`, and at most so many more."""
        if not self.fits(call) or not self._is_steady(call):
            return []
        if call not in self._naming:
            self._naming[call] = Naming.of_angles(
                self.table(call), call, self.measured(call), "rotation", self._work
            )
        found = []
        for candidate in self._naming[call].candidates(max_mistakes):
            named, error = candidate.call, candidate.relative_error
            if call.table_layout is not None or geometry_key(named) != geometry_key(call):
                error = self.evidence.sample_error(named)  # the table is that of other pairs
            if error <= self._limit:
                all_mistakes = (*mistakes, *candidate.mistakes)
                found.append(replace(candidate, mistakes=all_mistakes, relative_error=error))
        return found

    def _reordered(self) -> list[Candidate]:
        """Return the candidates with one named mistake and another order of the channels."""
        found = []
        for code, (parameters, wrong) in wrong_calls(self.right, self.clues, ("layout_permuted",)):
            permutation = match_channels(self.evidence, wrong, self._limit)
            if permutation is not None:
                second = ("layout_permuted", {"permutation": [*permutation]})
                reordered = replace(wrong, permutation=permutation)
                error = self.evidence.sample_error(reordered)
                if error <= self._limit:
                    mistakes = ((code, parameters), second)
                    found.append(Candidate(mistakes=mistakes, call=reordered, relative_error=error))
        return found

    def _double(self) -> list[Candidate]:
        found = []
        key = geometry_key(self.right)
        for code, (parameters, wrong) in wrong_calls(self.right, self.clues):
            first = ((code, parameters),)
            if code in FOR_ANY_WIDTH:
                found += self._of_other_width(wrong, first)
            if wrong.times != 2 and not self._is_structural(wrong):
                continue
            # what no table shows has to have a name
            is_shown = not wrong.is_repeated and bool(self.table(wrong).weights.any())
            if is_shown:
                found += self._name(wrong, first, 1)
            skip = tuple(name for group in EXCLUSIVE if code in group for name in group) or (code,)
            clues = self.clues
            if not is_shown:
                clues = replace(clues, gain=self.evidence.gain(wrong))
            for other, (more, both) in wrong_calls(wrong, clues, skip):
                if not is_shown or geometry_key(both) not in (key, geometry_key(wrong)):
                    found += self._direct((*first, (other, more)), both)
        return found + self._name(self.right, (), 2)

    def _of_other_width(self, call: RotaryCall, first: tuple[Named, ...]) -> list[Candidate]:
        """Return the candidates with another width than `call`, which has one mistake."""
        found = []
        skip = tuple(code for code in MISTAKES if code not in OF_WIDTH)
        for code, (parameters, wrong) in wrong_calls(call, self.clues, skip):
            found += self._direct((*first, (code, parameters)), wrong)
        return found
