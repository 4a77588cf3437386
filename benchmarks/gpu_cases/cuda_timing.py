"""Seconds per call on a CUDA device: sides take turns, in random order, with the host ahead of it.

A sample is several calls in a row after one that is not timed, so that each call finds the caches
as the one before left them. Nothing is flushed: a case moves several times what the L2 holds, or
goes over as many buffers.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.gpu_cases.case import Run

ROUNDS = 11
SAMPLE_S = 2e-3
MOST_CALLS = 40
AHEAD_S = 0.2
"""How far ahead of the device the host may have to be."""

CYCLES_PER_S = 2e9
"""Of the multiprocessors, at most: a sleep is at least as long as it should be."""

HOST_CALLS = 5


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds per call."""

    device_s: Sequence[float]
    """On the device, one for each round."""

    host_s: float
    """Time that the host takes to launch a call."""


def take_turns(runs: Mapping[str, Run]) -> dict[str, Times]:
    """Time each of `runs` in several rounds."""
    hosts = {name: host_seconds(run) for name, run in runs.items()}
    counts = {name: _calls_per_sample(run, hosts[name]) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name in random.sample(list(runs), len(runs)):
            samples[name].append(_sample(runs[name], counts[name], hosts[name]))
    return {name: Times(samples[name], hosts[name]) for name in runs}


def host_seconds(run: Run, calls: int = HOST_CALLS) -> float:
    """Return the median time in which `run` returns, launched while the device is idle."""
    run()
    torch.cuda.synchronize()
    samples = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return median(samples)


def _calls_per_sample(run: Run, host_s: float) -> int:
    device_s = _sample(run, 3, host_s)
    return max(1, min(MOST_CALLS, round(SAMPLE_S / device_s), int(AHEAD_S / host_s)))


def _sample(run: Run, count: int, host_s: float) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # until all is queued the device sleeps, or a slow host would be timed
    torch.cuda._sleep(int((1e-4 + 1.5 * (count + 1) * host_s) * CYCLES_PER_S))
    run()
    start.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / count


def graphed(runs: Sequence[Run]) -> Run:
    """Return one run that replays a graph of all of `runs`, and returns what they return.

    Where there is no CUDA device, it runs them.
    """
    if not torch.cuda.is_available():
        return lambda: [run() for run in runs]
    for run in runs[:2]:  # compiled and loaded, of addresses more and less aligned
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = [run() for run in runs]

    def replay() -> list[object]:
        graph.replay()
        return found

    return replay
