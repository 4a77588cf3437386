"""Floors of the GPU, and the time that the host takes to launch a kernel."""

from collections.abc import Iterator

import torch

from benchmarks.first_run.row import Row, rows_of_cases
from benchmarks.gpu_cases import cuda_timing, floors, kernels
from benchmarks.gpu_cases.case import Function
from benchmarks.gpu_cases.rotation import frequencies
from benchmarks.gpu_cases.sizes import Sizes, nan_like, randn

NUM_KEYS = 1024
NUM_CALLS = 200
GOALS_US = {"rotate_at": 45.0, "attend, one query": 70.0, "merge": 20.0}


def rows(sizes: Sizes) -> Iterator[Row]:
    """Yield the floors, and host times of single calls through the launcher in use."""
    yield from rows_of_cases(floors.cases(sizes), sizes)
    for name, run in launches(sizes).items():
        goal = f"<= {GOALS_US[name]:g} us"
        title = f"host time of {name}"
        run()
        if sizes.dry_run:
            yield Row(name=title, goal=goal)
            continue
        us = cuda_timing.host_time_s(run, NUM_CALLS) * 1e6
        verdict = "met" if us <= GOALS_US[name] else "missed"
        yield Row(name=title, us=us, goal=goal, verdict=verdict)


def launches(sizes: Sizes) -> dict[str, Function]:
    """Return calls that are so small that their time is that of the host."""
    heads, kv_heads = sizes.heads
    xs = [randn(sizes, 1, h, sizes.head_dim) for h in sizes.heads]
    position = torch.zeros(1, dtype=torch.int64, device=sizes.device)
    q = randn(sizes, 1, heads, sizes.head_dim)
    k, v = (randn(sizes, NUM_KEYS, kv_heads, sizes.head_dim) for _ in range(2))
    parts = randn(sizes, 4, heads, sizes.head_dim)
    lse = randn(sizes, 4, heads, dtype=torch.float32)
    return {
        "rotate_at": kernels.rotate_at(xs, nan_like(*xs), position, frequencies(sizes), "half"),
        "attend, one query": kernels.attend(q, k, v, [1], [NUM_KEYS]),
        "merge": kernels.merge_parts(parts, lse, *nan_like(parts[0], lse[0])),
    }
