"""How long the host is blocked: by page-locking, a pageable copy, and the wake-up of an event."""

import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Function, Provider
from benchmarks.gpu_cases.copies import format_bytes, map_memory, register, unregister
from benchmarks.gpu_cases.sizes import Sizes

SLEEP_CYCLES = 10_000_000
"""About 5 ms on a multiprocessor."""

ROUNDS = 5


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each case."""
    num_bytes = sizes.transfer_bytes[-1]
    for huge_pages in (True, False):
        pages = "huge pages" if huge_pages else "small pages"
        for operation in ("register", "unregister"):
            name = f"{operation} {format_bytes(num_bytes)}, {pages}"
            max_us = 3000.0 if huge_pages and operation == "register" else None
            yield name, partial(_page_locking, sizes, num_bytes, huge_pages, operation, max_us)
    for blocking in (False, True):
        name = f"1 KB pageable to a busy stream, {'.to()' if blocking else 'non_blocking'}"
        yield name, partial(_pageable_copy, sizes, blocking)
    yield "wake-up of a blocking event, over a spinning one", _event_wake_up


def _page_locking(
    sizes: Sizes, num_bytes: int, huge_pages: bool, operation: str, max_us: float | None
) -> Case:
    run = partial(_time_page_locking, sizes, num_bytes, huge_pages)

    def measure() -> dict[str, list[float]]:
        return {"ours": [run()[operation] for _ in range(ROUNDS)]}

    comparison = Comparison("us", (), max_ratio=max_us)
    return Case(Provider("ours", run), [comparison], 0.0, measure=measure)


def _time_page_locking(sizes: Sizes, num_bytes: int, huge_pages: bool) -> dict[str, float]:
    memory = map_memory(num_bytes, huge_pages)
    times = [time.perf_counter()]
    for call in () if sizes.dry_run else (register, unregister):
        call(memory)
        times.append(time.perf_counter())
    seconds = [end - start for start, end in pairwise(times)]
    return dict(zip(("register", "unregister"), seconds, strict=False))


def _pageable_copy(sizes: Sizes, blocking: bool) -> Case:
    host, device = torch.randn(256), torch.empty(256, device=sizes.device)

    def run() -> Tensor:
        return host.to(sizes.device) if blocking else device.copy_(host, non_blocking=True)

    def measure() -> dict[str, list[float]]:
        return {"ours": [_time_on_busy_stream(run) for _ in range(ROUNDS)]}

    comparison = Comparison("us", (), max_ratio=50.0)
    return Case(Provider("ours", run), [comparison], 0.0, measure=measure)


def _time_on_busy_stream(run: Function) -> float:
    """Return the seconds until `run` returns while a long kernel occupies its stream."""
    run()
    torch.cuda.synchronize()
    torch.cuda._sleep(SLEEP_CYCLES)
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    torch.cuda.synchronize()
    return seconds


def _event_wake_up() -> Case:
    def measure() -> dict[str, list[float]]:
        spinning = median(_event_latency(blocking=False) for _ in range(ROUNDS))
        return {"ours": [_event_latency(blocking=True) - spinning for _ in range(ROUNDS)]}

    comparison = Comparison("us", (), max_ratio=30.0)
    return Case(Provider("ours", lambda: None), [comparison], 0.0, measure=measure)


def _event_latency(blocking: bool) -> float:
    """Return the host's seconds for a kernel and its event, minus the device's."""
    start, end = (torch.cuda.Event(enable_timing=True, blocking=blocking) for _ in range(2))
    torch.cuda.synchronize()
    host_start = time.perf_counter()
    start.record()
    torch.cuda._sleep(SLEEP_CYCLES)
    end.record()
    end.synchronize()
    return time.perf_counter() - host_start - start.elapsed_time(end) * 1e-3
