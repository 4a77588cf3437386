"""Seconds per call on a CUDA device. Functions are interleaved in random order.

A sample is several calls in a row after one untimed call, so each call finds the caches as the
previous call left them. Caches are not flushed: a case moves several times the size of the L2
cache, or uses that many buffers. Launches are queued ahead of the device, so the host is not timed.
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.gpu_cases.case import Function

ROUNDS = 11
SAMPLE_S = 2e-3
MAX_CALLS = 40
MAX_QUEUED_S = 0.2
"""Limit of the host time of the launches that are queued in advance."""

CYCLES_PER_S = 2e9
"""Upper bound of the clock of the multiprocessors: a sleep takes at least the requested time."""

HOST_CALLS = 5


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds per call."""

    device_s: Sequence[float]
    """Time on the device, one sample per round."""

    host_s: float
    """Time that the host takes to launch a call."""


def time_interleaved(runs: Mapping[str, Function]) -> dict[str, Times]:
    """Time every function once per round, in random order."""
    host_s = {name: host_time_s(run) for name, run in runs.items()}
    counts = {name: _calls_per_sample(run, host_s[name]) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name in random.sample(list(runs), len(runs)):
            samples[name].append(_sample(runs[name], counts[name], host_s[name]))
    return {name: Times(samples[name], host_s[name]) for name in runs}


def host_time_s(run: Function, calls: int = HOST_CALLS) -> float:
    """Return the median time until `run` returns, launched on an idle device."""
    run()
    torch.cuda.synchronize()
    samples = []
    for _ in range(calls):
        start = time.perf_counter()
        run()
        samples.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return median(samples)


def _calls_per_sample(run: Function, host_s: float) -> int:
    device_s = _sample(run, 3, host_s)
    return max(1, min(MAX_CALLS, round(SAMPLE_S / device_s), int(MAX_QUEUED_S / host_s)))


def _sample(run: Function, count: int, host_s: float) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    # the device sleeps until all launches are queued; otherwise a slow host would be timed
    torch.cuda._sleep(int((1e-4 + 1.5 * (count + 1) * host_s) * CYCLES_PER_S))
    run()
    start.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3 / count


def capture_graph(runs: Sequence[Function]) -> Function:
    """Capture all of `runs` in one CUDA graph; return a function that replays it.

    The function returns the list of results. Without a CUDA device it calls `runs` directly.
    """
    if not torch.cuda.is_available():
        return lambda: [run() for run in runs]
    for run in runs[:2]:  # compile for both alignments: the buffers of one call are less aligned
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [run() for run in runs]

    def replay() -> list[object]:
        graph.replay()
        return results

    return replay
