"""What the choice of tiles needs to know about a GPU."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from triton.runtime import driver

from rope_core.kernels import INTERPRETED


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU: its architecture and shared memory."""

    arch: int  # ten times the compute capability: 80, 86, 89, 90, 100, 120
    shared_bytes: int  # of a block, at most


H100 = Card(90, 232_448)
"""Also used in the interpreter, which so runs with the tiles of a Hopper GPU."""


def card_of(device: torch.device) -> Card:
    """Return the card of a device. The driver is asked once for each device."""
    if INTERPRETED:
        return H100
    active = driver.active
    return _query(active, active.get_current_device() if device.index is None else device.index)


@lru_cache
def _query(active: Any, index: int) -> Card:
    shared_bytes = active.utils.get_device_properties(index)["max_shared_mem"]
    return Card(active.get_current_target().arch, shared_bytes)
