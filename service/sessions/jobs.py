"""Jobs of sessions for the batcher: their costs, their pieces, and what runs a batch of them."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import frexp

import torch

from rope_core.inference import inference
from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.plan import LayerPlan, MovePlan, RowPlan
from rope_core.kvcache.run import LayerInput, LayerOutput, run_layers, run_moves
from service.batching.run import Run
from service.device import Device
from service.inference.attention_cost import OVERHEAD_FLOPS
from service.inference.engine import SECONDS_PER_SEQUENCE, Runner

STEP_TOKENS = 64
"""Most tokens of a step that goes first among the calls of its batch key."""

PIECE_TOKENS = 2048
"""Most tokens of a piece of a longer call."""

MIN_PIECE_QUERIES = 16
"""Fewest queries of a piece: fewer use a processor badly."""

PIECE_S = 10e-3
"""Estimated time of a piece that is not at its least or its most."""

PIECE_WAIT_RUNS = 4
"""A piece lets steps go first for as long as it would run so many times."""


@dataclass(frozen=True, slots=True)
class SessionJob:
    """A part of an operation that runs on the device, as the batcher needs it."""

    inputs: Sequence[LayerInput]
    owners: Sequence[int]
    """For each input the index of the whole input that it is, or of which it is a piece."""
    batch_key: Hashable
    num_tokens: int
    num_bytes: int
    seconds: float
    kind: Hashable
    runner: Runner
    backend: str | None = None
    moves: MovePlan | None = None
    """What moves instead of `inputs`; such a job has a batch key of its own."""

    @property
    def operation(self) -> type:
        """The type of the call: none of those that models of the Open Inference Protocol have."""
        return type(self)

    @property
    def wait_s(self) -> float:
        """Seconds in which jobs that arrive later may go first."""
        return 0.0 if self.num_tokens <= STEP_TOKENS else PIECE_WAIT_RUNS * self.seconds


@dataclass(frozen=True, slots=True)
class SessionRunner:
    """Runs batches of session jobs.

    On a GPU, inputs are copied to the device of the pages, and answers back.
    """

    device: Device
    count_run: Callable[[int, int], None]
    """Gets the number of rows of a run, and of the segments of the row that has the most."""

    batch_key = "sessions"

    def __call__(self, jobs: Sequence[SessionJob]) -> Run[list[LayerOutput]]:
        """Return the outputs of all jobs, in order."""
        return self.device.guard(partial(self._run, jobs))

    @inference
    def _run(self, jobs: Sequence[SessionJob]) -> Run[list[LayerOutput]]:
        started = time.perf_counter()
        first = jobs[0]
        if first.moves is not None:
            run_moves(first.moves)
            return Run([[]], 0.0, time.perf_counter() - started)
        inputs = [each for job in jobs for each in job.inputs]
        page_device = inputs[0].plan.pool.device
        is_on_host = page_device.type == "cpu"
        if not is_on_host:
            inputs = [_to_device(each, page_device) for each in inputs]
        copied = time.perf_counter()
        outputs = run_layers(inputs, first.backend)
        if not is_on_host:
            outputs = [_to_host(output) for output in outputs]
        ended = time.perf_counter()
        rows = [row for each in inputs for row in each.plan.rows]
        self.count_run(len(rows), max(len(row.segments) for row in rows))
        if len(jobs) == 1:
            return Run([outputs], copied - started, ended - copied)
        results, at = [], 0
        for job in jobs:
            results.append(outputs[at : at + len(job.inputs)])
            at += len(job.inputs)
        return Run(results, copied - started, ended - copied)


def make_jobs(
    inputs: Sequence[LayerInput], key: str, runner: SessionRunner, backend: str | None
) -> list[SessionJob]:
    """Return the jobs of one operation, which run one after the other.

    A call of many tokens is cut into pieces: first all new keys and values are written, then the
    queries attend. So that steps of other sessions wait for a piece at most.
    """
    device = runner.device
    num_tokens, seconds = 0, 0.0
    for each in inputs:
        num_tokens += len(each.plan.slots) or _num_queries(each.plan)
        seconds += _seconds(each, device)
    if num_tokens <= STEP_TOKENS or (num_tokens <= PIECE_TOKENS and seconds <= PIECE_S):
        return [_job(inputs, range(len(inputs)), key, runner, backend, seconds)]
    pieces = [(i, piece) for i, each in enumerate(inputs) for piece in _append_pieces(each)]
    pieces += [
        (i, piece) for i, each in enumerate(inputs) for piece in _attend_pieces(each, device)
    ]
    return [
        _job([piece], [owner], key, runner, backend, _seconds(piece, device))
        for owner, piece in pieces
    ]


def move_job(plan: MovePlan, num_bytes: int, runner: SessionRunner) -> SessionJob:
    """Return the job of moves, which never shares a run: it must not be run twice."""
    seconds = 2 * num_bytes / runner.device.capabilities.bytes_per_s
    return SessionJob(
        (), (), object(), 1, num_bytes, seconds, _kind("move", seconds), runner, None, plan
    )


def move_bytes(plan: MovePlan) -> int:
    """Return the bytes that a plan writes."""
    num_bytes = sum(copy.pool.shape.group_bytes for copy in plan.copies)
    for move in plan.moves:
        shape = move.pool.shape
        num_bytes += len(move.targets) * shape.group_bytes // shape.page_tokens
    return num_bytes


def join_pieces(
    jobs: Sequence[SessionJob], results: Sequence[Sequence[LayerOutput]]
) -> list[LayerOutput]:
    """Return the output of each whole input; that of an append is empty."""
    parts: dict[int, list[LayerOutput]] = {}
    for job, outputs in zip(jobs, results, strict=True):
        for owner, output in zip(job.owners, outputs, strict=True):
            parts.setdefault(owner, []).append(output)
    return [_join(parts[owner]) for owner in sorted(parts)]


def _join(parts: Sequence[LayerOutput]) -> LayerOutput:
    """Return the outputs of pieces as one; those of appends are empty."""
    parts = [part for part in parts if part.out is not None]
    if len(parts) <= 1:
        return parts[0] if parts else LayerOutput()
    out = torch.cat([part.out for part in parts if part.out is not None])
    lses = [part.lse for part in parts if part.lse is not None]
    return LayerOutput(out, torch.cat(lses) if lses else None, parts[0].backend)


def _job(
    inputs: Sequence[LayerInput],
    owners: Sequence[int],
    key: str,
    runner: SessionRunner,
    backend: str | None,
    seconds: float,
) -> SessionJob:
    num_tokens = num_bytes = 0
    for each in inputs:
        num_tokens += max(len(each.plan.slots), _num_queries(each.plan))
        num_bytes += _num_bytes(each)
    name = "step" if num_tokens <= STEP_TOKENS else "piece"
    batch_key = name, key, backend
    return SessionJob(
        inputs=inputs,
        owners=owners,
        batch_key=batch_key,
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        seconds=seconds,
        kind=_kind(name, seconds),
        runner=runner,
        backend=backend,
    )


def _append_pieces(whole: LayerInput) -> list[LayerInput]:
    """Return the append of an input in pieces of at most PIECE_TOKENS; of an attend none."""
    k, v, plan = whole.k, whole.v, whole.plan
    if k is None or v is None:
        return []
    pieces: list[LayerInput] = []
    for start in range(0, len(plan.slots), PIECE_TOKENS):
        tokens = slice(start, start + PIECE_TOKENS)
        base = plan.base_positions
        part = replace(
            plan,
            rows=_rows_between(plan.rows, start, start + PIECE_TOKENS),
            slots=plan.slots[tokens],
            base_positions=None if base is None else base[..., tokens],
            q_positions=None,
            copies=[] if pieces else plan.copies,
            clears=[] if pieces else plan.clears,
        )
        pieces.append(LayerInput(part, None, k[tokens], v[tokens]))
    return pieces


def _rows_between(rows: Sequence[RowPlan], start: int, stop: int) -> list[RowPlan]:
    """Return the rows of new tokens [start, stop) of a plan, without queries."""
    parts, at = [], 0
    for row in rows:
        first, last = max(start, at), min(stop, at + row.num_new)
        if first < last:
            parts.append(
                replace(
                    row,
                    num_new=last - first,
                    num_queries=0,
                    segments=(),
                    q_index=range(0),
                    tail_mask=None,
                )
            )
        at += row.num_new
    return parts


def _attend_pieces(whole: LayerInput, device: Device) -> list[LayerInput]:
    """Return the attend of an input in pieces of some queries of one row; of an append none."""
    if whole.q is None:
        return []
    pieces, at = [], 0
    for row in whole.plan.rows:
        size = max(1, row.num_queries)
        if row.num_queries:
            one_s = _attend_flops(whole.plan.group, row) / device.capabilities.flops_per_s / size
            size = min(max(int(PIECE_S / one_s), MIN_PIECE_QUERIES), PIECE_TOKENS)
        for first in range(0, row.num_queries, size):
            last = min(first + size, row.num_queries)
            pieces.append(_some_queries(whole, row, first, last, at))
        at += row.num_queries
    return pieces


def _some_queries(
    whole: LayerInput, row: RowPlan, first: int, last: int, row_start: int
) -> LayerInput:
    """Return the attend of the queries [first, last) of a row, whose queries begin at row_start."""
    assert whole.q is not None, "an attend has queries"
    queries = slice(row_start + first, row_start + last)
    part = replace(
        row,
        num_new=0,
        num_queries=last - first,
        q_index=row.q_index[first:last],
        tail_mask=None if row.tail_mask is None else row.tail_mask[first:last],
    )
    plan, q_positions = whole.plan, whole.plan.q_positions
    plan = replace(
        plan,
        rows=[part],
        slots=plan.slots[:0],
        base_positions=None if plan.base_positions is None else plan.base_positions[..., :0],
        q_positions=None if q_positions is None else q_positions[..., queries],
        copies=[],
        clears=[],
    )
    return LayerInput(
        plan, whole.q[queries], out_dtype=whole.out_dtype, return_lse=whole.return_lse
    )


def _num_queries(plan: LayerPlan) -> int:
    return sum(row.num_queries for row in plan.rows)


def _seconds(each: LayerInput, device: Device) -> float:
    """Return the estimated time of an input that runs alone."""
    capabilities = device.capabilities
    rows = each.plan.rows
    seconds = _num_bytes(each) / capabilities.bytes_per_s + len(rows) * SECONDS_PER_SEQUENCE
    flops = 0.0
    for row in rows:
        flops += _attend_flops(each.plan.group, row)
    return seconds + flops / capabilities.flops_per_s


def _num_bytes(each: LayerInput) -> int:
    """Return the bytes of the tensors of an input, of its dtype."""
    num_elements = 0
    for x in (each.q, each.k, each.v):
        if x is not None:
            num_elements += x.numel()
    return num_elements * each.plan.dtype.itemsize


def _attend_flops(group: KVGroup, row: RowPlan) -> float:
    """Return the approximate number of operations of a row's scores and weighted sums."""
    num_keys = 0
    for segment in row.segments:
        num_keys += segment.num_keys
    flops = 2.0 * (group.head_dim + group.value_dim) + OVERHEAD_FLOPS
    return row.num_queries * num_keys * group.num_heads * flops


def _kind(name: str, seconds: float) -> Hashable:
    return "session", name, frexp(seconds)[1] // 2


def _to_device(each: LayerInput, device: torch.device) -> LayerInput:
    q, k, v = (None if x is None else x.to(device) for x in (each.q, each.k, each.v))
    return replace(each, q=q, k=k, v=v)


def _to_host(output: LayerOutput) -> LayerOutput:
    out, lse = (None if x is None else x.cpu() for x in (output.out, output.lse))
    return replace(output, out=out, lse=lse)
