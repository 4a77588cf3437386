"""Layout of several tensors in one buffer, so that a single copy moves them all."""

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor

from service.batching.packing import ConcatInput

ALIGNED_BYTES = 256
"""Alignment of each tensor: no kernel needs more."""

VECTOR_BYTES = 16
"""Alignment that the widest vector load of a kernel needs."""

TensorLike = Tensor | ConcatInput
"""Something with the shape and dtype of a tensor."""


class BufferLayout:
    """Offsets of tensors in a buffer.

    Args:
        tensors: the tensors, or what has their shapes and dtypes.
        offsets: the first byte of each. None: one after another, aligned.
    """

    def __init__(self, tensors: Sequence[TensorLike], offsets: Sequence[int] | None = None) -> None:
        sizes = [tensor.shape.numel() * tensor.dtype.itemsize for tensor in tensors]
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


def find_layout(inputs: Sequence[ConcatInput]) -> tuple[int, BufferLayout] | None:
    """Return the address of the first of the inputs, and how all lie in memory from there.

    None if one copy of that memory would not do: an input has several parts, is not contiguous or
    not aligned, or the gaps between inputs are more than a fifth of the memory.
    """
    if any(len(part.parts) > 1 or not part.parts[0].is_contiguous() for part in inputs):
        return None
    tensors = [part.parts[0] for part in inputs]
    addresses = [tensor.data_ptr() for tensor in tensors]
    start = min(addresses)
    offsets = [address - start for address in addresses]
    layout = BufferLayout(tensors, offsets)
    if any(offset % VECTOR_BYTES for offset in offsets):
        return None
    if 4 * layout.num_bytes > 5 * sum(tensor.nbytes for tensor in tensors):
        return None
    return start, layout
