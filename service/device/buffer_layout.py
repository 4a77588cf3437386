"""Layout of several tensors in one buffer, so that a single copy moves them all."""

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from service.batching.packing import ConcatInput

ALIGNED_BYTES = 256
"""Alignment of each tensor: no kernel needs more."""

TensorLike = Tensor | ConcatInput
"""Something with the shape and dtype of a tensor."""


class BufferLayout:
    """Offsets of tensors in a buffer.

    Args:
        tensors: the tensors, or what has their shapes and dtypes.
        offsets: the first byte of each. None: one after another, aligned.
    """

    def __init__(self, tensors: Sequence[TensorLike], offsets: Sequence[int] | None = None) -> None:
        sizes = [tensor.nbytes for tensor in tensors]
        if offsets is None:
            aligned = (-(-size // ALIGNED_BYTES) * ALIGNED_BYTES for size in sizes)
            *offsets, _ = accumulate(aligned, initial=0)
        ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
        self.num_bytes = max(ends, default=0)
        self._slices = [*map(slice, offsets, ends)]
        self._likes = [(tensor.dtype, tensor.shape) for tensor in tensors]

    def views(self, buffer: Tensor) -> list[Tensor]:
        """Return the tensors as views of a buffer, uint8 `[num_bytes]`."""
        return [
            buffer[part].view(dtype).view(shape)
            for part, (dtype, shape) in zip(self._slices, self._likes, strict=True)
        ]
