"""Where kernels run, and the properties of a GPU that decide their tiles."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from triton import knobs
from triton.runtime import driver

INTERPRETED: bool = knobs.runtime.interpret
"""Whether kernels run on the CPU in Triton's interpreter (TRITON_INTERPRET=1)."""


def device_type() -> str:
    """Return the device type that kernel arguments must have.

    "cpu" for the interpreter and for the offline driver; "cuda" otherwise, with or without a GPU.
    """
    if INTERPRETED:
        return "cpu"
    try:
        return str(driver.active.get_active_torch_device().type)
    except RuntimeError:  # no driver finds its device
        return "cuda"


@dataclass(frozen=True, slots=True)
class DeviceProperties:
    """Architecture and shared memory of a GPU."""

    arch: int  # ten times the compute capability: 80, 86, 89, 90, 100, 120
    max_shared_mem: int  # bytes of a block


H100 = DeviceProperties(90, 232_448)
"""Also used in the interpreter, which then runs with the tiles of a Hopper GPU."""


def device_properties(device: torch.device) -> DeviceProperties:
    """Return the properties of a device; the driver is queried once for each device."""
    if INTERPRETED:
        return H100
    active = driver.active
    return _query(active, active.get_current_device() if device.index is None else device.index)


@lru_cache
def _query(active: Any, index: int) -> DeviceProperties:
    max_shared_mem = active.utils.get_device_properties(index)["max_shared_mem"]
    return DeviceProperties(active.get_current_target().arch, max_shared_mem)
