"""Which mistakes, one or two at once, reproduce the evidence of attention."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rope_core.config import RopeConfig
from rope_core.diagnosis.attention.fit import (
    ROPE_STEP,
    WHOLE_STEP,
    Change,
    errors_of,
    fitted,
    measure,
    named_scales,
    plain_numbers,
    relative_error,
    two_numbers,
)
from rope_core.diagnosis.attention.simulation import (
    Part,
    least_error,
    products,
    products_of_offsets,
    simulate_products,
    visibility,
)
from rope_core.diagnosis.attention_call import AttentionCall, Fitted
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.mistake import Mistake, Number
from rope_core.diagnosis.mistake import Wrong as WrongCall
from rope_core.diagnosis.mistakes import MISTAKES
from rope_core.diagnosis.ranking import Candidate
from rope_core.errors import ConfigError, RopeError

LOOSE = 3.0
"""A part of the evidence may be so many times farther off than the tolerance of the whole."""

INVISIBLE = ("layout_permuted", "position_offset")
"""Mistakes of a rotation that change no score if queries and keys both have them."""

LIKELY = ("scale_wrong", "wrong_base", "scaling_ignored", "not_rotated", "causal_missing")
"""Mistakes that are looked at first: the search may stop at its limit."""

FITTED = {"scale_wrong": "scale", "softcap_wrong": "softcap", "lse_shifted": "lse_shift"}
"""Mistakes of attention whose parameter is fitted, and the clue that has it."""

SCALE_RATIOS = (0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0, 8.0, 11.3)
"""Scales of scores relative to the right one, near to one of which most code is."""

MANY_KEYS = 256
"""Keys of a probe from which on only bases are fitted together with another mistake."""

OFFSET_CHANNELS = 32
"""Channels of the output that are compared at each offset."""

MAX_OFFSET = 8192
MAX_OFFSET_SCORES = 2**20
"""Scores of the search of an offset, at most."""

MAX_STARTS = 4
"""Numbers of a coarse grid from which the search of one that fits starts, at most."""

NO_MISTAKE = 2e-3
"""Relative difference of a fitted number from the right one below which it is no mistake."""

STARTS_OF_TWO = 3
"""Numbers from which the search of two that fit starts, at most."""

NUM_OFFSETS = 2
"""Best offsets that are verified."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A call with mistakes."""

    mistakes: tuple[tuple[str, Mapping[str, Any]], ...]
    call: AttentionCall
    of_config: bool = False
    is_odd: bool = False

    def add(
        self,
        code: str,
        parameters: Mapping[str, Any],
        call: AttentionCall,
        *,
        of_config: bool = False,
        is_odd: bool = False,
    ) -> "Wrong":
        """Return `call`, which has one mistake more."""
        return Wrong(
            (*self.mistakes, (code, parameters)),
            call,
            self.of_config or of_config,
            self.is_odd or is_odd,
        )


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

    grids: dict[tuple[object, ...], tuple[list[Any], Tensor, AttentionCall]] = field(
        default_factory=dict
    )
    """Numbers, products of queries and keys for each of them, and the call that has their ids."""

    found: list[Candidate] = field(default_factory=list)
    """All candidates within the tolerance so far."""

    def shows_no_mistake(self) -> bool:
        """Return whether the right call gives these parts, so that the error is elsewhere."""
        return relative_error(self.right, self.parts, self.tolerance) <= self.tolerance

    def singles(self) -> tuple[list[Candidate], list[Wrong], list[Wrong]]:
        """Return the calls with one mistake that are within the tolerance.

        And all calls with a mistake of attention, and those of the rotation.
        """
        right = Wrong((), self.right)
        of_attention, of_rotation = [*self._of_attention(right)], [*self._of_rotation(right)]
        wrongs = (*of_attention, *of_rotation)
        found = self._within(sorted(wrongs, key=lambda one: one.mistakes[0][0] not in LIKELY))
        codes: tuple[str, ...] | None = None
        if self.is_settled(found):  # one gain of both sides is a scale of scores
            is_scaled = any(one.mistakes[0][0] == "scale_wrong" for one in found)
            codes = ("gain_wrong",) if is_scaled else ()
        fitted_rotation = [*self._fitted_rotation(right, codes)]
        found += self._within(fitted_rotation)
        if not self.is_settled(found):
            found += self._within(self._of_any_width(right))
        if self.right.has_lse:  # the output may show the number although the log-sum-exp is off
            of_rotation += fitted_rotation
        return found, of_attention, of_rotation

    def pairs(self, of_attention: Sequence[Wrong], of_rotation: Sequence[Wrong]) -> list[Candidate]:
        """Return the calls with two mistakes that are within the tolerance."""
        found = self._within(self._with_attention((*of_attention, *of_rotation)))
        if not self.is_settled(found):
            plain = [wrong for wrong in of_attention if wrong.mistakes[0][0] not in FITTED]
            found += self._within(self._with_fitted_rotation(plain))
        if not self.is_settled(found):
            found += self._within(self._scale_and_rotation())
        return found

    def is_settled(self, found: Sequence[Candidate]) -> bool:
        """Return whether no other explanation can be 10 times better."""
        return any(candidate.relative_error <= 10 * self.noise for candidate in found)

    @property
    def _limit(self) -> float:
        return LOOSE * self.tolerance

    def _within(self, wrongs: Iterable[Wrong]) -> list[Candidate]:
        found = []
        for wrong in wrongs:
            error = relative_error(wrong.call, self.parts, self._limit)
            if error <= self.tolerance:
                candidate = Candidate(
                    mistakes=wrong.mistakes,
                    call=wrong.call,
                    relative_error=error,
                    of_config=wrong.of_config,
                    is_odd=wrong.is_odd,
                )
                found.append(candidate)
                self.found.append(candidate)
        return found

    def _of_attention(self, base: Wrong) -> Iterator[Wrong]:
        """Add each mistake of attention to those of `base`."""
        may_have_cap = not base.mistakes and not self.parts[0].is_far
        caps = may_have_cap or base.call.softcap is not None
        clues = measure(base.call, self.parts, self._limit, self.mscale, caps=caps)
        for code, mistake in MISTAKES.items():
            if mistake.evidence == ("attention",):
                fitted: Fitted | None = getattr(clues, FITTED.get(code, ""), None)
                for given, call in mistake.find(base.call, clues):
                    yield base.add(
                        code,
                        given,
                        call,
                        of_config=code == "softmax_scale_missing_mscale",
                        is_odd=fitted is not None and fitted.is_odd,
                    )

    def _of_rotation(self, base: Wrong, width: int | None = None) -> Iterator[Wrong]:
        """Add each mistake of the rotation, of queries and keys alike, to those of `base`.

        With a width only the rotation of that many channels.
        """
        clues = replace(self.clues, rotary_dim=width)
        for code, mistake in _of_rotations(base.call):
            if width is not None and code != "rotary_dim_wrong":
                continue
            first, *others = (
                _by_parameters(mistake, rotation, clues)
                for rotation in _rotations(base.call).values()
            )
            for name, (given, wrong) in first.items():
                if width is not None and given["rotary_dim"] != width:
                    continue
                if all(name in other for other in others):
                    wrongs = wrong, *(other[name][1] for other in others)
                    sides = dict(zip(_rotations(base.call), wrongs, strict=True))
                    yield base.add(code, given, replace(base.call, **sides))

    def _of_any_width(self, base: Wrong) -> Iterator[Wrong]:
        """Add a rotation of each number of channels: attention does not show which rotate."""
        rotations = [*_rotations(base.call).values()]
        if rotations and not self.parts[0].is_far and self._may_fit(base):
            for width in range(2, rotations[0].rope.head_dim, 2):
                yield from self._of_rotation(base, width)

    def _may_fit(self, base: Wrong) -> bool:
        """Return whether some scores give the output."""
        return least_error(base.call, self.parts[0]) <= self._limit

    def _fitted_rotation(
        self, base: Wrong, codes: tuple[str, ...] | None = None
    ) -> Iterator[Wrong]:
        """Add each mistake of the rotation whose parameter is a fitted number, or those named."""
        rotations = _rotations(base.call)
        if not self._may_fit(base):
            return
        keys = visibility(base.call, self.parts[0])[1]
        is_long = keys.stop - keys.start > MANY_KEYS
        for code, mistake in _of_rotations(base.call):
            number = mistake.number
            first = next(iter(rotations.values()))
            if number is None or number.value(first) is None:
                continue
            if codes is not None and code not in codes:
                continue
            if base.mistakes and is_long and code != "wrong_base":
                continue
            if (
                base.mistakes
                and code == "gain_wrong"
                and first.rope.rotary_dim == base.call.head_dim
            ):
                continue  # a scale of scores, which is told already

            def change(value: float, number: Number = number) -> AttentionCall:
                sides: dict[str, Any] = {
                    side: number.vary(call, value) for side, call in rotations.items()
                }
                return replace(base.call, **sides)

            count = MAX_STARTS if not base.mistakes else 1 if is_long else 2
            for start in self._starts(code, number, base.call, change)[:count]:
                wrong = self._fit(base, code, number, change, start)
                if wrong is not None:
                    yield wrong
                    break
        if codes is None:
            yield from self._offsets(base)

    def _fit(
        self, base: Wrong, code: str, number: Number, change: Change, start: float
    ) -> Wrong | None:
        """Return the call with the number near `start` that fits best, None if none fits."""
        step = WHOLE_STEP if number.is_whole else ROPE_STEP
        with suppress(ConfigError):
            found = fitted(
                change, start, self.parts, self._limit, is_ratio=number.is_ratio, step=step
            )
            if found is None:
                return None
            value: float | int = round(found.value) if number.is_whole else found.value
            right = number.value(next(iter(_rotations(base.call).values())))
            if number.is_ratio and right and abs(value / right - 1) < NO_MISTAKE:
                return None
            is_odd = found.is_odd
            if code == "gain_wrong":
                is_odd |= right is None or self._is_scale(base.call, found.value / right)
            return base.add(code, {number.parameter: value}, change(value), is_odd=is_odd)
        return None

    def _starts(
        self, code: str, number: Number, call: AttentionCall, change: Change
    ) -> list[float]:
        """Return the numbers of a coarse grid, the best first."""
        values, stacked = self._grid(code, number, call, change)
        if not values:
            return []
        probe = self.parts[0]
        errors = errors_of(simulate_products(call, probe, stacked), probe)
        return [values[i] for i in errors.argsort().tolist()]

    def _grid(
        self, code: str, number: Number, call: AttentionCall, change: Change
    ) -> tuple[list[float], Tensor]:
        """Return the numbers of a coarse grid, and the products of queries and keys for each."""
        probe = self.parts[0]
        keys = visibility(call, probe)[1]
        name = code, id(call.q), id(call.k), call.tiled, keys.start, keys.stop
        if name not in self.grids:
            first = next(iter(_rotations(call).values()))
            starts = [*number.starts(first)]
            if len(starts) == 1:  # a gain
                starts = [starts[0] * 1.2 ** (i - 8) for i in range(17)]
            values, grid = [], []
            for start in starts:
                with suppress(ConfigError):
                    grid.append(products(change(start), probe))
                    values.append(start)
            self.grids[name] = values, torch.stack(grid) if grid else torch.zeros(0), call
        return self.grids[name][:2]

    def _is_scale(self, call: AttentionCall, ratio: float) -> bool:
        """Return whether a ratio of gains is a scale of scores that code is known to have."""
        scale = call.scale * ratio**2
        known = named_scales(call, self.mscale)
        return any(abs(scale / other - 1) < 1e-3 for other in known)

    def _offsets(self, base: Wrong, scales: Sequence[float] = ()) -> Iterator[Wrong]:
        """Add an offset of the positions on one side, best at one of the scales of the scores."""
        rotations = _rotations(base.call)
        rope = next(iter(rotations.values())).rope if rotations else None
        if rope is None or any(side.times != 1 for side in rotations.values()):
            return
        if rope.is_composable and rope.rope_type != "xpos" and base.call.frequencies is None:
            offsets = self._best_offsets(base.call, rope, scales or [base.call.scale])
        else:
            offsets = [-1, 1]
        for side, rotation in rotations.items():
            for offset in offsets:
                by = offset if side == "q" else -offset
                moved = replace(rotation, positions=rotation.positions + by)
                sides: dict[str, Any] = {side: moved}
                call = replace(base.call, **sides)
                yield base.add("position_offset", {"offset": by, "side": side}, call)

    def _best_offsets(
        self, call: AttentionCall, rope: RopeConfig, scales: Sequence[float]
    ) -> list[int]:
        """Return the offsets of queries that fit best."""
        probe = self.parts[0]
        part = probe.narrow(torch.tensor([len(probe.queries) - 1]), 0)
        if not call.rotates_back and call.v is None:
            some = slice(OFFSET_CHANNELS)
            part = replace(part, v=part.v[..., some], out=part.out[..., some])
        keys = visibility(call, part)[1]
        name = "position_offset", id(call.q), id(call.k), call.tiled, keys.start, keys.stop
        if name not in self.grids:
            count = max(1, keys.stop - keys.start)
            largest = max(64, min(MAX_OFFSET, MAX_OFFSET_SCORES // (2 * count)))
            offsets = [i for i in range(-largest, largest + 1) if i != 0]
            grid = products_of_offsets(call, part, rope, torch.tensor(offsets))
            self.grids[name] = offsets, grid.float(), call
        offsets, stacked, _ = self.grids[name]
        errors = self._errors_of_scales(call, part, stacked, scales).amin(0)
        count = NUM_OFFSETS if len(scales) == 1 else 2 * NUM_OFFSETS
        return [
            offsets[i] for i in errors.topk(min(count, len(offsets)), largest=False)[1].tolist()
        ]

    def _scale_and_rotation(self) -> Iterator[Wrong]:
        """Return calls with another scale of the scores, and a fitted number of the rotation."""
        right = Wrong((), self.right)
        if least_error(self.right, self.parts[0]) > self._limit:
            return
        scales = [self.right.scale * ratio for ratio in SCALE_RATIOS]
        for wrong in self._offsets(right, scales):
            yield from self._scaled(wrong)
        for code, mistake in _of_rotations(self.right):
            number = mistake.number
            if number is None or not number.is_ratio or code == "gain_wrong":
                continue
            if number.value(next(iter(_rotations(self.right).values()))) is not None:
                yield from self._number_and_scale(right, code, number, scales)

    def _number_and_scale(
        self, right: Wrong, code: str, number: Number, scales: Sequence[float]
    ) -> Iterator[Wrong]:
        rotations = _rotations(self.right)

        def change(value: float, scale: float = self.right.scale) -> AttentionCall:
            sides: dict[str, Any] = {
                side: number.vary(call, value) for side, call in rotations.items()
            }
            return replace(self.right, **sides, scale=scale)

        with suppress(ConfigError):
            for start in self._starts_and_scales(code, number, scales, change):
                found = two_numbers(change, start, self.parts, self._limit)
                if found is not None:
                    value: float | int = round(found[0]) if number.is_whole else found[0]
                    for near in plain_numbers(value):
                        if abs(near / value - 1) < 1e-5 and not number.is_whole:
                            value = near
                            break
                    call = change(value, self.right.scale)
                    yield from self._scaled(right.add(code, {number.parameter: value}, call))
                    return

    def _starts_and_scales(
        self, code: str, number: Number, scales: Sequence[float], change: Change
    ) -> list[tuple[float, float]]:
        """Return numbers of a coarse grid with scales of the scores, the best first."""
        probe = self.parts[0]
        values, stacked = self._grid(code, number, self.right, change)
        if not values:
            return []
        errors = self._errors_of_scales(self.right, probe, stacked, scales)  # [scales, values]
        best: list[tuple[float, float]] = []
        for i in errors.flatten().argsort().tolist():
            start = values[i % len(values)], scales[i // len(values)]
            if start[0] not in [value for value, _ in best]:
                best.append(start)
            if len(best) == STARTS_OF_TWO:
                break
        return best

    def _errors_of_scales(
        self, call: AttentionCall, part: Part, stacked: Tensor, scales: Sequence[float]
    ) -> Tensor:
        """Return the errors of products `[C, ...]` with each of the scales, `[scales, C]`."""
        return torch.stack(
            [
                errors_of(simulate_products(replace(call, scale=scale), part, stacked), part)
                for scale in scales
            ]
        )

    def _scaled(self, base: Wrong) -> Iterator[Wrong]:
        """Add the scale that fits best."""
        for wrong in self._of_attention(base):
            if wrong.mistakes[-1][0] in ("scale_wrong", "softcap_wrong"):
                yield wrong

    def _with_attention(self, singles: Sequence[Wrong]) -> Iterator[Wrong]:
        """Add each mistake of attention that changes something else."""
        for first in singles:
            for pair in self._of_attention(first):
                if _are_apart(self.right, first, pair):
                    yield pair

    def _with_fitted_rotation(self, singles: Sequence[Wrong]) -> Iterator[Wrong]:
        for first in singles:
            yield from self._fitted_rotation(first)


def _rotations(call: AttentionCall) -> dict[str, RotaryCall]:
    sides = ("q", call.q), ("k", call.k)
    return {name: rotation for name, rotation in sides if rotation is not None}


def _of_rotations(call: AttentionCall) -> Iterator[tuple[str, Mistake]]:
    """Return the mistakes of rotations that `call` can have on all its sides."""
    rotations = _rotations(call)
    if not rotations:
        return
    is_silent = all(rotation.times == 0 for rotation in rotations.values())
    for code, mistake in MISTAKES.items():
        is_of_rotation = "rotation" in mistake.evidence and code not in INVISIBLE
        if is_of_rotation and (not is_silent or code == "nope_layer_rotated"):
            yield code, mistake


def _by_parameters(
    mistake: Mistake, rotation: RotaryCall, clues: Clues
) -> dict[tuple[str, int], WrongCall]:
    """Return the wrong calls of a mistake by their parameters, and a number for equal ones."""
    found: dict[tuple[str, int], WrongCall] = {}
    with suppress(RopeError):  # a rope that cannot be
        for given, call in mistake.find(rotation, clues):
            if given.get("layout") == "interleaved_to_half":
                continue  # the scores are those of interleaved
            name, number = repr(sorted(given.items())), 0
            while (name, number) in found:
                number += 1
            found[name, number] = given, call
    return found


def _are_apart(right: AttentionCall, first: Wrong, pair: Wrong) -> bool:
    """Return whether the second mistake of `pair` changes other fields than the first."""
    return not changes(right, first.call) & changes(first.call, pair.call)


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
