"""The only file that moves tensors on and off the device: pack, run, unpack."""

import dataclasses
import resource
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import rope_core
from rope_core import Attend, Call, CosSin, Merge, Result, Rotate, Rotated, Shift, ragged
from rope_core.checks import DTYPES
from rope_core.inference import inference
from service.batcher import Run
from service.errors import TooLarge
from service.slabs import Slabs

PACKED_BYTES = 256 * 2**10
"""Calls larger than this are not copied into a pack; they run alone."""

SEQUENCE_S = 50e-6
"""What each sequence of a call costs, however short."""

QUICK_S = 2e-3
"""Runs estimated below this stay on the event loop: a hand-off would cost them a good part."""


@dataclass(frozen=True, slots=True)
class Job:
    """A call, and what the batcher has to know of it."""

    call: Call
    batch_key: Hashable
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
        slabs: where large answers are put.
        max_call_s: longest that one call may be estimated to take.
        max_answer_bytes: largest answer.
    """

    def __init__(
        self, device: torch.device, slabs: Slabs, *, max_call_s: float, max_answer_bytes: int
    ) -> None:
        self.device = device
        self._slabs = slabs
        self._max_call_s = max_call_s
        self._max_answer_bytes = max_answer_bytes
        on_cpu = device.type == "cpu"
        self._bytes_per_s = 4e9 if on_cpu else 2e11
        self._flops_per_s = 3e10 * torch.get_num_threads() if on_cpu else 1e14
        self._quick_s = QUICK_S if on_cpu else 0.0

    def job(self, call: Call, backend: str | None = None) -> Job:
        """Return `call` with its costs, to be done by `backend`.

        Raises:
            TooLarge: it would take too long, or its answer be too large.
        """
        num_bytes = answer_bytes = call.num_bytes
        seconds = num_bytes / self._bytes_per_s
        key: Hashable = type(call).__name__
        if isinstance(call, Attend):
            rows = call.q.numel() // call.q.shape[-1]
            answer_bytes = rows * call.v.shape[-1] * (call.out_dtype or call.q.dtype).itemsize
            answer_bytes += rows * 4 * call.return_lse
            seconds += _flops(call) / self._flops_per_s + call.num_sequences * SEQUENCE_S
        elif isinstance(call, Rotate):
            alone = num_bytes > PACKED_BYTES or call.frequencies is not None
            key = object() if alone else _rotation_key(call)
        elif isinstance(call, Merge):
            answer_bytes //= len(call.out)
        if answer_bytes > self._max_answer_bytes:
            raise TooLarge("an answer, in bytes,", self._max_answer_bytes, f"{answer_bytes:,}")
        if seconds > self._max_call_s:
            limit = self._max_call_s
            raise TooLarge("a call's estimated time, in seconds,", limit, f"{seconds:,.0f}")
        key = key, backend
        return Job(call, key, call.num_tokens, num_bytes, answer_bytes, seconds, backend)

    def quick(self, jobs: Sequence[Job]) -> bool:
        """Tell whether `jobs` together are over before a thread would have begun."""
        return sum(job.seconds for job in jobs) <= self._quick_s

    @inference
    def run(self, jobs: Sequence[Job]) -> Run[Result]:
        """Run jobs of one batch key as one."""
        begun = time.perf_counter()
        calls = [job.call for job in jobs]
        rotations = [call for call in calls if isinstance(call, Rotate)]
        packs = len(rotations) > 1
        ready = [_pack(rotations)] if packs else calls
        moved = [self._to_device(call) for call in ready]
        packed = time.perf_counter()
        results = [self._compute(call, jobs[0].backend) for call in moved]
        computed = time.perf_counter()
        if self.device.type != "cpu":
            results = [_to_host(result) for result in results]
        if packs:
            results = _unpack(rotations, results[0])
        ended = time.perf_counter()
        return Run(results, packed - begun + ended - computed, computed - packed)

    def warm_up(self) -> None:
        """Run each operation once in each dtype: what is loaded or built late is so now."""
        rope = rope_core.RopeConfig.of(64)
        for dtype in DTYPES:
            q, k = (torch.zeros(1, 16, heads, 64, dtype=dtype) for heads in (4, 2))
            for call in (
                Rotate(q, k, rope),
                Attend(q, k, k, rope, return_lse=True),
                Shift(k, torch.tensor(1), rope),
                Merge(q[None], torch.zeros(1, 1, 16, 4)),
                CosSin(torch.arange(16), rope),
            ):
                self.run([self.job(call)])

    def memory_bytes(self) -> int:
        """Return the memory in use on the device: tensors on a GPU, the process on the CPU."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

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

    def _to_device(self, call: Call) -> Call:
        if self.device.type == "cpu":
            return call
        moved = {
            field.name: value.to(self.device, non_blocking=True)
            for field in dataclasses.fields(call)
            if isinstance(value := getattr(call, field.name), Tensor)
            and not field.name.startswith("cu_seqlens")  # their values are read on the host
        }
        return dataclasses.replace(call, **moved)  # type: ignore[arg-type]

    def _like(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else self._new(tuple(tensor.shape), tensor.dtype)

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.device.type == "cpu":
            return self._slabs.tensor(shape, dtype)
        return torch.empty(shape, dtype=dtype, device=self.device)


def _rotation_key(call: Rotate) -> Hashable:
    """Return what rotations of one pack have in common: all but the number of tokens."""
    q = None if call.q is None else _without_tokens(call.q)
    k = None if call.k is None else _without_tokens(call.k)
    positions, several = call.positions, call.rope.num_axes > 1
    fractional = positions is not None and positions.is_floating_point()
    rows = positions.shape[:-1] if several and positions is not None else None
    return call.rope, call.inverse, q, k, fractional, rows


def _without_tokens(x: Tensor) -> Hashable:
    return x.dtype, x.shape[:-3], x.shape[-2]


def _pack(calls: Sequence[Rotate]) -> Rotate:
    """Return one call for the tokens of all, joined along the axis of sequence."""
    positions = [_row_positions(call) for call in calls]
    if calls[0].rope.num_axes == 1 and any(rows.ndim == 2 for rows in positions):
        positions = [rows.expand(len(calls[0].like), -1) for rows in positions]
    qs = [call.q for call in calls if call.q is not None]
    ks = [call.k for call in calls if call.k is not None]
    return Rotate(
        torch.cat(qs, -3) if qs else None,
        torch.cat(ks, -3) if ks else None,
        calls[0].rope,
        torch.cat(positions, -1),
        inverse=calls[0].inverse,
    )


def _row_positions(call: Rotate) -> Tensor:
    if call.positions is not None:
        return call.positions
    return ragged.count_up(call.like.shape[-3], call.cu_seqlens, call.like.device)


def _unpack(calls: Sequence[Rotate], packed: Result) -> list[Result]:
    """Return each call's part of a packed result, as views."""
    assert isinstance(packed, Rotated), "a pack is a rotation"
    lengths = [call.like.shape[-3] for call in calls]
    nothing = [None] * len(calls)
    qs = nothing if packed.q is None else torch.split(packed.q, lengths, -3)
    ks = nothing if packed.k is None else torch.split(packed.k, lengths, -3)
    return [Rotated(q, k, packed.backend) for q, k in zip(qs, ks, strict=True)]


def _to_host(result: Result) -> Result:
    moved = {
        field.name: value.cpu()
        for field in dataclasses.fields(result)
        if isinstance(value := getattr(result, field.name), Tensor)
    }
    return dataclasses.replace(result, **moved)  # type: ignore[arg-type]


def _flops(call: Attend) -> float:
    """Return the floating-point operations of all scores and their weighted sums, unmasked."""
    if call.cu_seqlens_q is None or call.cu_seqlens_k is None:
        pairs = call.num_tokens * call.k.shape[-3]
    else:
        pairs = int(call.cu_seqlens_q.diff().long() @ call.cu_seqlens_k.diff().long())
    return 2.0 * pairs * call.q.shape[-2] * (call.q.shape[-1] + call.v.shape[-1])
