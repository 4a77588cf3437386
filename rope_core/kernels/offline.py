"""A stand-in for Triton's CUDA driver: compile kernels for a GPU that this machine does not have.

    triton.runtime.driver.set_active(OfflineDriver(90))

Kernels then compile for compute capability 9.0, as they would on such a GPU: the keys of Triton's
cache are those of a real run. A launch does nothing.
"""

from types import SimpleNamespace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget

MAX_SHARED_MEM = {
    80: 166_912,
    86: 101_376,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    120: 101_376,
}
"""Bytes of shared memory that one block may have, by compute capability (90 is 9.0)."""


class OfflineDriver:
    """What Triton asks of its driver, answered for one compute capability without a GPU.

    Args:
        capability: ten times the compute capability, a key of MAX_SHARED_MEM.
    """

    def __init__(self, capability: int) -> None:
        self.capability = capability
        properties = {"max_shared_mem": MAX_SHARED_MEM[capability]}
        # a module: its handle, the function's handle, registers, spills, threads of a block
        module = 0, 0, 0, 0, 1024
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: properties,
            load_binary=lambda name, binary, shared, device: module,
        )
        self.launcher_cls = lambda source, metadata: lambda *args: None

    def get_current_target(self) -> Any:
        """Return the target that kernels are compiled for."""
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """Return the index of the only device."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return the default stream."""
        return 0

    def get_active_torch_device(self) -> torch.device:
        """Return where tensors of calls are: on the CPU."""
        return torch.device("cpu")
