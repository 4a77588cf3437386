"""Block sizes and strides of launches, computed on the host from what a model fixes.

Triton's own `cdiv` and `next_power_of_2` take 5 us on the host.
"""

import math
from collections.abc import Sequence

from torch import Tensor


def cdiv(x: int, y: int) -> int:
    """Return x / y, rounded up."""
    return -(-x // y)


def next_power_of_2(x: int) -> int:
    """Return the least power of two that is at least x, for x of 1 or more."""
    return 1 << (x - 1).bit_length()


def block_of(width: int) -> int:
    """Return the least power of two that holds `width` and that `tl.dot` takes."""
    return max(16, next_power_of_2(width))


def rows_contiguous(x: Tensor) -> Tensor:
    """Return `x`, or a copy if the elements of a row are not next to each other."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def strides(sizes: Sequence[int], steps: Sequence[int]) -> list[int]:
    """Return the strides of all axes but the last: 0 for an axis of one element."""
    return [0 if size == 1 else s for size, s in zip(sizes[:-1], steps[:-1], strict=True)]


def stride_unit(*shapes: tuple[Sequence[int], Sequence[int]]) -> int:
    """Return the largest power of two, up to 16, that divides the strides of all tensors.

    As a constant of a kernel it bounds the width of accesses, and it has few values.

    Args:
        shapes: sizes and strides of each tensor.
    """
    return math.gcd(16, *(step for shape in shapes for step in strides(*shape)))


def head_blocks(num_heads: Sequence[int], max_block: int) -> int:
    """Return how many heads a tile has: the most that leave at most an eighth of the tile idle.

    A power of two up to `max_block`, which is one. `num_heads` are those of each tensor.
    """
    block = max_block
    while sum(cdiv(heads, block) * block for heads in num_heads) * 8 > sum(num_heads) * 9:
        block //= 2
    return block
