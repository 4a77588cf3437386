"""Inputs of a run in pinned memory: in the request body that holds them, or copied together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.batching.packing import ConcatInput
from service.buffer_pool import BufferPool
from service.device.buffer_layout import BufferLayout, span

SMALL_BYTES = 2**16
"""Inputs smaller than this may be copied separately, beside a body that holds all larger ones."""


@dataclass(frozen=True, slots=True)
class Staged:
    """Inputs that are copied to the device in one copy."""

    joints: Sequence[ConcatInput]
    source: Tensor
    """Pinned bytes of the host that hold all of them."""
    places: BufferLayout
    """Where in `source` each of them is."""


def stage(joints: Sequence[ConcatInput], buffer_pool: BufferPool) -> list[Staged]:
    """Return the copies to make: one, or one of a body and one of the small inputs beside it."""
    if (body := _body(joints, buffer_pool)) is not None:
        return [body]
    large = [joint for joint in joints if joint.num_bytes >= SMALL_BYTES]
    if 0 < len(large) < len(joints) and (body := _body(large, buffer_pool)) is not None:
        return [body, _copied([j for j in joints if j.num_bytes < SMALL_BYTES], buffer_pool)]
    return [_copied(joints, buffer_pool)]


def pinned_bytes(num_bytes: int, buffer_pool: BufferPool) -> Tensor:
    """Return a leased uint8 tensor `[num_bytes]`, pinned if possible. May take milliseconds."""
    memory = buffer_pool.lease_pinned(max(1, num_bytes))
    return torch.frombuffer(memory, dtype=torch.uint8)[:num_bytes]


def _body(joints: Sequence[ConcatInput], buffer_pool: BufferPool) -> Staged | None:
    """Return the pinned memory that holds the inputs already; None if no single buffer does."""
    if (lie := span(joints)) is None:
        return None
    first, last, places = lie
    body = buffer_pool.pinned(first, last)
    return None if body is None else Staged(joints, body, places)


def _copied(joints: Sequence[ConcatInput], buffer_pool: BufferPool) -> Staged:
    """Copy inputs to pinned memory."""
    places = BufferLayout(joints)
    source = pinned_bytes(places.num_bytes, buffer_pool)
    for joint, view in zip(joints, places.views(source), strict=True):
        joint.write(view)
    return Staged(joints, source, places)
