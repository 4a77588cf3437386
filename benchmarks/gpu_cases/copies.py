"""Copies between host and device.

Host memory is registered with CUDA as the service's buffers are: mapped, then page-locked.
"""

import mmap
from collections.abc import Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.gpu_cases.case import Case, Make, Over, Side, Truth
from benchmarks.gpu_cases.sizes import Sizes

WIDTH = 16
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


@cache  # what is registered stays mapped
def _pair(sizes: Sizes, num_bytes: int, to_device: bool) -> tuple[Tensor, Tensor]:
    """Return registered memory of the host, and memory of the device, of random numbers."""
    memory = map_memory(num_bytes, huge=True)
    if not sizes.dry:
        register(memory)
    host = memory.view(torch.float32).view(-1, WIDTH)
    return host, torch.empty(host.shape, device=sizes.device)


def map_memory(num_bytes: int, huge: bool) -> Tensor:
    """Return fresh memory of the host, whose pages are huge ones or small ones."""
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
