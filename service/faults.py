"""Faults for tests: runs that raise, hang or are slow, a lost device, memory that is full.

`INJECT_FAULTS="run.raise=0.05,run.slow=0.1"` gives each kind its probability, and
`INJECT_FAULTS_SEED=7` the numbers of the generator. Without the first variable nothing of this file
is in the path of a request. The names have no `ROPE_` in front, so that no setting is one of them.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from threading import current_thread, main_thread
from typing import Any

from service.batching.run import Run
from service.errors import DeviceLost
from service.memory_blocks import Region

log = logging.getLogger("rope.faults")

KINDS = {
    "run.raise": "a run of several calls raises an exception that nobody expects",
    "run.slow": "a run takes SLOW_S longer",
    "run.hang": "a run on a thread takes HANG_S longer",
    "device.lost": "a run raises DeviceLost, which ends the service",
    "memory.full": "the system has no memory for a large buffer",
}

SLOW_S = 0.005
HANG_S = 0.5


class InjectedFault(Exception):
    """A failure that nobody expects."""


class Faults:
    """Faults that occur at random.

    Args:
        probabilities: of each kind among KINDS; kinds that are missing do not occur.
        seed: of the generator. The same seed gives the same faults to the same sequence of runs.
    """

    def __init__(self, probabilities: Mapping[str, float], seed: int) -> None:
        self._probabilities = probabilities
        self._random = random.Random(seed).random  # noqa: S311 (not a secret)

    def wrap_run(self, run: Callable[[Sequence[Any]], Run[Any]]) -> Callable[..., Run[Any]]:
        """Return `run` with faults."""

        def run_with_faults(calls: Sequence[Any]) -> Run[Any]:
            if self._occurs("device.lost"):
                raise DeviceLost
            if self._occurs("run.slow"):
                time.sleep(SLOW_S)
            if current_thread() is not main_thread() and self._occurs("run.hang"):
                time.sleep(HANG_S)
            if len(calls) > 1 and self._occurs("run.raise"):
                raise InjectedFault
            return run(calls)

        return run_with_faults

    def wrap_allocation(self, allocate: Callable[[int], Region]) -> Callable[[int], Region]:
        """Return `allocate` with faults."""

        def allocate_with_faults(num_bytes: int) -> Region:
            if self._occurs("memory.full"):
                raise MemoryError
            return allocate(num_bytes)

        return allocate_with_faults

    def _occurs(self, kind: str) -> bool:
        occurs = self._random() < self._probabilities.get(kind, 0.0)
        if occurs:
            log.warning("fault", extra={"fields": {"kind": kind}})
        return occurs


def read_faults(environment: Mapping[str, str]) -> Faults | None:
    """Return the faults that environment variables ask for; None in all normal runs.

    Raises:
        SystemExit: a variable has a value that is not valid.
    """
    text, seed = environment.get("INJECT_FAULTS"), environment.get("INJECT_FAULTS_SEED", "0")
    if not text:
        return None
    try:
        probabilities = dict(map(_read_fault, text.split(",")))
        number = int(seed)
    except ValueError as failure:
        raise SystemExit(f"INJECT_FAULTS or INJECT_FAULTS_SEED: {failure}") from None
    fields = {"faults": probabilities, "seed": number}
    log.warning("faults are injected: this service is for tests only", extra={"fields": fields})
    return Faults(probabilities, number)


def _read_fault(text: str) -> tuple[str, float]:
    kind, _, probability = text.partition("=")
    if kind not in KINDS or not 0 <= float(probability) <= 1:
        raise ValueError(f"{text} is not kind=probability, with one of {', '.join(KINDS)}")
    return kind, float(probability)
