"""Rotate planned calls on the CPU, in the memory where the requests were received."""

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

import rope_core
from rope_core import Rotate, Rotated, compiled
from rope_core.backends import eager
from rope_core.table_rotation import TableRotation, first_positions, table_rotation
from service.batching.run import Run
from service.planned.plan import PlannedJob, PlannedResult, TensorSpan
from service.wire.elements import view_as_bytes, view_as_tensor

MAX_ROWS = 256
"""Most rows of q `[B, S, H, D]` that share positions `[S]`: each row is a step of every run."""

POSITION_BYTES = torch.int64.itemsize

Outcome = PlannedResult | Exception


class TokenSpan(NamedTuple):
    """Tokens `[T, H, D]` of q or k that begin at the first position: all, or those of one row."""

    tensor: int
    """Index of the tensor in `RotationKind.num_heads`."""
    offset: int
    """Where the tokens begin in the slab."""
    num_tokens: int


class RotationKind:
    """Settings of a rotation; calls of one kind share a run, whatever their numbers of tokens.

    Kinds are compared by identity, which is fast: `_kind` makes one object for equal settings.

    Args:
        table: the angles.
        inverse: whether to rotate back.
        dtype: of q and k.
        num_heads: of q and k, or of the only one of them.
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
        heads: spans of q and k, `[B, S, H, D]` or `[T, H, D]`, or of the only one of them.
        positions: span of the positions, int64 or int32 `[S]`, `[B, S]` or `[T]`; None: they count
            from 0.
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
        self.answer_slices = [slice(h.offset, h.offset + h.num_bytes) for h in heads]

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
        rotations = [table.for_heads(n, kind.dtype, kind.inverse).run for n in kind.num_heads]
        for job in jobs:
            runner, slab = job.runner, job.slab
            address = slab.address
            if runner.has_int64_positions:
                positions = address + runner.positions.offset
            else:
                widened = _widened_positions(job, table)
                positions = widened.data_ptr()
            # all spans of a job have the same positions, so a job is written whole or not at all
            for tensor, offset, num_tokens in runner.token_spans:
                x = address + offset
                if rotations[tensor](x, x, positions, num_tokens) < 0:
                    results.append(_rotate_alone(job, table))
                    break
            else:
                parts: list[Any] = [*map(slab.memory.__getitem__, runner.answer_slices)]
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
    """Rotate all jobs as one call of the library: without the extension, each call takes long."""
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
    answers: list[tuple[memoryview, memoryview]] = []  # tokens in a slab, and rotated
    for job in jobs:
        runner, memory = job.runner, job.slab.memory
        if runner.has_int64_positions:
            source = memory[runner.positions.offset :]
        else:
            source = view_as_bytes(_widened_positions(job, kind.table))
        for tensor, offset, num_tokens in runner.token_spans:
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
    parts: list[Any] = [*map(job.slab.memory.__getitem__, job.runner.answer_slices)]
    return PlannedResult(parts, eager.name)


def _widened_positions(job: PlannedJob, table: TableRotation) -> Tensor:
    """Return int64 positions of a job: its own, or those of the whole table if it has none."""
    span = job.runner.positions
    if span is None:
        return first_positions(table.num_rows)
    return view_as_tensor(job.slab.memory, span.dtype, span.shape, span.offset).long()


def _num_rows(span: TensorSpan, positions: TensorSpan | None) -> int:
    """Return how many rows of q or k share positions; 1 if the positions are for all tokens."""
    has_own = positions is not None and len(positions.shape) == 2
    return 1 if len(span.shape) == 3 or has_own else span.shape[0]
