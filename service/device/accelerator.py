"""A device with its own memory. Handles full memory, failures and missing kernels."""

import logging
import traceback
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from rope_core import Attend, Call, Result, Rotate
from rope_core.builds import Build, deferred_builds
from rope_core.errors import KernelNotBuilt
from service.batching.packing import DeviceBatch
from service.batching.run import Run
from service.buffer_pool import BufferPool
from service.device.interface import DeviceCapabilities, Driver
from service.device.pipeline import CopyPipeline
from service.device.rwlock import SharedExclusiveLock
from service.errors import DeviceFull, DeviceLost
from service.kernel_builds.builder import KernelBuilder
from service.memory_blocks import MIN_BUFFER_BYTES

log = logging.getLogger("rope.device")

BYTES_PER_S = 1.25e10
"""Input bytes per second of a call that is copied to the device and back.

PCI Express with 16 lanes carries 3.2e10 bytes a second each way in version 4 and 6.3e10 in version
5; copies from pinned memory reach about 2.5e10 and 5e10. A result is about as large as its inputs
and is copied after them, so this is half of the slower figure.
"""

T = TypeVar("T")

CAPABILITIES = DeviceCapabilities(
    max_inflight=2,
    bytes_per_s=BYTES_PER_S,
    flops_per_s=1e14,
    builds_kernels=True,
    may_hang=True,
    inline_limit_s=0.0,
    batch_mixed_ops=True,
    packable_ops=(Rotate, Attend),
    packed_bytes=MIN_BUFFER_BYTES,  # larger bodies are in pooled buffers, and need no staging
    batch_bytes=2**26,
    warm_up_shapes=((32, 8, 128),),  # of Llama 3 8B, Mistral 7B, Qwen3 8B
)


class Accelerator:
    """A device behind a driver.

    Args:
        driver: primitive operations of the device.
        buffer_pool: pinned memory for inputs and results.
        builder: builds kernels that calls miss.
    """

    capabilities = CAPABILITIES

    def __init__(self, driver: Driver, buffer_pool: BufferPool, builder: KernelBuilder) -> None:
        self.name = str(driver.device)
        self.memory_limit_bytes = driver.total_memory_bytes
        self.scratch: Tensor | None = None
        self._driver = driver
        self._pipeline = CopyPipeline(driver, buffer_pool)
        self._builder = builder
        self._memory_lock = SharedExclusiveLock()
        self._is_lost = False

    def run(
        self, batches: Sequence[DeviceBatch], compute: Callable[[Call], Result]
    ) -> Run[Result | KernelNotBuilt]:
        """Return the results of all calls; if memory runs out, run again without other runs."""
        return self.guard(partial(self._pipeline.run, batches, compute))

    def guard(self, work: Callable[[], T]) -> T:
        """Return the result of work; if memory runs out, do it again without other runs."""
        with self._memory_lock.shared():
            outcome = self._try(work)
        if isinstance(outcome, DeviceFull):
            with self._memory_lock.exclusive():
                outcome = self._try(work)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return an uninitialised tensor on the device."""
        return torch.empty(shape, dtype=dtype, device=self._driver.device)

    def memory_bytes(self) -> int:
        """Return the bytes of all tensors on the device."""
        return self._driver.memory_bytes()

    def _try(self, work: Callable[[], T]) -> T | Exception:
        """Do work once. Returns failures, as frames of a raised exception keep tensors alive."""
        if self._is_lost:
            return DeviceLost()
        try:
            with deferred_builds(self._start_build):
                return work()
        except Exception as caught:
            failure = caught
        try:
            self._driver.synchronize()  # enqueued work may use tensors of the failure's frames
            _clear_traceback_frames(failure)
            if not self._driver.is_full(failure):
                return failure
            self._driver.empty_cache()
        except Exception:
            self._is_lost = True
            log.exception("the device is lost", extra={"fields": {"after": repr(failure)}})
            return DeviceLost()
        return DeviceFull()

    def _start_build(self, key: Hashable, build: Build) -> None:
        self._builder.start(key, partial(self._build, build))

    def _build(self, build: Build) -> None:
        """Build and load a kernel. Its memory is not torch's, whose cache may hold all there is."""
        try:
            build()
        except Exception as failure:
            if not self._driver.is_full(failure):
                raise
            self._driver.empty_cache()
            build()


def _clear_traceback_frames(failure: BaseException | None) -> None:
    """Clear the frames that an exception came through: they keep tensors alive."""
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__context__
