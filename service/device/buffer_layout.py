"""Where tensors lie in one buffer, so that one copy brings them all."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from service.batching.packing import ConcatInput

ALIGNED_BYTES = 256
"""Where a tensor may begin: no kernel asks for more."""

VECTOR_BYTES = 16
"""What the widest load of a kernel asks for."""


class Shaped(Protocol):
    """A tensor, or what will be one."""

    @property
    def shape(self) -> torch.Size:
        """Its shape."""

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype."""


class BufferLayout:
    """Places of tensors of these shapes and dtypes, one after the other.

    Args:
        likes: what the tensors are like.
        starts: bytes from the beginning of the buffer; aligned, without gaps, where None.
    """

    def __init__(self, likes: Sequence[Shaped], starts: Sequence[int] | None = None) -> None:
        self._likes = likes
        self._starts: list[int] = [] if starts is None else [*starts]
        end = 0
        for like in likes if starts is None else ():
            self._starts.append(end)
            end += -(-_num_bytes(like) // ALIGNED_BYTES) * ALIGNED_BYTES
        self.num_bytes = end

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Return the tensors in a buffer of bytes."""
        return [
            buffer[start : start + _num_bytes(like)].view(like.dtype).view(like.shape)
            for start, like in zip(self._starts, self._likes, strict=True)
        ]


def span(joints: Sequence[ConcatInput]) -> tuple[int, int, BufferLayout] | None:
    """Return first and last address and the places of tensors that lie together as they are.

    None if they do not, if any has to be joined, or if a copy of the whole would not be aligned.
    """
    if any(len(joint.parts) > 1 or not joint.parts[0].is_contiguous() for joint in joints):
        return None
    tensors = [joint.parts[0] for joint in joints]
    addresses = [tensor.data_ptr() for tensor in tensors]
    first = min(addresses)
    last = max(a + t.nbytes for a, t in zip(addresses, tensors, strict=True))
    starts = [address - first for address in addresses]
    if any(start % VECTOR_BYTES for start in starts):
        return None
    if 4 * (last - first) > 5 * sum(tensor.nbytes for tensor in tensors):
        return None
    return first, last, BufferLayout(tensors, starts)


def _num_bytes(like: Shaped) -> int:
    return like.shape.numel() * like.dtype.itemsize
