"""The CPU: nothing is moved."""

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rope_core import Call, Result, Rotate
from service.batching.batcher import Run
from service.batching.packing import DeviceBatch
from service.buffer_pool import BufferPool
from service.device.interface import DeviceCapabilities


class Cpu:
    """Computes on tensors where they lie.

    Args:
        buffer_pool: where large answers are put.
    """

    name = "cpu"

    def __init__(self, buffer_pool: BufferPool) -> None:
        self._buffer_pool = buffer_pool
        self.capabilities = DeviceCapabilities(
            max_inflight=1,
            bytes_per_s=4e9,
            flops_per_s=3e10 * torch.get_num_threads(),
            builds_kernels=False,
            may_hang=False,
            inline_limit_s=2e-3,  # a hand-off would cost them a good part
            batch_mixed_ops=False,
            packable_ops=(Rotate,),
            packed_bytes=2**18,
            batch_bytes=2**20,
            warm_up_shapes=((2, 1, 16),),  # nothing is built, and what is loaded has no shape
        )

    def run(self, loads: Sequence[DeviceBatch], compute: Callable[[Call], Result]) -> Run[Result]:
        """Compute."""
        begun = time.perf_counter()
        calls = [load.here() for load in loads]
        packed = time.perf_counter()
        answers = [compute(call) for call in calls]
        computed = time.perf_counter()
        results = [r for load, a in zip(loads, answers, strict=True) for r in load.split(a)]
        ended = time.perf_counter()
        return Run(results, packed - begun + ended - computed, computed - packed)

    def new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor in memory that has been used before."""
        return self._buffer_pool.tensor(tuple(shape), dtype)

    def memory_bytes(self) -> int:
        """Return the memory of the process."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
