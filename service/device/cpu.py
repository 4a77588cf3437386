"""The CPU: calls are computed where their tensors are."""

import resource
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from rope_core import Call, Result, Rotate
from service.batching.packing import DeviceBatch
from service.batching.run import Run
from service.buffer_pool import BufferPool
from service.device import cgroup
from service.device.interface import DeviceCapabilities

T = TypeVar("T")

_PAGE_BYTES = resource.getpagesize()

SCRATCH_BYTES = 2**20
"""Half of the cache of a core, or less."""


class Cpu:
    """Computes on the CPU.

    Args:
        buffer_pool: holds large results.
    """

    name = "cpu"

    def __init__(self, buffer_pool: BufferPool) -> None:
        self.empty = buffer_pool.tensor
        self.memory_limit_bytes = cgroup.memory_bytes()
        self.scratch: Tensor | None = torch.empty(SCRATCH_BYTES, dtype=torch.uint8)
        self.capabilities = DeviceCapabilities(
            max_inflight=1,
            bytes_per_s=4e9,
            flops_per_s=3e10 * torch.get_num_threads(),
            builds_kernels=False,
            may_hang=False,
            inline_limit_s=2e-3,  # below it, a hand-off to a thread is a large part of the time
            batch_mixed_ops=False,
            packable_ops=(Rotate,),
            packed_bytes=2**18,
            batch_bytes=2**20,
            warm_up_shapes=((2, 1, 16),),  # any shape: it loads libraries, and builds no kernels
        )

    def run(self, batches: Sequence[DeviceBatch], compute: Callable[[Call], Result]) -> Run[Result]:
        """Return the results of all calls in the batches."""
        results: list[Result] = []
        copy_s = compute_s = 0.0
        for batch in batches:
            started = time.perf_counter()
            call = batch.on_host
            packed = time.perf_counter()
            result = compute(call)
            computed = time.perf_counter()
            results += batch.split(result)
            copy_s += packed - started + time.perf_counter() - computed
            compute_s += computed - packed
        return Run(results, copy_s, compute_s)

    def guard(self, work: Callable[[], T]) -> T:
        """Return the result of other work."""
        return work()

    def memory_bytes(self) -> int:
        """Return the resident memory of the process."""
        with open("/proc/self/statm", "rb", buffering=0) as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
