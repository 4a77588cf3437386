"""Seconds per call: things that are compared take turns, so that a slow moment slows them all."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds per call of several samples."""

    wall: list[float]
    cpu: list[float]
    """Of all threads of this process."""

    @property
    def least(self) -> float:
        """What the machine can do."""
        return min(self.wall)

    @property
    def median(self) -> float:
        """What it did."""
        return median(self.wall)


def take_turns(runs: Mapping[str, Run], rounds: int, sample_s: float) -> dict[str, Times]:
    """Time each of `runs` in `rounds` samples of at least one call and about `sample_s`."""
    counts = {name: _calls_within(sample_s, run) for name, run in runs.items()}
    times = {name: Times([], []) for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            wall, cpu = _sample(run, counts[name])
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
    return times


def _sample(run: Run, count: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        run()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _calls_within(seconds: float, run: Run) -> int:
    run()
    count = 1
    while (took := _sample(run, count)[0] * count) < seconds / 4:
        count *= 4
    return max(1, round(count * seconds / took))
