"""A device with memory of its own: one copy in and one out for each run, beside the computing.

Three streams: what the next run needs is copied in, and what the last one gave is copied out, while
this one computes. Every buffer lives until its run has ended, whichever way, so that no stream
finds memory that another thread has been given.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rope_core import Attend, Call, Result, Rotate
from rope_core.builds import Build, deferred_builds
from rope_core.calls import tensor_fields, with_fields
from rope_core.errors import KernelNotBuilt
from service.batching.batcher import Run
from service.batching.packing import DeviceBatch
from service.buffer_pool import SMALLEST_BYTES, BufferPool
from service.device.buffer_layout import BufferLayout
from service.device.interface import DeviceCapabilities, Driver, Event, Stream
from service.device.rwlock import SharedExclusiveLock
from service.device.staging import pinned_bytes, stage
from service.errors import DeviceFull, DeviceLost
from service.kernel_builds.builder import KernelBuilder

log = logging.getLogger("rope.device")

BYTES_PER_S = 1.25e10
"""Input bytes per second of a call that is copied to the device and answered.

PCI Express at 16 lanes carries 3.2e10 bytes a second each way in version 4 and 6.3e10 in version 5;
copies from pinned memory reach about 2.5e10 and 5e10. An answer is about as large as its inputs and
is copied after them, so this is half of the slower figure.
"""

TRAITS = DeviceCapabilities(
    max_inflight=2,
    bytes_per_s=BYTES_PER_S,
    flops_per_s=1e14,
    builds_kernels=True,
    may_hang=True,
    inline_limit_s=0.0,
    batch_mixed_ops=True,
    packable_ops=(Rotate, Attend),
    packed_bytes=SMALLEST_BYTES,  # larger bodies lie in slabs, and are not copied to be staged
    batch_bytes=2**26,
    warm_up_shapes=((32, 8, 128),),  # of Llama 3 8B, Mistral 7B, Qwen3 8B
)


class Accelerator:
    """A device behind a driver.

    Args:
        driver: what to do it with.
        buffer_pool: pinned memory, pooled: runs are staged in it, and answers land in it.
        builder: builds the kernels that calls miss.
    """

    capabilities = TRAITS

    def __init__(self, driver: Driver, buffer_pool: BufferPool, builder: KernelBuilder) -> None:
        self.name = str(driver.device)
        self._driver = driver
        self._buffer_pool = buffer_pool
        self._builder = builder
        self._bringing, self._computing, self._fetching = (driver.stream() for _ in range(3))
        self._launch = threading.Lock()
        self._turns = SharedExclusiveLock()
        self._lost = False

    def run(
        self, loads: Sequence[DeviceBatch], compute: Callable[[Call], Result]
    ) -> Run[Result | KernelNotBuilt]:
        """Bring, compute, fetch; where memory does not suffice, once more with nobody else."""
        with self._turns.together():
            outcome = self._attempt(loads, compute)
        if isinstance(outcome, DeviceFull):
            with self._turns.alone():
                outcome = self._attempt(loads, compute)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor on the device."""
        return torch.empty(tuple(shape), dtype=dtype, device=self._driver.device)

    def memory_bytes(self) -> int:
        """Return the bytes of all tensors on the device."""
        return self._driver.memory_bytes()

    def _attempt(
        self, loads: Sequence[DeviceBatch], compute: Callable[[Call], Result]
    ) -> Run[Result | KernelNotBuilt] | Exception:
        """Run once. A failure is returned: only then are the tensors of its frames let go."""
        if self._lost:
            return DeviceLost()
        try:
            return self._go(loads, compute)
        except Exception as caught:
            failure = caught
        try:
            self._driver.synchronize()  # what was begun may use tensors of the failure's frames
            _clear_traceback_frames(failure)
            if not self._driver.is_full(failure):
                return failure
            self._driver.empty_cache()
        except Exception:
            self._lost = True
            log.exception("the device is lost", extra={"fields": {"after": repr(failure)}})
            return DeviceLost()
        return DeviceFull()

    def _go(
        self, loads: Sequence[DeviceBatch], compute: Callable[[Call], Result]
    ) -> Run[Result | KernelNotBuilt]:
        begun = time.perf_counter()
        inputs = [load.inputs for load in loads]
        joints = [*{id(joint): joint for each in inputs for joint in each.values()}.values()]
        staged = stage(joints, self._buffer_pool)
        staged_s = time.perf_counter() - begun
        at: dict[int, Tensor] = {}
        with self._timed_stage(self._bringing) as bring:
            for part in staged:
                brought = self._driver.empty(part.source.numel())
                self._driver.copy(brought, part.source)
                at |= zip(map(id, part.joints), part.places.views(brought), strict=True)
        with self._launch:  # one run's work after the other's, and what is fetched in that order
            with self._timed_stage(self._computing, after=bring.end) as work:
                calls = [
                    load.call({name: at[id(joint)] for name, joint in each.items()})
                    for load, each in zip(loads, inputs, strict=True)
                ]
                with deferred_builds(self._start_build):
                    answers = [_compute_if_built(call, compute) for call in calls]
                found = [_tensors_of(answer) for answer in answers]
                gathered, places = self._gather([t for each in found for t in each.values()])
            landing = pinned_bytes(gathered.numel(), self._buffer_pool)
            with self._timed_stage(self._fetching, after=work.end) as fetch:
                self._driver.copy(landing, gathered)
        fetch.end.synchronize()
        landed = time.perf_counter()
        views = iter(places.views(landing))
        results: list[Result | KernelNotBuilt] = []
        for load, answer, each in zip(loads, answers, found, strict=True):
            if isinstance(answer, KernelNotBuilt):
                results += [answer] * load.num_calls
            else:
                landed_answer = with_fields(answer, dict(zip(each, views, strict=False)))
                results += map(_detach_small, load.split(landed_answer))
        split_s = time.perf_counter() - landed
        return Run(results, staged_s + bring.seconds + fetch.seconds + split_s, work.seconds)

    def _start_build(self, key: Hashable, build: Build) -> None:
        self._builder.start(key, partial(self._build, build))

    def _build(self, build: Build) -> None:
        """Build a kernel. It is loaded beside torch's pool, which may hold all of the memory."""
        try:
            build()
        except Exception as failure:
            if not self._driver.is_full(failure):
                raise
            self._driver.empty_cache()
            build()

    def _gather(self, tensors: Sequence[Tensor]) -> tuple[Tensor, BufferLayout]:
        """Return bytes of the device that hold the tensors: a tensor's own where there is one."""
        places = BufferLayout(tensors)
        if len(tensors) == 1 and tensors[0].is_contiguous():
            return tensors[0].view(-1).view(torch.uint8), places
        gathered = self._driver.empty(places.num_bytes)
        for tensor, view in zip(tensors, places.views(gathered), strict=True):
            view.copy_(tensor)
        return gathered, places

    @contextmanager
    def _timed_stage(self, stream: Stream, after: Event | None = None) -> Iterator["_Stage"]:
        """Put what is asked for within the block into a stream, behind an event of another."""
        with self._driver.on(stream):
            if after is not None:
                stream.wait_event(after)
            leg = _Stage(self._driver.event(), self._driver.event())
            leg.start.record(stream)
            yield leg
            leg.end.record(stream)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stretch of a stream."""

    start: Event
    end: Event

    @property
    def seconds(self) -> float:
        """How long it took; it has been waited for."""
        return self.start.elapsed_time(self.end) / 1e3


def _compute_if_built(call: Call, compute: Callable[[Call], Result]) -> Result | KernelNotBuilt:
    """Return the answer to a call, or KernelNotBuilt, which must not fail the rest of the run."""
    try:
        return compute(call)
    except KernelNotBuilt:
        return KernelNotBuilt()  # a new one: the frames of the raised one hold tensors


def _tensors_of(answer: Result | KernelNotBuilt) -> dict[str, Tensor]:
    return {} if isinstance(answer, KernelNotBuilt) else tensor_fields(answer)


def _detach_small(result: Result) -> Result:
    """Return a small answer in memory of its own: its client may be slow, and hold the others'."""
    tensors = tensor_fields(result)
    if sum(tensor.nbytes for tensor in tensors.values()) >= SMALLEST_BYTES:
        return result
    return with_fields(result, {name: tensor.clone() for name, tensor in tensors.items()})


def _clear_traceback_frames(failure: BaseException | None) -> None:
    """Clear the frames that a failure came through: tensors live as long as they do."""
    while failure is not None:
        traceback.clear_frames(failure.__traceback__)
        failure = failure.__context__
