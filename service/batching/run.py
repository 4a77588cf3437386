"""Results: what a run of the device returns, and what each call of the run gets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Run(Generic[R_co]):
    """Results of the calls of one run, in the order of the calls.

    An exception among the results belongs to its call alone.
    """

    results: Sequence[R_co]
    copy_s: float
    compute_s: float


@dataclass(slots=True)
class Completed(Generic[R]):
    """The result of one call, and the times of its run."""

    result: R
    queue_s: float
    copy_s: float
    compute_s: float
    num_calls: int
    """Number of calls in the run."""
