"""Fault injection for tests: runs that raise, hang or are slow, a lost device, memory exhaustion.

`INJECT_FAULTS="run.raise=0.05,run.slow=0.1"` sets the probability of each kind of fault, and
`INJECT_FAULTS_SEED=7` the seed of the random generator. Without `INJECT_FAULTS` no code of this
file runs for a request. The variables have no prefix `ROPE_`, because they are not settings.
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
    "run.raise": "a run of several calls raises an unexpected exception",
    "run.slow": "a run takes SLOW_S seconds longer",
    "run.hang": "a run on a device thread takes HANG_S seconds longer",
    "device.lost": "a run raises DeviceLost: the service drains and exits",
    "memory.full": "the allocation of a large buffer fails",
}

SLOW_S = 0.005
HANG_S = 0.5


class InjectedFault(Exception):
    """An unexpected failure of a run."""


class Faults:
    """Injects faults at random.

    Args:
        probabilities: probability of each kind in KINDS; 0 for a missing kind.
        seed: seed of the generator. The same seed and the same sequence of runs give the same
            faults.
    """

    def __init__(self, probabilities: Mapping[str, float], seed: int) -> None:
        self._probabilities = probabilities
        self._random = random.Random(seed).random  # noqa: S311 (not a secret)

    def wrap_run(self, run: Callable[[Sequence[Any]], Run[Any]]) -> Callable[..., Run[Any]]:
        """Return a function that calls `run`, with injected faults."""

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
        """Return a function that calls `allocate`, with injected faults."""

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
    """Return the faults that the environment sets; None without `INJECT_FAULTS`.

    Raises:
        SystemExit: the value of a variable is not valid.
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
        raise ValueError(f"expected KIND=PROBABILITY with one of {', '.join(KINDS)}, got {text}")
    return kind, float(probability)
