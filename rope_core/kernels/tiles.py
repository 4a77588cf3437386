"""How tensors are cut into tiles, by what a model fixes."""

import math
from collections.abc import Sequence

import triton
from torch import Tensor


def strides(x: Tensor) -> list[int]:
    """Return the strides of all axes but the last: 0 for an axis of one place, which needs none."""
    return [0 if size == 1 else s for size, s in zip(x.shape[:-1], x.stride()[:-1], strict=True)]


def unit(*tensors: Tensor) -> int:
    """Return the largest power of two, up to 16, that divides the strides of all `tensors`.

    As a constant of a kernel it tells how wide its accesses may be, and few of them occur.
    """
    return math.gcd(16, *(stride for t in tensors for stride in strides(t)))


def head_blocks(num_heads: Sequence[int], most: int) -> int:
    """Return how many heads a tile has: the most, up to `most`, that leave an eighth idle at most.

    A power of two, as `most` is. `num_heads` are those of each tensor that is cut alike.
    """
    block = most
    while sum(triton.cdiv(heads, block) * block for heads in num_heads) * 8 > sum(num_heads) * 9:
        block //= 2
    return block
