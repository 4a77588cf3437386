"""Run a batch so that a call that fails does not fail the others."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from service.batching.run import Run
from service.errors import DeviceLost

C = TypeVar("C")
R = TypeVar("R")

Runs = Sequence[Run[R | Exception]]
"""The run of a batch, or the runs of its parts if the batch was divided after a failure."""


def run_bisecting(
    run: Callable[[Sequence[C]], Run[R | Exception]],
    calls: Sequence[C],
    on_progress: Callable[[], None],
) -> Runs[R]:
    """Run calls; if the run raises, run each half, so that only the faulty call fails.

    Args:
        run: computes calls; raises DeviceLost if the device has failed for good.
        calls: calls of one batch.
        on_progress: called after each failed run of several calls.
    """
    try:
        return [run(calls)]
    except DeviceLost:
        return [Run([DeviceLost() for _ in calls], 0.0, 0.0)]
    except Exception as failure:
        if len(calls) == 1:
            return [Run([failure], 0.0, 0.0)]
    on_progress()
    halves = calls[: len(calls) // 2], calls[len(calls) // 2 :]
    return [part for half in halves for part in run_bisecting(run, half, on_progress)]
