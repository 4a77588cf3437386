"""Inputs of a run in pinned memory: where the request body already is, or copied together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.batching.packing import ConcatInput
from service.buffer_pool import BufferPool
from service.device.buffer_layout import BufferLayout

VECTOR_BYTES = 16
"""Alignment that the widest vector load of a kernel needs."""

SMALL_BYTES = 2**16
"""Smaller inputs may be copied separately if one request body holds all larger ones."""


@dataclass(frozen=True, slots=True)
class StagedInputs:
    """Inputs that one copy moves to the device."""

    inputs: Sequence[ConcatInput]
    source: Tensor
    """Pinned host memory that holds the inputs: uint8 `[num_bytes]`."""
    layout: BufferLayout
    """Where each input is in `source`."""


def stage(inputs: Sequence[ConcatInput], buffer_pool: BufferPool) -> list[StagedInputs]:
    """Return the copies to make: one, or one of a body and one of the small inputs beside it."""
    if (body := _find_in_pinned_memory(inputs, buffer_pool)) is not None:
        return [body]
    large = [part for part in inputs if part.nbytes >= SMALL_BYTES]
    small = [part for part in inputs if part.nbytes < SMALL_BYTES]
    if large and small and (body := _find_in_pinned_memory(large, buffer_pool)) is not None:
        return [body, _copy_to_pinned_memory(small, buffer_pool)]
    return [_copy_to_pinned_memory(inputs, buffer_pool)]


def pinned_bytes(num_bytes: int, buffer_pool: BufferPool) -> Tensor:
    """Return leased memory, uint8 `[num_bytes]`, pinned if possible. May take milliseconds."""
    memory = buffer_pool.lease_pinned(max(1, num_bytes))
    return torch.frombuffer(memory, dtype=torch.uint8)[:num_bytes]


def _find_in_pinned_memory(
    inputs: Sequence[ConcatInput], buffer_pool: BufferPool
) -> StagedInputs | None:
    """Return inputs that are in one pinned buffer already, as they are; None if they are not.

    None also if one copy of that memory would not do: an input has several parts, is not contiguous
    or not aligned, or the gaps between inputs are more than a fifth of the memory.
    """
    if any(len(part.parts) > 1 or not part.parts[0].is_contiguous() for part in inputs):
        return None
    addresses = [part.parts[0].data_ptr() for part in inputs]
    start = min(addresses)
    offsets = [address - start for address in addresses]
    layout = BufferLayout(inputs, offsets)
    has_gaps = 4 * layout.num_bytes > 5 * sum(part.nbytes for part in inputs)
    if has_gaps or any(offset % VECTOR_BYTES for offset in offsets):
        return None
    source = buffer_pool.pinned.find(start, layout.num_bytes)
    return None if source is None else StagedInputs(inputs, source, layout)


def _copy_to_pinned_memory(inputs: Sequence[ConcatInput], buffer_pool: BufferPool) -> StagedInputs:
    """Return inputs copied to one leased buffer."""
    layout = BufferLayout(inputs)
    source = pinned_bytes(layout.num_bytes, buffer_pool)
    for part, view in zip(inputs, layout.views(source), strict=True):
        part.copy_to(view)
    return StagedInputs(inputs, source, layout)
