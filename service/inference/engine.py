"""Estimate what calls cost, and run them on a device."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Protocol

import rope_core
from rope_core import Attend, Call, CosSin, Merge, Result, Rotate, Rotated, Shift, attention, rotary
from rope_core.inference import inference
from service.batching.call_queue import Batchable
from service.batching.packing import PACK_KEYS, PACKERS, DeviceBatch, SingleCall
from service.batching.run import Run
from service.device import Device
from service.errors import DeviceFull, TooLarge
from service.inference.attention_cost import attention_flops
from service.inference.scratch import SCRATCH_BYTES

SECONDS_PER_SEQUENCE = 50e-6
"""Fixed time of each sequence of a call."""

LONG_CALL_S = 1.0
"""A call of more estimated time is not begun if its client does not wait so long."""


class Runner(Protocol):
    """Runs batches of calls of one kind, instead of the engine."""

    @property
    def batch_key(self) -> Hashable:
        """The kind. All calls of a batch have this key, and the runner of one of them runs all."""

    def __call__(self, jobs: Sequence[Any]) -> Run[Any]:
        """Return the results of all jobs, in order."""


class RunnableJob(Batchable, Protocol):
    """A call, as the engine needs it."""

    @property
    def call(self) -> Call:
        """The call. Raises RopeError if it has numbers that do not fit."""

    @property
    def operation(self) -> type[Call]:
        """The type of the call."""

    @property
    def pack_key(self) -> Hashable | None:
        """Calls of one run with equal keys are packed into one call; None: never packed."""

    @property
    def backend(self) -> str | None:
        """Name of the backend that runs the call; the library chooses where None."""

    @property
    def runner(self) -> Runner | None:
        """Runs the calls of this batch key; None: the engine runs them."""


@dataclass(frozen=True, slots=True)
class Job:
    """A call with its costs, as the batcher and the engine need them."""

    call: Call
    batch_key: Hashable
    pack_key: Hashable | None
    """Calls of one run with equal keys are packed into one call; None: never packed."""

    num_tokens: int
    num_bytes: int
    answer_bytes: int
    """Upper bound of the bytes of the answer's tensors."""
    scratch_bytes: int
    """Estimated temporary memory of the computation on the host."""
    seconds: float
    """Estimated time of the call when it runs alone."""
    backend: str | None
    """Name of the backend that runs the call; the library chooses where None."""
    kind: Hashable
    """Calls of one kind have estimates with about the same relative error."""
    runner: ClassVar[None] = None

    @property
    def operation(self) -> type[Call]:
        """The type of the call."""
        return type(self.call)


@dataclass(frozen=True, slots=True)
class Engine:
    """Runs calls on a device."""

    device: Device
    max_call_s: float
    """Largest estimated time of one call."""

    def job(self, call: Call, backend: str | None = None, timeout_s: float = math.inf) -> Job:
        """Return `call` with its costs.

        Args:
            call: the call.
            backend: name of the backend that must run it; the library chooses where None.
            timeout_s: how long the client waits. It limits long calls only, as estimates are rough
                and a short call that is late holds up the others for a moment only.

        Raises:
            TooLarge: the call is estimated to take longer than `max_call_s`, or `timeout_s`.
        """
        capabilities = self.device.capabilities
        on_host = self.device.scratch is not None  # computes in memory of the host
        num_bytes = answer_bytes = call.num_bytes
        seconds = num_bytes / capabilities.bytes_per_s
        if isinstance(call, Attend):
            rows = call.q.numel() // call.q.shape[-1]
            answer_bytes = rows * call.v.shape[-1] * (call.out_dtype or call.q.dtype).itemsize
            answer_bytes += rows * 4 * call.return_lse
            seconds += attention_flops(call, on_host, backend) / capabilities.flops_per_s
            seconds += call.num_sequences * SECONDS_PER_SEQUENCE
        elif isinstance(call, Merge):
            answer_bytes //= len(call.out)
        max_s = min(self.max_call_s, max(timeout_s, LONG_CALL_S))
        if seconds > max_s:
            what = "the estimated time of a call, in seconds,"
            remedy = "split the call, or raise ROPE_MAX_CALL_S"
            if max_s < self.max_call_s:
                remedy = "split the call, or give the request a longer timeout"
            raise TooLarge(what, round(max_s, 1), f"{seconds:,.1f}", remedy)
        small = num_bytes <= capabilities.packed_bytes
        may_pack = small and isinstance(call, capabilities.packable_ops)
        packs = PACK_KEYS[type(call)](call) if may_pack else None
        batch: Hashable
        if capabilities.batch_mixed_ops:
            batch = "small" if small else object()
        elif isinstance(call, Rotate):
            batch = object() if packs is None else packs
        else:
            batch = type(call).__name__
        key = batch, backend
        num_tokens, scratch_bytes = call.num_tokens, 0
        if on_host:
            scratch_bytes = SCRATCH_BYTES[type(call)](call, num_tokens, backend)
        kind = type(call), math.frexp(seconds)[1] // 2  # the operation, and the time by powers of 4
        return Job(
            call,
            key,
            packs,
            num_tokens,
            num_bytes,
            answer_bytes,
            scratch_bytes,
            seconds,
            backend,
            kind,
        )

    def run(self, jobs: Sequence[RunnableJob]) -> Run[Any]:
        """Run jobs of one batch key together.

        The result is KernelNotBuilt for a job that names a backend whose kernel is not built yet.

        Raises:
            DeviceFull, DeviceLost: the device cannot run them.
        """
        runner = jobs[0].runner
        try:
            return self._run_on_device(jobs) if runner is None else runner(jobs)
        except (MemoryError, RuntimeError) as failure:
            if means_no_memory(failure):
                raise DeviceFull from None
            raise

    @inference
    def _run_on_device(self, jobs: Sequence[RunnableJob]) -> Run[Any]:
        compute = partial(self._compute, backend=jobs[0].backend)
        if len(jobs) == 1 and not self.device.capabilities.batch_mixed_ops:
            return self.device.run([SingleCall(jobs[0].call)], compute)
        # On a device whose kernels depend on the form of a call, a packable call is packed even
        # when it is alone, so that its answer does not depend on its neighbours.
        groups: dict[Hashable, list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(index if job.pack_key is None else job.pack_key, []).append(index)
        batches: list[DeviceBatch] = []
        for indices in groups.values():
            calls = [jobs[index].call for index in indices]
            if jobs[indices[0]].pack_key is None:
                batches.append(SingleCall(calls[0]))
            else:
                batches.append(PACKERS[type(calls[0])](calls))
        run = self.device.run(batches, compute)
        if len(groups) == 1 or len(groups) == len(jobs):
            return run
        by_index = dict(zip(chain.from_iterable(groups.values()), run.results, strict=True))
        return replace(run, results=[by_index[index] for index in range(len(jobs))])

    def _compute(self, call: Call, backend: str | None) -> Result:
        empty = self.device.empty
        match call:
            case Rotate(q, k):
                out = Rotated(
                    None if q is None else empty(q.shape, q.dtype),
                    None if k is None else empty(k.shape, k.dtype),
                )
                return rotary.run_rotate(call, out, backend)
            case Attend():
                return attention.run_attend(call, backend)
            case Shift(k):
                return rope_core.shift(call, Rotated(None, empty(k.shape, k.dtype)), backend)
            case CosSin():
                return rope_core.cos_sin(call)
            case Merge():
                return rope_core.merge(call, backend)


def means_no_memory(failure: Exception) -> bool:
    """Return whether a failure means that host memory is exhausted."""
    return isinstance(failure, MemoryError) or "DefaultCPUAllocator" in str(failure)
