"""A run through three streams: copy inputs to the device, compute, copy results to the host.

While one run computes, the inputs of the next and the results of the last one are copied. `run`
refers to all its buffers until it has ended, so that no stream uses memory given to another run.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rope_core import Call, Result
from rope_core.calls import tensor_fields, with_fields
from rope_core.errors import KernelNotBuilt
from service.batching.packing import DeviceBatch
from service.batching.run import Run
from service.buffer_pool import BufferPool
from service.device.buffer_layout import BufferLayout
from service.device.interface import Driver
from service.device.staging import StagedInputs, pinned_bytes, stage
from service.memory_blocks import MIN_BUFFER_BYTES


@dataclass(frozen=True, slots=True)
class _TimedStage:
    """A stretch of work in a stream."""

    start: torch.Event
    end: torch.Event

    @property
    def seconds(self) -> float:
        """Duration, once the stream has reached the end."""
        return self.start.elapsed_time(self.end) / 1e3


class CopyPipeline:
    """Runs calls on a device with its own memory. Thread-safe.

    Args:
        driver: primitive operations of the device.
        buffer_pool: pinned memory for inputs and results.
    """

    def __init__(self, driver: Driver, buffer_pool: BufferPool) -> None:
        self._driver = driver
        self._buffer_pool = buffer_pool
        self._to_device, self._computing, self._to_host = (driver.stream() for _ in range(3))
        self._launch_lock = threading.Lock()

    def run(
        self, batches: Sequence[DeviceBatch], compute: Callable[[Call], Result]
    ) -> Run[Result | KernelNotBuilt]:
        """Return the results of all calls in the batches, with tensors on the host."""
        started = time.perf_counter()
        batch_inputs = [batch.inputs for batch in batches]
        distinct = {id(part): part for inputs in batch_inputs for part in inputs.values()}
        staged = stage([*distinct.values()], self._buffer_pool)
        staged_s = time.perf_counter() - started
        with self._timed_stage(self._to_device) as copy_in:
            tensors = self._copy_to_device(staged)
        with self._launch_lock:  # computing and copies out happen run after run
            with self._timed_stage(self._computing, after=copy_in.end) as computing:
                calls = [
                    batch.with_tensors({name: tensors[id(part)] for name, part in inputs.items()})
                    for batch, inputs in zip(batches, batch_inputs, strict=True)
                ]
                results = [_compute_if_built(call, compute) for call in calls]
                gathered, layout = self._gather(results)
            on_host = pinned_bytes(gathered.numel(), self._buffer_pool)
            with self._timed_stage(self._to_host, after=computing.end) as copy_out:
                self._driver.copy(on_host, gathered)
        copy_out.end.synchronize()
        copied = time.perf_counter()
        split = _split(batches, results, layout.views(on_host))
        split_s = time.perf_counter() - copied
        copy_s = staged_s + copy_in.seconds + copy_out.seconds + split_s
        return Run(split, copy_s, computing.seconds)

    def _copy_to_device(self, staged: Sequence[StagedInputs]) -> dict[int, Tensor]:
        """Return the inputs on the device by the `id` of each ConcatInput."""
        tensors: dict[int, Tensor] = {}
        for copy in staged:
            buffer = self._driver.empty(copy.source.numel())
            self._driver.copy(buffer, copy.source)
            tensors |= zip(map(id, copy.inputs), copy.layout.views(buffer), strict=True)
        return tensors

    def _gather(self, results: Sequence[Result | KernelNotBuilt]) -> tuple[Tensor, BufferLayout]:
        """Return the results' tensors in one buffer of the device, uint8 `[num_bytes]`.

        A single tensor is not copied: its own memory is the buffer.
        """
        built = [result for result in results if not isinstance(result, KernelNotBuilt)]
        tensors = [tensor for result in built for tensor in tensor_fields(result).values()]
        layout = BufferLayout(tensors)
        if len(tensors) == 1 and tensors[0].is_contiguous():
            return tensors[0].view(-1).view(torch.uint8), layout
        buffer = self._driver.empty(layout.num_bytes)
        for tensor, view in zip(tensors, layout.views(buffer), strict=True):
            view.copy_(tensor)
        return buffer, layout

    @contextmanager
    def _timed_stage(
        self, stream: torch.Stream, after: torch.Event | None = None
    ) -> Iterator[_TimedStage]:
        """Enqueue the block's work in a stream, behind an event of another stream, and time it."""
        with self._driver.on(stream):
            if after is not None:
                stream.wait_event(after)
            stage = _TimedStage(self._driver.event(), self._driver.event())
            stage.start.record(stream)
            yield stage
            stage.end.record(stream)


def _compute_if_built(call: Call, compute: Callable[[Call], Result]) -> Result | KernelNotBuilt:
    """Return the result of a call, or KernelNotBuilt, which must not fail the rest of the run."""
    try:
        return compute(call)
    except KernelNotBuilt:
        return KernelNotBuilt()  # a new one: the frames of the raised one hold tensors


def _split(
    batches: Sequence[DeviceBatch],
    results: Sequence[Result | KernelNotBuilt],
    views: Sequence[Tensor],
) -> list[Result | KernelNotBuilt]:
    """Return the result of each call; `views` are the tensors of all results on the host."""
    remaining = iter(views)
    split: list[Result | KernelNotBuilt] = []
    for batch, result in zip(batches, results, strict=True):
        if isinstance(result, KernelNotBuilt):
            split += [result] * batch.num_calls
        else:
            on_host = with_fields(result, {name: next(remaining) for name in tensor_fields(result)})
            split += map(_detach_small, batch.split(on_host))
    return split


def _detach_small(result: Result) -> Result:
    """Copy a small result: until its client has read it, it would hold the run's whole buffer."""
    tensors = tensor_fields(result)
    if sum(tensor.nbytes for tensor in tensors.values()) >= MIN_BUFFER_BYTES:
        return result
    return with_fields(result, {name: tensor.clone() for name, tensor in tensors.items()})
