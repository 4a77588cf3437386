"""Rotate planned calls on the CPU, in the memory where the requests were received."""

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

import rope_core
from rope_core import Rotate, Rotated, compiled
from rope_core.backends import eager
from rope_core.table_rotation import TableRotation, counted, table_rotation
from service.batching.run import Run
from service.planned.plan import PlannedJob, PlannedResult, TensorSpan
from service.wire.elements import view_as_bytes, view_as_tensor

MAX_ROWS = 256
"""Rows of a batch that share their positions, at most: each is a step of every run."""

POSITION_BYTES = torch.int64.itemsize

Outcome = PlannedResult | Exception


class TokenSpan(NamedTuple):
    """Tokens of q or k, from the first position of the call on: all, or those of one row."""

    tensor: int
    """Index of q or k among the tensors of its kind."""
    offset: int
    """Where the tokens begin in the slab."""
    num_tokens: int


class RotationKind:
    """What decides a rotation but for the number of tokens: such calls share a run.

    Args:
        table: the angles.
        inverse: whether to rotate back.
        dtype: of q and k.
        num_heads: of q and k, or of the one that is there.
    """

    def __init__(
        self, table: TableRotation, inverse: bool, dtype: torch.dtype, num_heads: tuple[int, ...]
    ) -> None:
        self.table = table
        self.inverse = inverse
        self.dtype = dtype
        self.num_heads = num_heads


_kind = lru_cache(maxsize=1024)(RotationKind)


class RotationRunner:
    """Runs the calls of a plan, together with those of other plans of its kind.

    Args:
        kind: of the plan.
        heads: spans of q and k, `[B, S, H, D]` or `[T, H, D]`, or of one of them.
        positions: span of the positions, `[S]`, `[B, S]` or `[T]`; None: they count from 0.
    """

    def __init__(
        self, kind: RotationKind, heads: Sequence[TensorSpan], positions: TensorSpan | None
    ) -> None:
        self.batch_key = kind
        self.positions = positions
        self.has_int64_positions = positions is not None and positions.dtype is torch.int64
        num_rows = _num_rows(heads[0], positions)
        self.token_spans = tuple(
            TokenSpan(
                tensor,
                span.offset + row * (span.num_bytes // num_rows),
                torch.Size(span.shape[:-2]).numel() // num_rows,
            )
            for tensor, span in enumerate(heads)
            for row in range(num_rows)
        )
        self.answer = _adjoining(heads)

    def __call__(self, jobs: Sequence[PlannedJob]) -> Run[Outcome]:
        """Rotate q and k of all jobs, in place.

        A call that fails fails alone: nothing is raised, as a run that raises is run again.
        """
        started = time.perf_counter()
        kind = self.batch_key
        if len(jobs) > 1 and compiled.extension() is None:
            results = _rotate_packed(kind, jobs)
            return Run(results, 0.0, time.perf_counter() - started)
        table, results = kind.table, []
        rotations = [table.of(n, kind.dtype, kind.inverse).run for n in kind.num_heads]
        for job in jobs:
            plan, slab = job.runner, job.slab
            address = slab.address
            if plan.has_int64_positions:
                positions = address + plan.positions.offset
            else:
                widened = _widened_positions(job, table)
                positions = widened.data_ptr()
            # spans of a job have the same positions: if one is outside, nothing is written
            for tensor, offset, num_tokens in plan.token_spans:
                x = address + offset
                if rotations[tensor](x, x, positions, num_tokens) < 0:
                    results.append(_rotate_alone(job, table))
                    break
            else:
                parts = [slab.memory[start:end] for start, end in plan.answer]
                results.append(PlannedResult(parts, eager.name))
        return Run(results, 0.0, time.perf_counter() - started)


def rotation_runner(call: Rotate, spans: Sequence[TensorSpan]) -> RotationRunner | None:
    """Return the runner of calls like `call`; None where only the library can run them."""
    by_name = {span.name: span for span in spans}
    positions = by_name.get("positions")
    if (
        not by_name.keys() <= {"q", "k", "positions"}
        or not all(span.num_bytes for span in spans)
        or (table := table_rotation(call.rope)) is None
        or (positions is not None and positions.dtype.is_floating_point)
    ):
        return None
    heads = [by_name[name] for name in ("q", "k") if name in by_name]
    num_heads = tuple(span.shape[-2] for span in heads)
    if _num_rows(heads[0], positions) > MAX_ROWS:
        return None
    kind = _kind(table, call.inverse, heads[0].dtype, num_heads)
    if positions is None and not kind.table.reserve(heads[0].shape[-3]):
        return None
    return RotationRunner(kind, heads, positions)


def _rotate_packed(kind: RotationKind, jobs: Sequence[PlannedJob]) -> list[Outcome]:
    """Rotate all jobs as one call of the library: its operators take long to call."""
    num_tokens = sum(job.num_tokens for job in jobs)
    head_dim = kind.table.rope.head_dim
    xs = [torch.empty(num_tokens, n, head_dim, dtype=kind.dtype) for n in kind.num_heads]
    positions = torch.empty(num_tokens, dtype=torch.int64)
    memories = [view_as_bytes(x) for x in xs]
    position_memory = view_as_bytes(positions)
    token_bytes = [n * head_dim * kind.dtype.itemsize for n in kind.num_heads]
    ends = [0] * len(xs)
    outs = [torch.empty_like(x) for x in xs]
    out_memories = [view_as_bytes(out) for out in outs]
    answers: list[tuple[memoryview, memoryview]] = []
    for job in jobs:
        plan, memory = job.runner, job.slab.memory
        if plan.has_int64_positions:
            source = memory[plan.positions.offset :]
        else:
            source = view_as_bytes(_widened_positions(job, kind.table))
        for tensor, offset, num_tokens in plan.token_spans:
            start, size = ends[tensor], token_bytes[tensor]
            end = ends[tensor] = start + num_tokens
            original = memory[offset : offset + num_tokens * size]
            memories[tensor][start * size : end * size] = original
            answers.append((original, out_memories[tensor][start * size : end * size]))
            if tensor == 0:
                num_bytes = num_tokens * POSITION_BYTES
                start *= POSITION_BYTES
                position_memory[start : start + num_bytes] = source[:num_bytes]
    q, k = (*xs, None)[:2]
    try:
        call = Rotate(q, k, kind.table.rope, positions, inverse=kind.inverse)
        rope_core.rotate(call, Rotated(outs[0], outs[-1] if k is not None else None))
    except Exception:
        return [_rotate_alone(job, kind.table) for job in jobs]
    for original, rotated in answers:
        original[:] = rotated
    return [_result(job) for job in jobs]


def _rotate_alone(job: PlannedJob, table: TableRotation) -> Outcome:
    """Rotate one job by the library, in place."""
    try:
        call = job.call
        assert isinstance(call, Rotate), "the runner is for rotations"
        if call.positions is not None:
            table.grow(call.positions)
        rope_core.rotate(call, Rotated(call.q, call.k))
    except Exception as failure:
        return failure
    return _result(job)


def _result(job: PlannedJob) -> PlannedResult:
    memory = job.slab.memory
    return PlannedResult([memory[start:end] for start, end in job.runner.answer], eager.name)


def _widened_positions(job: PlannedJob, table: TableRotation) -> Tensor:
    """Return positions that count, or are int32, as int64."""
    span = job.runner.positions
    if span is None:
        return counted(table.num_rows)
    return view_as_tensor(job.slab.memory, span.dtype, span.shape, span.offset).long()


def _num_rows(span: TensorSpan, positions: TensorSpan | None) -> int:
    """Return the number of rows of q or k that have the same positions."""
    has_own = positions is not None and len(positions.shape) == 2
    return 1 if len(span.shape) == 3 or has_own else span.shape[0]


def _adjoining(spans: Sequence[TensorSpan]) -> list[tuple[int, int]]:
    """Return the start and end of each span in the slab; spans without a gap are one."""
    ranges: list[tuple[int, int]] = []
    for span in spans:
        start, end = span.offset, span.offset + span.num_bytes
        if ranges and ranges[-1][1] == start:
            start, _ = ranges.pop()
        ranges.append((start, end))
    return ranges
