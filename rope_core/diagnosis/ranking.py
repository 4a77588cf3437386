"""Which explanations are told, and in which order: the same rules for all kinds of evidence."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rope_core.diagnosis.mistake import CODES, Named

SAME_GAIN = 1e-3
"""Relative difference of gains that are the same."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A call with mistakes, and how far the evidence is from it."""

    mistakes: tuple[Named, ...]
    """() of the right call."""

    call: Any
    """RotaryCall or AttentionCall."""

    relative_error: float
    """|evidence - reproduced| / |reproduced|."""

    of_config: bool = False
    """Whether the config itself has the wrong values, in another place: another layer type, another
    list, another length. Such an explanation is told before others that are as good."""

    is_odd: bool = False
    """Whether a fitted number is not round. Such an explanation is told after others as good."""


def rank(candidates: Iterable[Candidate], tolerance: float) -> list[Candidate]:
    """Return the candidates to tell, best first.

    Those within max(2 x the best error, tolerance / 10) and with the fewest mistakes, the config's
    own first, then in the order of `CODES`. Longer explanations follow only if they are at least
    10 times better. None has an error above the tolerance.
    """
    good = [c for c in candidates if c.mistakes and c.relative_error <= tolerance]
    kept: list[Candidate] = []
    least = float("inf")
    for count in sorted({len(c.mistakes) for c in good}):
        found = [c for c in good if len(c.mistakes) == count and c.relative_error <= least / 10]
        kept += found
        least = min((c.relative_error for c in found), default=least)
    if not kept:
        return []
    limit = max(2 * min(c.relative_error for c in kept), tolerance / 10)
    kept = [c for c in kept if c.relative_error <= limit]
    return _without_same_gains(_distinct(sorted(kept, key=_order)))


def _order(candidate: Candidate) -> tuple[int, bool, bool, list[int], float]:
    order = sorted(CODES.index(code) for code, _ in candidate.mistakes)
    of_config, is_odd = candidate.of_config, candidate.is_odd
    return len(order), not of_config, is_odd, order, candidate.relative_error


def _distinct(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the first candidate of those with the same mistakes, in the order of `CODES`."""
    seen: dict[str, Candidate] = {}
    for candidate in candidates:
        ordered = tuple(sorted(candidate.mistakes, key=lambda named: CODES.index(named[0])))
        key = repr([(code, sorted(given.items())) for code, given in ordered])
        seen.setdefault(key, replace(candidate, mistakes=ordered))
    return [*seen.values()]


def _without_same_gains(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates without those that measure a gain of which another tells the reason."""
    known = [_split_gain(one, ("gain_missing", "gain_twice")) for one in candidates]
    kept = []
    for one in candidates:
        gain, others = _split_gain(one, ("gain_wrong",))
        is_named = gain is not None and any(
            named is not None and same == others and abs(gain - named) <= SAME_GAIN * abs(named)
            for named, same in known
        )
        if not is_named:
            kept.append(one)
    return kept


def _split_gain(candidate: Candidate, codes: Sequence[str]) -> tuple[float | None, list[Named]]:
    """Return the gain of the mistake with one of the codes, and the other mistakes."""
    gains = [given["gain"] for code, given in candidate.mistakes if code in codes]
    return gains[0] if gains else None, [one for one in candidate.mistakes if one[0] not in codes]
