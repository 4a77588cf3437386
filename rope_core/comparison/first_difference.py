"""The first position at which the cosines of two frequencies differ.

For frequencies v and w, with s = (v + w) / 2 and d = (v - w) / 2,
|cos(p v) - cos(p w)| = 2 |sin(p s) sin(p d)|. At whole positions the sines depend on s and d modulo
pi, so both can be taken from [0, pi / 2]; g is the smaller, h the larger. Between two zeros of
sin(p h) the product rises to one peak and falls, which a bisection uses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SCAN = 64
"""Positions that are tried one after the other before bisections."""

MAX_FREQUENCY = 1e3
"""Pairs with faster ones are only scanned: the remainder of such angles has few digits."""

ROUNDING = 1e-9
"""Relative error of a bound that is computed in float64, and more."""


def first_difference(
    frequencies: Tensor, others: Tensor, *, start: int = 1, limit: int, tolerance: float
) -> int | None:
    """Return the least position in [start, limit] at which a cosine differs; None: none.

    Args:
        frequencies: float64 `[n]`, radians per position.
        others: those of the other rope, `[n]`.
        start: the first position to look at.
        limit: the last position to look at.
        tolerance: largest |cos(p v) - cos(p w)| that is no difference.
    """
    end = min(limit, start + SCAN)
    if (found := _scan(frequencies, others, start, end, tolerance)) is not None or end == limit:
        return found
    start = end + 1
    sums = _remainder((frequencies + others) / 2)
    differences = _remainder((frequencies - others) / 2)
    half = tolerance / 2
    # |sin x| <= x and |sin x| <= 1 bound the product from above, and the position from below
    bounds = torch.stack((half / sums, half / differences, (half / (sums * differences)).sqrt()))
    least = bounds.amax(0).clamp(min=start).tolist()
    best = limit + 1
    for index in sorted(range(len(least)), key=least.__getitem__):
        if least[index] >= best:
            break
        pair = _Pair(float(frequencies[index]), float(others[index]), tolerance)
        best = pair.first(max(start, int(least[index] * (1 - ROUNDING))), best - 1) or best
    return best if best <= limit else None


def _scan(
    frequencies: Tensor, others: Tensor, start: int, end: int, tolerance: float
) -> int | None:
    """Try all positions of [start, end]."""
    size = SCAN
    while start <= end:
        stop = min(end, start + size) + 1
        positions = torch.arange(start, stop, dtype=torch.float64)[:, None]
        differs = ((positions * frequencies).cos() - (positions * others).cos()).abs()
        found = (differs > tolerance).any(-1)
        if bool(found.any()):
            return start + int(found.to(torch.uint8).argmax())
        start, size = stop, min(2 * size, 2**16)
    return None


def _remainder(angles: Tensor) -> Tensor:
    """Return the distance of angles to the next multiple of pi, except of large ones."""
    rest = (angles - math.pi * (angles / math.pi).round()).abs()
    return torch.where(angles.abs() > MAX_FREQUENCY, angles.abs(), rest)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two frequencies of one pair."""

    v: float
    w: float
    tolerance: float

    def difference(self, position: int) -> float:
        return abs(math.cos(position * self.v) - math.cos(position * self.w))

    def first(self, start: int, end: int) -> int | None:
        """Return the first position in [start, end] that differs."""
        angles = torch.tensor([self.v + self.w, self.v - self.w], dtype=torch.float64) / 2
        period = math.pi / float(_remainder(angles).max())  # a bound says that one is not 0
        if period <= SCAN or max(abs(self.v), abs(self.w)) > MAX_FREQUENCY:
            pair = torch.tensor([[self.v], [self.w]], dtype=torch.float64)
            return _scan(pair[0], pair[1], start, end, self.tolerance)
        low, found = start, None
        while found is None and low <= end:
            high = min(end, math.floor((low // period + 1) * period))
            found = self._rise(low, max(low, high))
            low = max(low, high) + 1
        return found

    def _rise(self, low: int, high: int) -> int | None:
        """Return the first position of a stretch on which the difference has one peak."""
        peak = _bisect(low, high, lambda p: self.difference(p + 1) <= self.difference(p))
        if self.difference(peak) <= self.tolerance:
            return None
        return _bisect(low, peak, lambda p: self.difference(p) > self.tolerance)


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """Return the first number of [low, high) from which on a condition holds; `high` if none."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
