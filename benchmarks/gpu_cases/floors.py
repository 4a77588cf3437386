"""What a card can do: copy many bytes, read them, and multiply large matrices."""

from collections.abc import Iterator
from functools import cache, partial

import torch

from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.sizes import Sizes, randn, short


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield the floors themselves."""
    yield "device copy", lambda: Case(copy(sizes), [], 2.0 * sizes.copied)
    yield "device read (sum)", lambda: Case(read(sizes), [], float(sizes.copied))
    for dtype in (torch.bfloat16, torch.float32):
        yield f"matmul {short(dtype)} {sizes.matrix}^3", partial(_product_case, sizes, dtype)


def _product_case(sizes: Sizes, dtype: torch.dtype) -> Case:
    return Case(product(sizes, dtype), [], 2.0 * sizes.matrix**3, "TFLOP/s")


@cache
def copy(sizes: Sizes) -> Side:
    """Return a copy on the device; counted as bytes read and bytes written."""
    source = torch.randint(0, 255, (sizes.copied,), dtype=torch.uint8, device=sizes.device)
    target = torch.empty_like(source)
    return Side("copy", lambda: target.copy_(source))


@cache
def read(sizes: Sizes) -> Side:
    """Return a sum over as many bytes as the copy reads: what a kernel that writes little can do.

    A copy writes as much as it reads, which memory does more slowly than reading alone.
    """
    source = randn(sizes, sizes.copied // 4, dtype=torch.float32)
    total = torch.empty((), device=sizes.device)
    return Side("read", lambda: torch.sum(source, 0, out=total))


@cache
def product(sizes: Sizes, dtype: torch.dtype = torch.bfloat16) -> Side:
    """Return a product of square matrices; float32 without TF32, as torch computes by default."""
    a, b = (randn(sizes, sizes.matrix, sizes.matrix, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return Side(f"matmul {short(dtype)}", lambda: torch.mm(a, b, out=out))


def over_copy(sizes: Sizes, moved: float, least: float | None = None) -> Over:
    """Set `moved` bytes, read or written, over the copy."""
    return Over("copy", [(copy(sizes), moved / (2 * sizes.copied))], least)


def over_read(sizes: Sizes, num_bytes: float, least: float | None = None) -> Over:
    """Set `num_bytes` that are read over the sum."""
    return Over("read", [(read(sizes), num_bytes / sizes.copied)], least)


def over_floor(
    sizes: Sizes, flops: float, moved: float, dtype: torch.dtype = torch.bfloat16
) -> Over:
    """Set a call over the slower of the product of its dtype and the copy that it cannot avoid."""
    share = flops / (2 * sizes.matrix**3)
    sides = [(product(sizes, dtype), share), (copy(sizes), moved / (2 * sizes.copied))]
    return Over("floor", sides)


def over_read_floor(sizes: Sizes, flops: float, num_bytes: float) -> Over:
    """Set a call that writes little over the slower of the product in bfloat16 and the read."""
    share = flops / (2 * sizes.matrix**3)
    return Over("floor", [(product(sizes), share), (read(sizes), num_bytes / sizes.copied)])
