"""Rotations as one: tokens are laid end to end along the axis of sequence."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from rope_core import Result, Rotate, Rotated, ragged
from rope_core.calls import moved
from service.batching.packing.device_batch import ConcatInput, Pack

SEQUENCE = -3
"""The axis of sequence in `[B, S, H, D]` and `[T, H, D]`."""


def rotation_key(call: Rotate) -> Hashable | None:
    """Return what rotations of one pack have in common: all but the number of tokens."""
    if call.frequencies is not None:
        return None
    q = None if call.q is None else _without_tokens(call.q)
    k = None if call.k is None else _without_tokens(call.k)
    positions, several = call.positions, call.rope.num_axes > 1
    fractional = positions is not None and positions.is_floating_point()
    rows = positions.shape[:-1] if several and positions is not None else None
    return call.rope, call.inverse, q, k, fractional, rows


class Rotations(Pack):
    """Rotations of one key."""

    def __init__(self, calls: Sequence[Rotate]) -> None:
        first = calls[0]
        at = [_positions(call) for call in calls]
        if first.rope.num_axes == 1 and any(each.ndim == 2 for each in at):
            at = [each.expand(len(first.like), -1) for each in at]
        inputs = {"positions": ConcatInput(at, -1)}
        if first.q is not None:
            inputs["q"] = ConcatInput([call.q for call in calls if call.q is not None], SEQUENCE)
        if first.k is not None:
            inputs["k"] = ConcatInput([call.k for call in calls if call.k is not None], SEQUENCE)
        super().__init__(moved(first, {"cu_seqlens": None}), inputs, len(calls))
        self._lengths = [call.like.shape[SEQUENCE] for call in calls]

    def split(self, result: Result) -> list[Result]:
        """Return each call's part of the answer, as views."""
        assert isinstance(result, Rotated), "it is the answer to a rotation"
        lengths = self._lengths
        nothing = [None] * len(lengths)
        qs = nothing if result.q is None else torch.split(result.q, lengths, SEQUENCE)
        ks = nothing if result.k is None else torch.split(result.k, lengths, SEQUENCE)
        return [Rotated(q, k, result.backend) for q, k in zip(qs, ks, strict=True)]


def _without_tokens(x: Tensor) -> Hashable:
    return x.dtype, x.shape[:-3], x.shape[-2]


def _positions(call: Rotate) -> Tensor:
    if call.positions is not None:
        return call.positions
    return ragged.count_up(call.like.shape[SEQUENCE], call.cu_seqlens, call.like.device)
