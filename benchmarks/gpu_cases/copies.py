"""Copies between host and device, and what the host pays to be able to make them.

Host memory is registered with CUDA as the service's buffers are: mapped, then page-locked.
"""

import mmap
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor

from benchmarks.gpu_cases.case import Case, Make, Over, Side, Truth
from benchmarks.gpu_cases.sizes import Sizes

WIDTH = 16
SLEEP_CYCLES = 10_000_000
"""Some 5 ms on a multiprocessor."""

ROUNDS = 5
BOTH_WAYS = 1.6
"""Least speed of copies both ways at once, over one way."""


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield names of cases, and what makes them."""
    for num_bytes in sizes.transferred:
        size = shown_bytes(num_bytes)
        yield f"copy {size} to the device", partial(_one_way, sizes, num_bytes, True)
        yield f"copy {size} to the host", partial(_one_way, sizes, num_bytes, False)
        least = BOTH_WAYS if num_bytes == sizes.transferred[-1] else None
        yield f"copy {size} both ways at once", partial(_both_ways, sizes, num_bytes, least)
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


def shown_bytes(num_bytes: int) -> str:
    """Return a size in words.

    >>> [shown_bytes(n) for n in (64, 2**16, 2**26)]
    ['64 B', '64 KB', '64 MB']
    """
    for unit, size in (("MB", 2**20), ("KB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes // size} {unit}"
    return f"{num_bytes} B"


def _one_way(sizes: Sizes, num_bytes: int, to_device: bool) -> Case:
    return Case(_copy(sizes, num_bytes, to_device), [], float(num_bytes), "GB/s")


def _copy(sizes: Sizes, num_bytes: int, to_device: bool, name: str = "own") -> Side:
    host, device = _pair(sizes, num_bytes, to_device)
    target, source = (device, host) if to_device else (host, device)
    source.normal_()
    target.fill_(torch.nan)

    def read(answer: Sequence[Tensor]) -> Sequence[Tensor]:
        _synchronize(sizes)
        return answer

    truth = Truth(lambda: [source.to(target.device).double()], [0.0])
    return Side(name, lambda: [target.copy_(source, non_blocking=True)], truth, read)


def _both_ways(sizes: Sizes, num_bytes: int, least: float | None) -> Case:
    there, back = (_copy(sizes, num_bytes, way, "one way") for way in (True, False))
    assert there.truth is not None
    assert back.truth is not None
    stream = None if sizes.dry else torch.cuda.Stream()

    def run() -> list[Tensor]:
        if stream is None:
            return [*there.run(), *back.run()]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = back.run()
        found = [*there.run(), *found]
        torch.cuda.current_stream().wait_stream(stream)
        return found

    tensors = there.truth.tensors, back.truth.tensors
    truth = Truth(lambda: [tensor for each in tensors for tensor in each()], [0.0, 0.0])
    over = [Over("one way", [(there, 2.0)], least)]
    return Case(Side("own", run, truth, there.read), over, 2.0 * num_bytes, "GB/s")


def _register(sizes: Sizes, num_bytes: int, huge: bool, way: str, most: float | None) -> Case:
    def measure() -> dict[str, list[float]]:
        return {"own": [_register_once(sizes, num_bytes, huge)[way] for _ in range(ROUNDS)]}

    own = Side("own", lambda: _register_once(sizes, num_bytes, huge))
    return Case(own, [Over("us", (), most=most)], 0.0, measure=measure)


def _register_once(sizes: Sizes, num_bytes: int, huge: bool) -> dict[str, float]:
    memory = _map(num_bytes, huge)
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


@cache  # what is registered stays mapped
def _pair(sizes: Sizes, num_bytes: int, to_device: bool) -> tuple[Tensor, Tensor]:
    """Return registered memory of the host, and memory of the device, of random numbers."""
    memory = _map(num_bytes, huge=True)
    if not sizes.dry:
        register(memory)
    host = memory.view(torch.float32).view(-1, WIDTH)
    return host, torch.empty(host.shape, device=sizes.device)


def _map(num_bytes: int, huge: bool) -> Tensor:
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def register(memory: Tensor) -> None:
    """Lock the pages of memory, and let CUDA copy from and to it by itself."""
    runtime = torch.cuda.cudart()
    torch.cuda.check_error(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))


def unregister(memory: Tensor) -> None:
    """Undo it."""
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))


def _synchronize(sizes: Sizes) -> None:
    if not sizes.dry:
        torch.cuda.synchronize()
