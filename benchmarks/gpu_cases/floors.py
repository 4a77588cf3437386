"""What a card can do: a copy of many bytes, and a product of large matrices."""

from collections.abc import Iterator
from functools import cache

import torch

from benchmarks.gpu_cases.case import Case, Make, Over, Side
from benchmarks.gpu_cases.sizes import Sizes, randn


def cases(sizes: Sizes) -> Iterator[tuple[str, Make]]:
    """Yield the floors themselves."""
    yield "device copy", lambda: Case(copy(sizes), [], 2.0 * sizes.copied)
    flops = 2.0 * sizes.matrix**3
    yield f"matmul bfloat16 {sizes.matrix}^3", lambda: Case(product(sizes), [], flops, "TFLOP/s")


@cache
def copy(sizes: Sizes) -> Side:
    """Return a copy on the device; counted as bytes read and bytes written."""
    source = torch.randint(0, 255, (sizes.copied,), dtype=torch.uint8, device=sizes.device)
    target = torch.empty_like(source)
    return Side("copy", lambda: target.copy_(source))


@cache
def product(sizes: Sizes) -> Side:
    """Return a product of square matrices in bfloat16."""
    a, b = (randn(sizes, sizes.matrix, sizes.matrix) for _ in range(2))
    out = torch.empty_like(a)
    return Side("matmul", lambda: torch.mm(a, b, out=out))


def over_copy(sizes: Sizes, moved: float, least: float | None = None) -> Over:
    """Set `moved` bytes, read or written, over the copy."""
    return Over("copy", [(copy(sizes), moved / (2 * sizes.copied))], least)


def over_floor(sizes: Sizes, flops: float, moved: float) -> Over:
    """Set a call over the slower of the matrix product and the copy that it cannot do without."""
    share = flops / (2 * sizes.matrix**3)
    sides = [(product(sizes), share), (copy(sizes), moved / (2 * sizes.copied))]
    return Over("floor", sides)
