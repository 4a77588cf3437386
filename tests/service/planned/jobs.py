"""Jobs of planned calls, as a connection makes them, without a connection."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from rope_core import Call
from rope_core.calls import tensor_fields
from service.buffer_pool import BufferPool
from service.device import Cpu
from service.endpoints.builders import PreparedCall
from service.inference.engine import Engine
from service.planned.plan import Plan, PlannedJob, TensorSpan, answer_parts
from service.planned.runners import runner_for
from service.slab_pool import SlabPool
from service.wire.elements import view_as_bytes

ENGINE = Engine(Cpu(BufferPool(2**28)), max_call_s=60)
SLABS = SlabPool()


def plan_of(call: Call, tensors: Mapping[str, Tensor] | None = None) -> Plan:
    """Return the plan of calls like `call`; `tensors` are those of its request, in their order."""
    tensors = tensor_fields(call) if tensors is None else tensors
    spans, offset = [], 0
    for name, tensor in tensors.items():
        spans.append(TensorSpan(name, tensor.dtype, tuple(tensor.shape), offset, tensor.nbytes))
        offset += tensor.nbytes
    job = ENGINE.job(call)
    runner = runner_for(job, spans, ENGINE.device)
    if runner is not None:
        job = replace(job, batch_key=runner.batch_key)

    def prepare(tensors: dict[str, Tensor]) -> PreparedCall:
        if "positions" in tensors and not hasattr(call, "positions"):
            tensors["q_positions"] = tensors["k_positions"] = tensors.pop("positions")
        if "cu_seqlens" in tensors and not hasattr(call, "cu_seqlens"):
            tensors["cu_seqlens_q"] = tensors["cu_seqlens_k"] = tensors.pop("cu_seqlens")
        return PreparedCall(replace(call, **tensors))

    return Plan(b"", offset, 1.0, 0, job, runner, tuple(spans), prepare, SimpleNamespace())


def job_of(plan: Plan, tensors: Mapping[str, Tensor]) -> PlannedJob:
    """Return a job whose slab has the tensors of a request."""
    slab = SLABS.lease(max(1, plan.num_bytes))
    for span in plan.spans:
        part = view_as_bytes(tensors[span.name].contiguous())
        slab.memory[span.offset : span.offset + span.num_bytes] = part
    return PlannedJob(plan, slab)


def run(jobs: Sequence[PlannedJob]) -> list[bytes | Exception]:
    """Run jobs as one batch; return the bytes of each answer."""
    assert len({id(job.batch_key) for job in jobs}) == 1
    results = ENGINE.run(jobs).results
    return [
        result if isinstance(result, Exception) else b"".join(map(bytes, answer_parts(result)))
        for result in results
    ]


def answer_of(result: object) -> bytes:
    """Return the bytes of an answer of the library."""
    return b"".join(bytes(part) for part in answer_parts(result))


def clone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.clone(tensor) for name, tensor in tensors.items()}
