"""A stand-in for Triton's CUDA driver: compile kernels for a GPU that this machine does not have.

    triton.runtime.driver.set_active(OfflineDriver(90))

Kernels then compile for compute capability 9.0, as they would on such a GPU: the keys of Triton's
cache are those of a real run. A launch does nothing.
"""

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
        self.utils = _Utils(MAX_SHARED_MEM[capability])
        self.launcher_cls = _Launcher

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


class _Utils:
    """Device properties, and a module loader that loads nothing."""

    def __init__(self, max_shared_mem: int) -> None:
        self._max_shared_mem = max_shared_mem

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self._max_shared_mem}

    def load_binary(
        self, name: str, binary: bytes, shared: int, device: int
    ) -> tuple[int, int, int, int, int]:
        """Return module, function, registers, spills and threads of a block: placeholders."""
        return 0, 0, 0, 0, 1024


class _Launcher:
    """A launch function that does nothing."""

    def __init__(self, source: object, metadata: object) -> None:
        pass

    def __call__(self, *args: object) -> None:
        pass
