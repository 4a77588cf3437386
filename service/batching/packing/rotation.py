"""Packing of rotations: tokens are concatenated along the sequence axis."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from rope_core import Result, Rotate, Rotated, ragged
from rope_core.calls import with_fields
from service.batching.packing.device_batch import ConcatInput, PackedCalls

SEQUENCE_AXIS = -3
"""The axis of S in `[B, S, H, D]` and of T in `[T, H, D]`."""


def rotation_key(call: Rotate) -> Hashable | None:
    """Return all that decides a rotation but the number of tokens; None: it is never packed."""
    if call.frequencies is not None:
        return None
    q, k, positions = call.q, call.k, call.positions
    # of q and k `[..., S, H, D]` all but S and D, as the rope has D
    of_q = None if q is None else (q.dtype, q.shape[:-3], q.shape[-2])
    of_k = None if k is None else (k.dtype, k.shape[:-3], k.shape[-2])
    is_fractional = positions is not None and positions.is_floating_point()
    has_axes = call.rope.num_axes > 1
    leading = positions.shape[:-1] if positions is not None and has_axes else None
    return call.rope, call.inverse, of_q, of_k, is_fractional, leading


def pack_rotations(calls: Sequence[Rotate]) -> PackedCalls:
    """Return rotations with equal keys as one.

    q, k: `[B, S, H, D]` or `[T, H, D]`, where S or T is the sum over the calls.
    positions: `[S]` or `[B, S]`; `[A, S]` or `[A, B, S]` where positions have A axes.
    """
    first = calls[0]
    positions = [_positions(call) for call in calls]
    if first.rope.num_axes == 1 and any(part.ndim == 2 for part in positions):
        positions = [part.expand(len(first.q_or_k), -1) for part in positions]
    inputs = {"positions": ConcatInput(positions, -1)}
    if first.q is not None:
        inputs["q"] = ConcatInput([call.q for call in calls if call.q is not None], SEQUENCE_AXIS)
    if first.k is not None:
        inputs["k"] = ConcatInput([call.k for call in calls if call.k is not None], SEQUENCE_AXIS)
    lengths = [call.q_or_k.shape[SEQUENCE_AXIS] for call in calls]

    def split(result: Result) -> list[Result]:
        assert isinstance(result, Rotated), "the result of a rotation"
        nothing = [None] * len(lengths)
        qs = nothing if result.q is None else torch.split(result.q, lengths, SEQUENCE_AXIS)
        ks = nothing if result.k is None else torch.split(result.k, lengths, SEQUENCE_AXIS)
        return [Rotated(q, k, result.backend) for q, k in zip(qs, ks, strict=True)]

    return PackedCalls(with_fields(first, {"cu_seqlens": None}), inputs, len(calls), split)


def _positions(call: Rotate) -> Tensor:
    """Return the call's positions; int64 `[S]` that count from 0 if the call has none."""
    if call.positions is not None:
        return call.positions
    return ragged.sequence_positions(
        call.q_or_k.shape[SEQUENCE_AXIS], call.cu_seqlens, call.q_or_k.device
    )
