"""Calls with their costs, and their runs on a device."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from torch import Tensor

import rope_core
from rope_core import Attend, Call, CosSin, Merge, Result, Rotate, Rotated, Shift
from rope_core.errors import KernelNotBuilt
from rope_core.inference import inference
from service.batching.packing import DeviceBatch, SingleCall, pack, pack_key
from service.batching.run import Run
from service.device import Device
from service.errors import TooLarge

SEQUENCE_S = 50e-6
"""What each sequence of a call costs, however short."""

SCORE_FLOPS = 64
"""What each score costs beside the products, in operations: exponential, mask, soft-cap."""

WATCHDOG_FACTOR = 10
"""How many times its estimate a run may take: estimates are rough."""


@dataclass(frozen=True, slots=True)
class Job:
    """A call, and what the batcher and the engine have to know of it."""

    call: Call
    batch_key: Hashable
    pack_key: Hashable | None
    """Calls of a run that are equal in it become one."""

    num_tokens: int
    num_bytes: int
    answer_bytes: int
    seconds: float
    """Estimate of the time it takes on its own."""
    backend: str | None
    """Name of the one that shall do it; the library chooses where None."""


class Engine:
    """Runs calls on `device`.

    Args:
        device: where tensors are computed on.
        max_call_s: longest that one call may be estimated to take.
        max_answer_bytes: largest answer.
        stuck_s: longest that a run may take, if that is more than many times its estimate.
    """

    def __init__(
        self, device: Device, *, max_call_s: float, max_answer_bytes: int, stuck_s: float
    ) -> None:
        self.device = device
        self._max_call_s = max_call_s
        self._max_answer_bytes = max_answer_bytes
        self._stuck_s = stuck_s

    def job(self, call: Call, backend: str | None = None) -> Job:
        """Return `call` with its costs, to be done by `backend`.

        Raises:
            TooLarge: it would take too long, or its answer be too large.
        """
        capabilities = self.device.capabilities
        num_bytes = answer_bytes = call.num_bytes
        seconds = num_bytes / capabilities.bytes_per_s
        if isinstance(call, Attend):
            rows = call.q.numel() // call.q.shape[-1]
            answer_bytes = rows * call.v.shape[-1] * (call.out_dtype or call.q.dtype).itemsize
            answer_bytes += rows * 4 * call.return_lse
            seconds += _flops(call) / capabilities.flops_per_s + call.num_sequences * SEQUENCE_S
        elif isinstance(call, Merge):
            answer_bytes //= len(call.out)
        if answer_bytes > self._max_answer_bytes:
            raise TooLarge("an answer, in bytes,", self._max_answer_bytes, f"{answer_bytes:,}")
        if seconds > self._max_call_s:
            limit = self._max_call_s
            raise TooLarge("a call's estimated time, in seconds,", limit, f"{seconds:,.0f}")
        batch, shared = self._keys(call, num_bytes)
        key = batch, backend
        return Job(call, key, shared, call.num_tokens, num_bytes, answer_bytes, seconds, backend)

    def inline(self, jobs: Sequence[Job]) -> bool:
        """Tell whether `jobs` together are over before a thread would have begun."""
        return sum(job.seconds for job in jobs) < self.device.capabilities.inline_limit_s

    def watchdog_timeout_s(self, jobs: Sequence[Job]) -> float | None:
        """Return how long runs of `jobs`, one after the other, may take; None: as long as it is."""
        if not self.device.capabilities.may_hang:
            return None
        return max(self._stuck_s, WATCHDOG_FACTOR * sum(job.seconds for job in jobs))

    @inference
    def run(self, jobs: Sequence[Job]) -> Run[Result | KernelNotBuilt]:
        """Run jobs of one batch key as one.

        The result is KernelNotBuilt for a job that names a backend whose kernel is not built yet.

        Raises:
            DeviceFull, DeviceLost: it cannot.
        """
        groups = self._groups(jobs)
        loads = [self._load([jobs[index] for index in group]) for group in groups]
        run = self.device.run(loads, partial(self._compute, backend=jobs[0].backend))
        if len(groups) == 1 or len(groups) == len(jobs):
            return run
        of_index = dict(zip(chain.from_iterable(groups), run.results, strict=True))
        return replace(run, results=[of_index[index] for index in range(len(jobs))])

    def _keys(self, call: Call, num_bytes: int) -> tuple[Hashable, Hashable | None]:
        """Return what calls of one run have in common, and what those of one pack have."""
        capabilities = self.device.capabilities
        small = num_bytes <= capabilities.packed_bytes
        shared = pack_key(call) if small and isinstance(call, capabilities.packable_ops) else None
        if capabilities.batch_mixed_ops:
            return "small" if small else object(), shared
        if isinstance(call, Rotate):
            return object() if shared is None else shared, shared
        return type(call).__name__, shared

    def _groups(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Return which of the jobs become one call."""
        if not self.device.capabilities.batch_mixed_ops:
            indices = range(len(jobs))
            return [[*indices]] if jobs[0].pack_key is not None else [[i] for i in indices]
        groups: dict[Hashable, list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(index if job.pack_key is None else job.pack_key, []).append(index)
        return [*groups.values()]

    def _load(self, jobs: Sequence[Job]) -> DeviceBatch:
        # where kernels might differ, a call is computed in the form of a pack even if it is alone
        one = len(jobs) == 1 and (
            jobs[0].pack_key is None or not self.device.capabilities.batch_mixed_ops
        )
        return SingleCall(jobs[0].call) if one else pack([job.call for job in jobs])

    def _compute(self, call: Call, backend: str | None) -> Result:
        match call:
            case Rotate():
                out = Rotated(self._like(call.q), self._like(call.k))
                return rope_core.rotate(call, out, backend)
            case Attend():
                return rope_core.attend(call, backend)
            case Shift():
                return rope_core.shift(call, Rotated(None, self._like(call.k)), backend)
            case CosSin():
                return rope_core.cos_sin(call)
            case Merge():
                return rope_core.merge(call, backend)

    def _like(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else self.device.empty(tensor.shape, tensor.dtype)


def _flops(call: Attend) -> float:
    """Return about how many operations all scores and their weighted sums take, unmasked."""
    if call.cu_seqlens_q is None or call.cu_seqlens_k is None:
        pairs = call.num_tokens * call.k.shape[-3]
    else:
        pairs = int(call.cu_seqlens_q.diff().long() @ call.cu_seqlens_k.diff().long())
    each = 2.0 * (call.q.shape[-1] + call.v.shape[-1]) + SCORE_FLOPS
    return pairs * call.q.shape[-2] * each
