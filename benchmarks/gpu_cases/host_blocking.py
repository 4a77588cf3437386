"""How long the host is kept by page-locking, by a pageable copy, and by a wait for an event."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.copies import map_memory, register, shown_bytes, unregister
from benchmarks.gpu_cases.sizes import Sizes

SLEEP_CYCLES = 10_000_000
"""Some 5 ms on a multiprocessor."""

ROUNDS = 5


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield names of cases, and what makes them."""
    largest = sizes.transferred[-1]
    for huge in (True, False):
        pages = "huge pages" if huge else "small pages"
        for way, most in (("register", 3000.0 if huge else None), ("unregister", None)):
            name = f"{way} {shown_bytes(largest)}, {pages}"
            yield name, partial(_register, sizes, largest, huge, way, most)
    for blocking in (False, True):
        name = f"1 KB pageable to a busy stream, {'.to()' if blocking else 'non_blocking'}"
        yield name, partial(_pageable, sizes, blocking)
    yield "wake-up of a blocking event, over a spinning one", partial(_wake_up, sizes)


def _register(sizes: Sizes, num_bytes: int, huge: bool, way: str, most: float | None) -> Case:
    def measure() -> dict[str, list[float]]:
        return {"own": [_register_once(sizes, num_bytes, huge)[way] for _ in range(ROUNDS)]}

    own = Side("own", lambda: _register_once(sizes, num_bytes, huge))
    return Case(own, [Over("us", (), most=most)], 0.0, measure=measure)


def _register_once(sizes: Sizes, num_bytes: int, huge: bool) -> dict[str, float]:
    memory = map_memory(num_bytes, huge)
    times = [time.perf_counter()]
    for change in () if sizes.dry else (register, unregister):
        change(memory)
        times.append(time.perf_counter())
    took = [end - start for start, end in pairwise(times)]
    return dict(zip(("register", "unregister"), took, strict=False))


def _pageable(sizes: Sizes, blocking: bool) -> Case:
    host, device = torch.randn(256), torch.empty(256, device=sizes.device)

    def run() -> Tensor:
        return host.to(sizes.device) if blocking else device.copy_(host, non_blocking=True)

    def measure() -> dict[str, list[float]]:
        return {"own": [_beside_a_kernel(run) for _ in range(ROUNDS)]}

    return Case(Side("own", run), [Over("us", (), most=50.0)], 0.0, measure=measure)


def _beside_a_kernel(run: Callable[[], object]) -> float:
    """Return the seconds that `run` keeps the host while its stream has a long kernel to do."""
    run()
    torch.cuda.synchronize()
    torch.cuda._sleep(SLEEP_CYCLES)
    start = time.perf_counter()
    run()
    took = time.perf_counter() - start
    torch.cuda.synchronize()
    return took


def _wake_up(sizes: Sizes) -> Case:
    def measure() -> dict[str, list[float]]:
        spinning = median(_late(blocking=False) for _ in range(ROUNDS))
        return {"own": [_late(blocking=True) - spinning for _ in range(ROUNDS)]}

    return Case(Side("own", lambda: None), [Over("us", (), most=30.0)], 0.0, measure=measure)


def _late(blocking: bool) -> float:
    """Return by how much the host's time of a kernel and its event is over the device's."""
    start, end = (torch.cuda.Event(enable_timing=True, blocking=blocking) for _ in range(2))
    torch.cuda.synchronize()
    begun = time.perf_counter()
    start.record()
    torch.cuda._sleep(SLEEP_CYCLES)
    end.record()
    end.synchronize()
    return time.perf_counter() - begun - start.elapsed_time(end) * 1e-3
