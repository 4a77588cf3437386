"""Calls of one kind become one call, and its answer theirs; on which device is open."""

from collections.abc import Hashable, Sequence

from rope_core import Attend, Call, Rotate
from service.batching.packing.attention import Attentions, attention_key
from service.batching.packing.device_batch import ConcatInput, DeviceBatch, SingleCall
from service.batching.packing.rotation import Rotations, rotation_key

__all__ = ["ConcatInput", "DeviceBatch", "SingleCall", "pack", "pack_key"]


def pack_key(call: Call) -> Hashable | None:
    """Return what calls of one pack have in common, None for a call that is in none.

    It depends on the call alone, and lengths have no part in it.
    """
    match call:
        case Rotate():
            return rotation_key(call)
        case Attend():
            return attention_key(call)
    return None


def pack(calls: Sequence[Call]) -> DeviceBatch:
    """Return calls of one key as one."""
    rotations = [call for call in calls if isinstance(call, Rotate)]
    if rotations:
        return Rotations(rotations)
    return Attentions([call for call in calls if isinstance(call, Attend)])
