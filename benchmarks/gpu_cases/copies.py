"""Copies between host and device.

Host memory is mapped and then registered with CUDA, like the buffers of the service.
"""

import mmap
from collections.abc import Iterator, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Provider, Reference
from benchmarks.gpu_cases.sizes import Sizes

ROW_ELEMENTS = 16
MIN_DUPLEX_RATIO = 1.6
"""Goal for the throughput of copies in both directions at once, relative to one direction."""


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each case."""
    for num_bytes in sizes.transfer_bytes:
        size = format_bytes(num_bytes)
        yield f"copy {size} to the device", partial(_one_way, sizes, num_bytes, True)
        yield f"copy {size} to the host", partial(_one_way, sizes, num_bytes, False)
        min_ratio = MIN_DUPLEX_RATIO if num_bytes == sizes.transfer_bytes[-1] else None
        yield f"copy {size} both ways at once", partial(_both_ways, sizes, num_bytes, min_ratio)


def format_bytes(num_bytes: int) -> str:
    """Format a size with its unit.

    >>> [format_bytes(n) for n in (64, 2**16, 2**26)]
    ['64 B', '64 KB', '64 MB']
    """
    for unit, size in (("MB", 2**20), ("KB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes // size} {unit}"
    return f"{num_bytes} B"


def _one_way(sizes: Sizes, num_bytes: int, to_device: bool) -> Case:
    return Case(_copy(sizes, num_bytes, to_device), [], float(num_bytes), "GB/s")


def _copy(sizes: Sizes, num_bytes: int, to_device: bool, name: str = "ours") -> Provider:
    host, device = _buffers(sizes, num_bytes, to_device)
    target, source = (device, host) if to_device else (host, device)
    source.normal_()
    target.fill_(torch.nan)

    def wait(result: Sequence[Tensor]) -> Sequence[Tensor]:
        _synchronize(sizes)
        return result

    expected = Reference(lambda: [source.to(target.device).double()], [0.0])
    return Provider(name, lambda: [target.copy_(source, non_blocking=True)], expected, wait)


def _both_ways(sizes: Sizes, num_bytes: int, min_ratio: float | None) -> Case:
    upload = _copy(sizes, num_bytes, to_device=True, name="one way")
    download = _copy(sizes, num_bytes, to_device=False, name="one way")
    assert upload.expected is not None
    assert download.expected is not None
    stream = None if sizes.dry_run else torch.cuda.Stream()

    def run() -> list[Tensor]:
        if stream is None:
            return [*upload.run(), *download.run()]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            downloaded = download.run()
        uploaded = upload.run()
        torch.cuda.current_stream().wait_stream(stream)
        return [*uploaded, *downloaded]

    references = upload.expected, download.expected
    tensors = lambda: [tensor for reference in references for tensor in reference.tensors()]  # noqa: E731
    ours = Provider("ours", run, Reference(tensors, [0.0, 0.0]), upload.to_tensors)
    comparison = Comparison("one way", [(upload, 2.0)], min_ratio)
    return Case(ours, [comparison], 2.0 * num_bytes, "GB/s")


@cache  # registered memory stays mapped
def _buffers(sizes: Sizes, num_bytes: int, to_device: bool) -> tuple[Tensor, Tensor]:
    """Return registered host memory and device memory, float32 `[rows, ROW_ELEMENTS]` each."""
    memory = map_memory(num_bytes, huge_pages=True)
    if not sizes.dry_run:
        register(memory)
    host = memory.view(torch.float32).view(-1, ROW_ELEMENTS)
    return host, torch.empty(host.shape, device=sizes.device)


def map_memory(num_bytes: int, huge_pages: bool) -> Tensor:
    """Map anonymous host memory; return it as uint8 `[num_bytes]`."""
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE if huge_pages else mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def register(memory: Tensor) -> None:
    """Page-lock host memory so that CUDA copies without a staging buffer."""
    runtime = torch.cuda.cudart()
    torch.cuda.check_error(runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0))


def unregister(memory: Tensor) -> None:
    """Undo `register`."""
    torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(memory.data_ptr()))


def _synchronize(sizes: Sizes) -> None:
    if not sizes.dry_run:
        torch.cuda.synchronize()
