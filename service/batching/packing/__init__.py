"""Packing: calls with equal pack keys become one call, and its result is split again.

Devices read `ConcatInput`s, so that each concatenates where it copies the tensors anyway.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, cast

from rope_core import Attend, Call, Rotate
from service.batching.packing.attention import attention_key, pack_attention
from service.batching.packing.device_batch import (
    ConcatInput,
    DeviceBatch,
    PackedCalls,
    SingleCall,
)
from service.batching.packing.rotation import pack_rotations, rotation_key

__all__ = ["PACK_KEYS", "ConcatInput", "DeviceBatch", "SingleCall", "pack"]


PACK_KEYS: Mapping[type[Call], Callable[[Any], Hashable | None]] = {
    Rotate: rotation_key,
    Attend: attention_key,
}
"""By type of call: returns a key that is equal for calls that may be packed together; None: never.

The key depends on the call alone and not on its lengths.
"""


def pack(calls: Sequence[Call]) -> PackedCalls:
    """Return calls with equal pack keys as one."""
    if isinstance(calls[0], Rotate):
        return pack_rotations(cast(Sequence[Rotate], calls))
    return pack_attention(cast(Sequence[Attend], calls))
