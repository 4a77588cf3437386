"""Jobs of sessions for the batcher: their costs, and the runner of a batch of them."""

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import frexp

import torch

from rope_core.inference import inference
from rope_core.kvcache.plan import LayerPlan, MovePlan
from rope_core.kvcache.run import LayerInput, LayerOutput, run_layers, run_moves
from service.batching.run import Run
from service.device import Device
from service.inference.engine import SECONDS_PER_SEQUENCE, Runner
from service.sessions.running.pieces import (
    PIECE_S,
    PIECE_TOKENS,
    append_pieces,
    attend_flops,
    attend_pieces,
)

STEP_TOKENS = 64
"""Most tokens of a step that goes first among the calls of its batch key."""

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
        num_rows = most_segments = 0
        for each in inputs:
            num_rows += len(each.plan.rows)
            for row in each.plan.rows:
                most_segments = max(most_segments, len(row.segments))
        self.count_run(num_rows, most_segments)
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

    A call of many tokens is cut into pieces, so that steps of other sessions wait for one piece at
    most. First all new keys and values are written, then the queries attend.
    """
    device = runner.device
    num_tokens, seconds = 0, 0.0
    for each in inputs:
        num_tokens += len(each.plan.slots) or _num_queries(each.plan)
        seconds += _seconds(each, device)
    if num_tokens <= STEP_TOKENS or (num_tokens <= PIECE_TOKENS and seconds <= PIECE_S):
        return [_job(inputs, range(len(inputs)), key, runner, backend, seconds)]
    pieces = [(i, piece) for i, each in enumerate(inputs) for piece in append_pieces(each)]
    pieces += [(i, piece) for i, each in enumerate(inputs) for piece in attend_pieces(each, device)]
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


def _num_queries(plan: LayerPlan) -> int:
    return sum(row.num_queries for row in plan.rows)


def _seconds(each: LayerInput, device: Device) -> float:
    """Return the estimated time of an input that runs alone."""
    capabilities = device.capabilities
    rows = each.plan.rows
    seconds = _num_bytes(each) / capabilities.bytes_per_s + len(rows) * SECONDS_PER_SEQUENCE
    flops = 0.0
    for row in rows:
        flops += attend_flops(each.plan.group, row)
    return seconds + flops / capabilities.flops_per_s


def _num_bytes(each: LayerInput) -> int:
    """Return the bytes of the tensors of an input, of its dtype."""
    num_elements = 0
    for x in (each.q, each.k, each.v):
        if x is not None:
            num_elements += x.numel()
    return num_elements * each.plan.dtype.itemsize


def _kind(name: str, seconds: float) -> Hashable:
    return "session", name, frexp(seconds)[1] // 2


def _to_device(each: LayerInput, device: torch.device) -> LayerInput:
    q, k, v = (None if x is None else x.to(device) for x in (each.q, each.k, each.v))
    return replace(each, q=q, k=k, v=v)


def _to_host(output: LayerOutput) -> LayerOutput:
    out, lse = (None if x is None else x.cpu() for x in (output.out, output.lse))
    return replace(output, out=out, lse=lse)
