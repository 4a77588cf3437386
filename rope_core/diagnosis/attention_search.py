"""Which mistakes, one or two at once, reproduce the evidence of attention."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from rope_core.config import RopeConfig
from rope_core.diagnosis.attention_call import AttentionCall
from rope_core.diagnosis.attention_fit import measure, relative_error
from rope_core.diagnosis.attention_simulation import Part
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import MISTAKES
from rope_core.diagnosis.ranking import Candidate

LOOSE = 3.0
"""A part of the evidence may be so many times farther off than the tolerance of the whole."""

INVISIBLE = ("layout_permuted",)
"""Mistakes of a rotation that change no score if queries and keys both have them."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A call with mistakes."""

    mistakes: tuple[tuple[str, Mapping[str, Any]], ...]
    call: AttentionCall
    of_config: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSearch:
    """The evidence, and what is searched in it."""

    right: AttentionCall
    parts: Sequence[Part]
    """The cheapest first; the first is a probe of few queries."""

    clues: Clues
    mscale: float | None
    """Factor of YaRN in the softmax scale of the model."""

    tolerance: float
    noise: float
    """Relative error that rounding makes."""

    def run(self, max_mistakes: int) -> list[Candidate]:
        """Return the calls with one mistake, or two, that are within the tolerance."""
        right = Wrong((), self.right)
        singles = [*self._of_attention(right), *self._of_rotation(right)]
        found = self._within(singles)
        best = min((candidate.relative_error for candidate in found), default=math.inf)
        if max_mistakes > 1 and best > 10 * self.noise:
            found += self._within(self._pairs(singles))
        return found

    def _within(self, wrongs: Sequence[Wrong] | Iterator[Wrong]) -> list[Candidate]:
        found = []
        for wrong in wrongs:
            error = relative_error(wrong.call, self.parts, LOOSE * self.tolerance)
            if error <= self.tolerance:
                found.append(Candidate(wrong.mistakes, wrong.call, error, wrong.of_config))
        return found

    def _of_attention(self, base: Wrong) -> Iterator[Wrong]:
        """Add each mistake of attention to the mistakes of `base`."""
        clues = measure(
            base.call, self.parts[0], self.parts, LOOSE * self.tolerance, self.mscale
        )
        for code, mistake in MISTAKES.items():
            if mistake.evidence == ("attention",):
                for given, call in mistake.find(base.call, clues):
                    of_config = base.of_config or code == "softmax_scale_missing_mscale"
                    yield Wrong((*base.mistakes, (code, given)), call, of_config)

    def _of_rotation(self, base: Wrong) -> Iterator[Wrong]:
        """Add each mistake of the rotation to queries and keys of `base`."""
        for code, mistake in MISTAKES.items():
            if "rotation" not in mistake.evidence or code in INVISIBLE:
                continue
            sides = {
                name: _by_parameters(mistake.find(rotation, self.clues))
                for name, rotation in (("q", base.call.q), ("k", base.call.k))
                if rotation is not None
            }
            if not sides:
                return
            first, *others = sides.values()
            for name, (given, _) in first.items():
                if all(name in other for other in others):
                    rotations = {side: wrongs[name][1] for side, wrongs in sides.items()}
                    call = replace(base.call, **rotations)
                    yield Wrong((*base.mistakes, (code, given)), call, base.of_config)

    def _pairs(self, singles: Sequence[Wrong]) -> Iterator[Wrong]:
        for first in singles:
            changed = changes(self.right, first.call)
            for pair in self._of_attention(first):
                code = pair.mistakes[1][0]
                if code == first.mistakes[0][0] or changed & changes(first.call, pair.call):
                    continue
                yield replace(pair, mistakes=tuple(sorted(pair.mistakes, key=lambda m: m[0])))


def _by_parameters(
    wrongs: Iterator[tuple[Mapping[str, Any], RotaryCall]],
) -> dict[str, tuple[Mapping[str, Any], RotaryCall]]:
    found: dict[str, tuple[Mapping[str, Any], RotaryCall]] = {}
    for given, call in wrongs:
        name = repr(sorted(given.items()))
        while name in found:  # several calls with the same parameters
            name += "'"
        found[name] = given, call
    return found


def changes(one: Any, other: Any) -> frozenset[str]:
    """Return the names of the fields of two calls, and of calls and ropes in them, that differ."""
    if one is other:
        return frozenset()
    found: set[str] = set()
    for name, part in type(one).__dataclass_fields__.items():
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, RotaryCall | RopeConfig) and isinstance(b, type(a)):
            found |= {f"{name}.{inner}" for inner in changes(a, b)} if part.compare else set()
        elif isinstance(a, Tensor) or isinstance(b, Tensor):
            found |= set() if a is b else {name}
        elif part.compare and a != b:
            found.add(name)
    return frozenset(found)
