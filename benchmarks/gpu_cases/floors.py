"""Floors: what the GPU can do at best when it copies, reads, and multiplies large matrices."""

from collections.abc import Iterator
from functools import cache, partial

import torch

from benchmarks.gpu_cases.case import Case, CaseFactory, Comparison, Provider
from benchmarks.gpu_cases.sizes import Sizes, dtype_name, randn


def cases(sizes: Sizes) -> Iterator[tuple[str, CaseFactory]]:
    """Yield the name and the factory of each floor."""
    yield "device copy", lambda: Case(copy(sizes), [], 2.0 * sizes.copy_bytes)
    yield "device read (sum)", lambda: Case(read(sizes), [], float(sizes.copy_bytes))
    for dtype in (torch.bfloat16, torch.float32):
        name = f"matmul {dtype_name(dtype)} {sizes.matmul_size}^3"
        yield name, partial(_matmul_case, sizes, dtype)


def _matmul_case(sizes: Sizes, dtype: torch.dtype) -> Case:
    return Case(matmul(sizes, dtype), [], 2.0 * sizes.matmul_size**3, "TFLOP/s")


@cache
def copy(sizes: Sizes) -> Provider:
    """Return a copy on the device. Its bytes are those read plus those written."""
    source = torch.randint(0, 255, (sizes.copy_bytes,), dtype=torch.uint8, device=sizes.device)
    target = torch.empty_like(source)
    return Provider("copy", lambda: target.copy_(source))


@cache
def read(sizes: Sizes) -> Provider:
    """Return a sum over as many bytes as the copy reads: the floor of a kernel that writes little.

    Memory reads faster than it copies.
    """
    source = randn(sizes, sizes.copy_bytes // 4, dtype=torch.float32)
    total = torch.empty((), device=sizes.device)
    return Provider("read", lambda: torch.sum(source, 0, out=total))


@cache
def matmul(sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> Provider:
    """Return a product of square matrices. float32 is computed without TF32, torch's default."""
    a, b = (randn(sizes, sizes.matmul_size, sizes.matmul_size, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return Provider(f"matmul {dtype_name(dtype)}", lambda: torch.mm(a, b, out=out))


def copy_comparison(sizes: Sizes, num_bytes: float, min_ratio: float | None = None) -> Comparison:
    """Compare a case that reads and writes `num_bytes` in total with the copy."""
    return Comparison("copy", [(copy(sizes), num_bytes / (2 * sizes.copy_bytes))], min_ratio)


def read_comparison(sizes: Sizes, num_bytes: float, min_ratio: float | None = None) -> Comparison:
    """Compare a case that reads `num_bytes` with the read."""
    return Comparison("read", [(read(sizes), num_bytes / sizes.copy_bytes)], min_ratio)


def copy_roofline(
    sizes: Sizes, flops: float, num_bytes: float, dtype: torch.dtype = torch.bfloat16
) -> Comparison:
    """Compare with the slower of the matrix product in `dtype` and the copy of `num_bytes`."""
    compute = matmul(sizes, dtype), flops / (2 * sizes.matmul_size**3)
    memory = copy(sizes), num_bytes / (2 * sizes.copy_bytes)
    return Comparison("floor", [compute, memory])


def read_roofline(sizes: Sizes, flops: float, num_bytes: float) -> Comparison:
    """Compare with the slower of the matrix product in bfloat16 and the read of `num_bytes`."""
    compute = matmul(sizes), flops / (2 * sizes.matmul_size**3)
    memory = read(sizes), num_bytes / sizes.copy_bytes
    return Comparison("floor", [compute, memory])
