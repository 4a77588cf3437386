"""Packing: calls with equal pack keys become one call, and its result is split again.

Devices read `ConcatInput`s, so that each concatenates where it copies the tensors anyway.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from rope_core import Attend, Call, Rotate
from service.batching.packing.attention import attention_key, pack_attention
from service.batching.packing.device_batch import (
    ConcatInput,
    DeviceBatch,
    PackedCalls,
    SingleCall,
)
from service.batching.packing.rotation import pack_rotations, rotation_key

__all__ = ["PACKERS", "PACK_KEYS", "ConcatInput", "DeviceBatch", "SingleCall"]


PACK_KEYS: Mapping[type[Call], Callable[[Any], Hashable | None]] = {
    Rotate: rotation_key,
    Attend: attention_key,
}
"""By type of call: returns a key that is equal for calls that may be packed together; None: never.

The key depends on the call alone and not on its lengths.
"""

PACKERS: Mapping[type[Call], Callable[[Any], PackedCalls]] = {
    Rotate: pack_rotations,
    Attend: pack_attention,
}
"""By type of call: returns a sequence of calls with equal pack keys as one."""
