"""One thing that is checked and timed, and what it is held against."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Run = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Truth:
    """What a run must come to."""

    tensors: Callable[[], Sequence[Tensor]]
    """In float64."""

    bars: Sequence[float]
    """Of each tensor: how far off an answer may be, ||answer - truth|| / ||truth||."""


@dataclass(frozen=True, slots=True)
class Side:
    """A way to do the work of a case, or a floor under it."""

    name: str
    run: Run
    truth: Truth | None = None
    """What its first run must come to; None for a floor."""

    read: Callable[[Any], Sequence[Tensor]] = tuple
    """Makes what a run returns into the tensors that `truth` tells of."""

    ours: bool = True
    """Whether a wrong answer is a fault of ours."""


@dataclass(frozen=True, slots=True)
class Over:
    """What the time of a case is set over, and the goal."""

    name: str
    sides: Sequence[tuple[Side, float]]
    """The slowest counts, each with how much of its work a run of the case is."""

    least: float | None = None
    """Goal: its time over ours, at least."""

    most: float | None = None
    """Goal: our time over its, at most; without sides, our time in microseconds."""

    def ratio(self, took: Mapping[str, float]) -> float:
        """Return what the goal is about, by the seconds of each side and of `own`."""
        if not self.sides:
            return took["own"] * 1e6
        its = max(took[side.name] * share for side, share in self.sides)
        return its / took["own"] if self.most is None else took["own"] / its

    @property
    def goal(self) -> str:
        """Return it in words."""
        if self.least is not None:
            return f">= {self.least:g}"
        return "" if self.most is None else f"<= {self.most:g}"

    def verdict(self, ratio: float) -> str:
        """Return whether it is met."""
        if not self.goal:
            return ""
        return "met" if (self.least or 0) <= ratio <= (self.most or math.inf) else "missed"


@dataclass(frozen=True, slots=True)
class Case:
    """A call of our kernels."""

    own: Side
    over: Sequence[Over]
    work: float
    """Bytes or floating-point operations of a call."""

    unit: str = "TB/s"
    others: Sequence[Callable[[], Side]] = ()
    """Make other libraries' ways to do it; `others.Missing` where there is none."""

    calls: int = 1
    """Calls of each run."""

    measure: Callable[[], Mapping[str, Sequence[float]]] | None = None
    """Seconds of several runs of each side by the host's clock; where None, the device's clock
    times the sides."""

    note: Callable[[], str] = str
    """Returns a note for the row of the case, after it was measured."""


Make = Callable[[], Case]
