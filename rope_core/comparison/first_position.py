"""The first position at which two ropes differ, in calls of any length."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from rope_core.comparison.first_difference import first_difference
from rope_core.config import RopeConfig
from rope_core.scaling import exact_frequencies

LAST_POSITION = 2**24
"""The last position that is compared."""

TOLERANCE = 1e-3
"""Largest difference of a cosine that is none."""


def has_frequencies(rope: RopeConfig | None, other: RopeConfig | None) -> bool:
    """Tell whether frequencies can be compared: not if they are weights of a model."""
    return all(r is None or r.learned != "frequencies" for r in (rope, other))


def first_position(rope: RopeConfig | None, other: RopeConfig | None) -> int | None:
    """Return the least position at which a cosine differs; None: none up to LAST_POSITION."""
    if not has_frequencies(rope, other):
        return None
    bounds = sorted({*_bounds(rope), *_bounds(other), LAST_POSITION + 1})
    start = 1
    for end in bounds:
        if start >= end:
            continue
        if _grows(rope, start) or _grows(other, start):
            found = _first_of_growing(rope, other, start, end - 1)
        else:
            a, b = frequencies_at(rope, other, start)
            found = first_difference(a, b, start=start, limit=end - 1, tolerance=TOLERANCE)
        if found is not None:
            return found
        start = end
    return None


def frequencies_at(
    rope: RopeConfig | None, other: RopeConfig | None, position: int
) -> tuple[Tensor, Tensor]:
    """Return the frequencies of the pairs that both have, in the shortest call with a position."""
    found = [
        None if r is None else exact_frequencies(r.for_length(position + 1)) for r in (rope, other)
    ]
    pairs = min(len(frequencies) for frequencies in found if frequencies is not None)
    a, b = (torch.zeros(pairs).double() if f is None else f[:pairs] for f in found)
    return a, b


def _bounds(rope: RopeConfig | None) -> Iterator[int]:
    """Return the positions from which on longer calls have other frequencies."""
    if rope is None or not rope.needs_length or rope.length_dependence is None:
        return
    bound = rope.length_dependence.above
    while bound <= LAST_POSITION:
        yield bound
        if rope.rope_type != "dynamic_alpha":
            return
        bound *= 2


def _grows(rope: RopeConfig | None, position: int) -> bool:
    """Tell whether each longer call has other frequencies."""
    if rope is None or not rope.needs_length or rope.rope_type != "dynamic":
        return False
    return rope.length_dependence is not None and position >= rope.length_dependence.above


def _first_of_growing(
    rope: RopeConfig | None, other: RopeConfig | None, start: int, end: int
) -> int | None:
    """Return the first position that differs, of frequencies that change with the length.

    Stretches of positions are halved. One is left out if no angles between those at its ends
    differ: sums and differences of angles rise or fall evenly with the length of a dynamic call.
    """
    stretches = [(start, min(2 * start, end))]
    while stretches:
        low, high = stretches.pop()
        if not stretches and high < end:
            stretches.append((high + 1, min(2 * high, end)))
        ends = [_half_angles(rope, other, position) for position in (low, high)]
        largest = [_largest_sine(*angles) for angles in zip(*ends, strict=True)]
        if not bool((2 * largest[0] * largest[1] > TOLERANCE).any()):
            continue
        if low == high:
            return low
        middle = (low + high) // 2
        stretches += [(middle + 1, high), (low, middle)]
    return None


def _half_angles(
    rope: RopeConfig | None, other: RopeConfig | None, position: int
) -> tuple[Tensor, Tensor]:
    """Return half of the sums and of the differences of angles at a position."""
    a, b = frequencies_at(rope, other, position)
    return position * (a + b) / 2, position * (a - b) / 2


def _largest_sine(low: Tensor, high: Tensor) -> Tensor:
    """Return the largest |sin| of the angles between two."""
    peaks = ((low / math.pi - 0.5).floor() != (high / math.pi - 0.5).floor()).double()
    return torch.maximum(torch.maximum(low.sin().abs(), high.sin().abs()), peaks)
