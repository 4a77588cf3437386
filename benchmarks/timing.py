"""Seconds per call. Compared functions are interleaved, so a slow phase of the machine hits all."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

Function = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds per call, one value per sample."""

    wall: list[float]
    cpu: list[float]
    """Processor time of all threads of this process."""

    @property
    def fastest(self) -> float:
        """The fastest sample in wall-clock time."""
        return min(self.wall)

    @property
    def median(self) -> float:
        """The median sample in wall-clock time."""
        return median(self.wall)


def time_interleaved(
    runs: Mapping[str, Function], rounds: int, sample_s: float
) -> dict[str, Times]:
    """Time every function once per round; a sample takes about `sample_s` and at least one call."""
    counts = {name: _calls_within(sample_s, run) for name, run in runs.items()}
    times = {name: Times([], []) for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            wall, cpu = _sample(run, counts[name])
            times[name].wall.append(wall)
            times[name].cpu.append(cpu)
    return times


def _sample(run: Function, count: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        run()
    return (time.perf_counter() - wall) / count, (time.process_time() - cpu) / count


def _calls_within(seconds: float, run: Function) -> int:
    run()
    count = 1
    while (elapsed := _sample(run, count)[0] * count) < seconds / 4:
        count *= 4
    return max(1, round(count * seconds / elapsed))
