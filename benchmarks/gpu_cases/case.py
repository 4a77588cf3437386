"""A case: a call of our kernels, its float64 reference, and what its time is compared with."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Function = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Reference:
    """The expected tensors of a provider."""

    tensors: Callable[[], Sequence[Tensor]]
    """Computes the tensors in float64."""

    tolerances: Sequence[float]
    """Largest relative error of each tensor: ||actual - expected|| / ||expected||."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One implementation that is timed: our kernel, another library's, or a floor."""

    name: str
    run: Function
    expected: Reference | None = None
    """The result of `run`; None for a floor, which is not checked."""

    to_tensors: Callable[[Any], Sequence[Tensor]] = tuple
    """Converts the result of `run` to the tensors and shapes of `expected`."""

    is_ours: bool = True
    """Whether a wrong result fails the case. Wrong results of other libraries become notes."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The baselines of a case, and the goal for the ratio of their time to ours."""

    name: str
    baselines: Sequence[tuple[Provider, float]]
    """Each baseline, and the work of the case as a fraction of its work. The slowest counts."""

    min_ratio: float | None = None
    """Goal: the baseline's time over ours is at least this."""

    max_ratio: float | None = None
    """Goal: our time over the baseline's is at most this; without baselines, in microseconds."""

    def ratio(self, seconds: Mapping[str, float]) -> float:
        """Return the ratio that the goal limits, from the seconds of each provider."""
        if not self.baselines:
            return seconds["ours"] * 1e6
        baseline = max(seconds[provider.name] * share for provider, share in self.baselines)
        if self.max_ratio is None:
            return baseline / seconds["ours"]
        return seconds["ours"] / baseline

    @property
    def goal(self) -> str:
        """The goal as text, empty if there is none."""
        if self.min_ratio is not None:
            return f">= {self.min_ratio:g}"
        return "" if self.max_ratio is None else f"<= {self.max_ratio:g}"

    def verdict(self, ratio: float) -> str:
        """Return "met" or "missed", empty if there is no goal."""
        if not self.goal:
            return ""
        met = (self.min_ratio or 0) <= ratio <= (self.max_ratio or math.inf)
        return "met" if met else "missed"


@dataclass(frozen=True, slots=True)
class Case:
    """A call of our kernels, with its comparisons."""

    ours: Provider
    comparisons: Sequence[Comparison]
    work: float
    """Bytes or floating-point operations of a call."""

    unit: str = "TB/s"
    libraries: Sequence[Callable[[], Provider]] = ()
    """Factories of other libraries' providers; they raise `Unavailable` if one cannot be used."""

    calls: int = 1
    """Calls in each run."""

    measure: Callable[[], Mapping[str, Sequence[float]]] | None = None
    """Returns samples in seconds of each provider, timed on the host; if None, providers are timed
    on the device."""

    note: Callable[[], str] = str
    """Returns a note for the row of the case. Called after the measurement."""


CaseFactory = Callable[[], Case]
ProviderFactory = Callable[[], Provider]
