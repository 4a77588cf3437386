"""Run plans on a device: copy pages, write keys and values, attend."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from rope_core.errors import KernelFailed, KernelNotBuilt, NoBackend
from rope_core.kvcache.compute import fused
from rope_core.kvcache.compute.attend import attend_row, sinks_tensor
from rope_core.kvcache.compute.checks import check_tensors
from rope_core.kvcache.compute.compiled_attend import Batch, can_attend
from rope_core.kvcache.compute.compiled_attend import name as COMPILED
from rope_core.kvcache.compute.decode import decode
from rope_core.kvcache.compute.joining import joined_plan, joined_tensors
from rope_core.kvcache.compute.moves import run_move
from rope_core.kvcache.compute.page_memory import page_memory
from rope_core.kvcache.compute.rotation import Queries
from rope_core.kvcache.compute.scatter import clear_page, copy_page, write_tokens
from rope_core.kvcache.plan import LayerPlan, MovePlan

Batches = dict[tuple[object, ...], Batch]
"""Rows that one call of compiled code attends to, by what they have in common."""


@dataclass(slots=True)
class LayerInput:
    """A plan of one layer with the tensors of its call, packed over the rows of the plan."""

    plan: LayerPlan
    q: Tensor | None = None
    """`[Tq, H, D]`."""
    k: Tensor | None = None
    """`[T, Hkv, D]`, not rotated."""
    v: Tensor | None = None
    """`[T, Hkv, Dv]`."""
    out_dtype: torch.dtype | None = None
    return_lse: bool = False


@dataclass(slots=True)
class LayerOutput:
    """The answer of a layer; empty for an append."""

    out: Tensor | None = None
    """`[Tq, H, Dv]`."""
    lse: Tensor | None = None
    """float32 `[Tq, H]`."""
    backend: str = ""


def run_layers(inputs: Sequence[LayerInput], backend: str | None = None) -> list[LayerOutput]:
    """Run plans of any caches, layers and groups together: all copies and writes, then attends.

    The answer to each has the same bits whatever the others are. Nothing that a cache shows has
    changed until the plans are committed, so it may run again after a failure.

    Raises:
        ShapeError: a tensor does not fit its plan; nothing was written.
        NoBackend, KernelNotBuilt: as `rope_core.attention.run_attend`.
    """
    if len(inputs) == 1 and backend is None:
        (only,) = inputs
        if (output := _decode(only)) is not None:
            return [output]
    for call in inputs:
        check_tensors(call.plan, call.q, call.k, call.v)
    for call in inputs:
        for page_group in call.plan.clears:
            clear_page(call.plan.pool, page_group)
    for call in inputs:
        for copy in call.plan.copies:
            copy_page(copy)
    if backend == fused.name:
        for call in inputs:
            if (reason := fused.why_not(call.plan)) is not None:
                raise NoBackend({fused.name: reason})
        return _run_fused(inputs)
    by_kernels = [backend is None and fused.runs(call.plan) for call in inputs]
    if any(by_kernels) and not all(by_kernels):
        return [run_layers([call], backend)[0] for call in inputs]
    if any(by_kernels):
        try:
            return _run_fused(inputs)
        except (KernelNotBuilt, KernelFailed):
            pass  # operators of torch write the same and attend
    return _run_torch(inputs, backend)


def _decode(call: LayerInput) -> LayerOutput | None:
    """Return the answer to a usual step of decoding; None if the call is something else."""
    plan, q, k, v = call.plan, call.q, call.k, call.v
    if q is None or k is None or v is None or plan.clears or plan.copies or not plan.rows:
        return None
    answer = decode(plan, q, k, v, call.out_dtype)
    if answer is None:
        return None
    out, lse, name = answer
    return LayerOutput(out, lse if call.return_lse else None, name)


def _run_fused(inputs: Sequence[LayerInput]) -> list[LayerOutput]:
    """Write and attend by kernels."""
    fused.write_tokens(
        [
            (call.plan, call.k, call.v)
            for call in inputs
            if call.k is not None and call.v is not None
        ]
    )
    attention = fused.Attention()
    num_rows = [
        0 if call.q is None else attention.add(call.plan, call.q, call.out_dtype or call.q.dtype)
        for call in inputs
    ]
    rows, outputs = iter(attention.run()), []
    for call, count in zip(inputs, num_rows, strict=True):
        if call.q is None or not count:
            outputs.append(_empty_output(call))
            continue
        outs, lses = zip(*islice(rows, count), strict=True)
        lse = fused.joined(lses) if call.return_lse else None
        outputs.append(LayerOutput(fused.joined(outs), lse, fused.name))
    return outputs


def _empty_output(call: LayerInput) -> LayerOutput:
    """Return the answer of an append, or of a call without queries."""
    if call.q is None:
        return LayerOutput()
    out = call.q.new_empty(*call.q.shape[:2], call.plan.group.value_dim, dtype=call.out_dtype)
    return LayerOutput(out, out.new_empty(call.q.shape[:2], dtype=torch.float32))


def _run_torch(inputs: Sequence[LayerInput], backend: str | None) -> list[LayerOutput]:
    """Write and attend by compiled code and operators of torch."""
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for number, call in enumerate(inputs):
        plan, has_tensors = call.plan, (call.q is None, call.k is None)
        key = id(plan.pool), plan.layer_in_group, plan.group, plan.dtype, call.out_dtype
        alike[(*key, *has_tensors)].append(number)
    together = [_joined([inputs[number] for number in same]) for same in alike.values()]
    for call in together:
        if call.k is not None and call.v is not None:
            write_tokens(call.plan, page_memory(call.plan.pool), call.k, call.v)
    batches: Batches = {}
    answers = [
        LayerOutput() if call.q is None else _attend(call, call.q, backend, batches)
        for call in together
    ]
    for batch in batches.values():
        batch.run()
    outputs = [LayerOutput()] * len(inputs)
    for same, answer in zip(alike.values(), answers, strict=True):
        for number, output in zip(same, _split([inputs[i] for i in same], answer), strict=True):
            outputs[number] = output
    return outputs


def _joined(calls: list[LayerInput]) -> LayerInput:
    """Return a call with the tokens of all calls."""
    if len(calls) == 1:
        return calls[0]
    return LayerInput(
        joined_plan([call.plan for call in calls]),
        joined_tensors([call.q for call in calls]),
        joined_tensors([call.k for call in calls]),
        joined_tensors([call.v for call in calls]),
        calls[0].out_dtype,
        any(call.return_lse for call in calls),
    )


def _split(calls: list[LayerInput], answer: LayerOutput) -> Iterator[LayerOutput]:
    """Yield the answer of each call of a joined one."""
    if len(calls) == 1 or answer.out is None:
        yield from [answer] * len(calls)
        return
    lengths = [0 if call.q is None else len(call.q) for call in calls]
    lses = [None] * len(calls) if answer.lse is None else torch.split(answer.lse, lengths)
    for call, out, lse in zip(calls, torch.split(answer.out, lengths), lses, strict=True):
        yield LayerOutput(out, lse if call.return_lse else None, answer.backend)


def _attend(call: LayerInput, q: Tensor, backend: str | None, batches: Batches) -> LayerOutput:
    """Attend from the queries of all rows of a plan, or add them to a batch that will."""
    plan, group, memory = call.plan, call.plan.group, page_memory(call.plan.pool)
    queries = Queries(q.contiguous(), plan)
    out_dtype = call.out_dtype or q.dtype
    out = torch.empty(*q.shape[:2], group.value_dim, dtype=out_dtype, device=q.device)
    lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
    sinks = (
        None if group.sinks is None else sinks_tensor(group.sinks[plan.layer_in_group], q.device)
    )
    key = id(plan.pool), plan.dtype, group.num_heads, group.attention, out_dtype, id(sinks)
    start, name = 0, ""
    for row in plan.rows:
        rows = slice(start, start + row.num_queries)
        start = rows.stop
        if not row.num_queries:
            continue
        if backend is None and q.is_cpu and can_attend(plan, row):
            if (batch := batches.get(key)) is None:
                batch = batches[key] = Batch(plan, memory, out_dtype, sinks)
            batch.add(plan, row, queries, rows, out, lse)
            name = COMPILED
        else:
            part = out[rows], lse[rows]
            name = attend_row(plan, memory, row, queries, rows, *part, sinks, backend) or name
    return LayerOutput(out, lse if call.return_lse else None, name)


def run_moves(plan: MovePlan) -> None:
    """Run the copies and the moves of a plan. Not to be run twice."""
    for pool, page_group in plan.clears:
        clear_page(pool, page_group)
    for copy in plan.copies:
        copy_page(copy)
    for move in plan.moves:
        run_move(move)
