"""Make a plan from a request that was read in the ordinary way."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from rope_core import Attend, Attended, Rotate, Rotated
from rope_core.attention_warnings import depends_on_lengths
from rope_core.calls import tensor_fields, with_fields
from service.endpoints.builders import PreparedCall
from service.endpoints.table import Endpoint, write
from service.inference.engine import Job
from service.inference.handler import InferenceHandler
from service.observability.request_log import describe_shapes
from service.planned.plan import (
    PLANNED_CALLS,
    POSITION_FIELDS,
    ParsedRequest,
    Plan,
    TensorSpan,
)
from service.planned.runners import runner_for
from service.wire import Message


def make_plan(
    handler: InferenceHandler,
    endpoint: Endpoint[Any],
    request: ParsedRequest,
    prefix: bytes,
    num_body_bytes: int,
    timeout_s: float,
) -> Plan | None:
    """Return the plan of a request, None if it can have none.

    Args:
        handler: reads requests in the ordinary way.
        endpoint: what the request asks for.
        request: the request. Its tensors are views of its body.
        prefix: header and description of the tensors, without identifiers.
        num_body_bytes: length of the body.
        timeout_s: how long the client waits.

    Raises:
        ServiceError, RopeError: the request is not valid.
    """
    message = request.message
    prepared = endpoint.read(message, handler.rope_resolver)
    if not isinstance(prepared, PreparedCall) or prepared.backend or prepared.is_bhsd:
        return None
    call = prepared.call
    if not isinstance(call, PLANNED_CALLS) or _depends_on_numbers(call, message):
        return None
    job = _job(handler, call, timeout_s)
    if max(num_body_bytes, job.answer_bytes) > handler.max_bytes(1):
        return None
    spans = _spans(message)
    runner = runner_for(call, job.backend, spans, handler.engine.device)
    if runner is not None:
        job = replace(job, batch_key=runner.batch_key)
    answer = write(_empty_result(call), prepared)
    answer_format = request.answer_format(answer)
    if answer_format is None:
        return None
    answer_bytes = sum(tensor.nbytes for tensor in answer.tensors.values())
    return Plan(
        prefix=prefix,
        num_bytes=sum(span.num_bytes for span in spans),
        timeout_s=timeout_s,
        num_body_bytes=num_body_bytes,
        charge_bytes=num_body_bytes + answer_bytes + job.scratch_bytes,
        max_outstanding_s=handler.batcher.load.max_outstanding_s(timeout_s - job.seconds),
        job=job,
        operation=type(call),
        operation_name=endpoint.operation,
        runner=runner,
        spans=spans,
        tensor_names=_unchecked_tensor_names(call, message),
        prepare=partial(endpoint.read, resolver=handler.rope_resolver),
        params=message.params,
        answer_format=answer_format,
        log_fields={
            "shapes": describe_shapes((span.name, span.dtype, span.shape) for span in spans),
            "bytes": num_body_bytes,
            "backend": job.backend or "auto",
        },
    )


def _job(handler: InferenceHandler, call: Rotate | Attend, timeout_s: float) -> Job:
    """Return keys and costs of all calls with these shapes, without the tensors of this one."""
    job = handler.engine.job(call, handler.backend_policy.choose(call, None), timeout_s)
    seconds = job.seconds
    if isinstance(call, Attend) and call.lengths is not None:  # at most as long as one sequence
        fields = ("cu_seqlens_q", "cu_seqlens_k", "lengths")
        seconds = handler.engine.job(with_fields(call, dict.fromkeys(fields))).seconds
    without_numbers = with_fields(call, dict.fromkeys(tensor_fields(call)))
    return replace(job, call=without_numbers, seconds=seconds)


def _depends_on_numbers(call: Rotate | Attend, message: Message) -> bool:
    """Tell whether the numbers in tensors decide more than the numbers of the answer."""
    if any(tensor.dtype is torch.bool for tensor in message.tensors.values()):
        return True  # their bytes are checked when a message is read
    if isinstance(call, Attend) and depends_on_lengths(call):
        return True
    rope = call.rope
    if rope is None:
        return False
    return rope.arithmetic != "float64" or rope.depends_on_length


def _unchecked_tensor_names(call: Rotate | Attend, message: Message) -> dict[str, str] | None:
    """Return the name of the tensor for each field of a call; None if numbers may be invalid."""
    names = {id(tensor): name for name, tensor in message.tensors.items()}
    by_field: dict[str, str] = {}
    for field, tensor in tensor_fields(call).items():
        is_valid = field in ("q", "k", "v")
        if field in POSITION_FIELDS:
            has_limits = call.rope is not None and call.rope.whole_positions
            is_valid = not (has_limits or tensor.dtype.is_floating_point)
        if not is_valid or id(tensor) not in names:
            return None
        by_field[field] = names[id(tensor)]
    return by_field


def _spans(message: Message) -> tuple[TensorSpan, ...]:
    """Return where the tensors of a message lie, one behind the other."""
    spans, offset = [], 0
    for name, tensor in message.tensors.items():
        spans.append(TensorSpan(name, tensor.dtype, tuple(tensor.shape), offset, tensor.nbytes))
        offset += tensor.nbytes
    return tuple(spans)


def _empty_result(call: Rotate | Attend) -> Rotated | Attended:
    """Return a result of the shapes and dtypes of the result of a call, uninitialised."""
    if isinstance(call, Rotate):
        q, k = (
            None if x is None else torch.empty(x.shape, dtype=x.dtype) for x in (call.q, call.k)
        )
        return Rotated(q, k)
    shape, dtype = call.q.shape[:-1], call.out_dtype or call.q.dtype
    out = torch.empty(*shape, call.v.shape[-1], dtype=dtype)
    return Attended(out, torch.empty(shape, dtype=torch.float32) if call.return_lse else None)
