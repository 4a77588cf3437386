"""Run a parsed request by the service's one handler, whatever format it came in."""

from collections.abc import Awaitable

from service.inference.handler import RequestContext, Served
from service.oip.infer.models import EndpointModel, Model
from service.oip.infer.plan import InferPlan, InferRequest
from service.oip.sequences import Place
from service.oip.state import OipState
from service.wire import json_codec

INLINE_WRITE_BYTES = json_codec.inline_limit_bytes
"""Larger answers are written on a thread, except where writing them copies nothing."""


async def run_model(
    oip_state: OipState,
    model: Model,
    context: RequestContext,
    reading: Awaitable[InferRequest],
    place: Place | None = None,
) -> tuple[str, InferPlan, Served]:
    """Return a request's id, its plan and its answer.

    Args:
        oip_state: has what answers requests of all protocols.
        model: the model that the request names.
        context: of the request.
        reading: returns the request. This function awaits it, so that no caller holds the tensors.
        place: of the request in its stream; None: it is not in a stream.

    Raises:
        ServiceError, RopeError: the request cannot be answered.
    """
    request_id, plan, message, sequence = await reading
    context.charge.add(plan.region_bytes)
    memory_factor, queue_s = plan.memory_factor, plan.queue_s
    if isinstance(model, EndpointModel):
        handler = oip_state.handler
        served = await handler.infer(model.endpoint, message, context, memory_factor, queue_s)
    else:
        assert sequence is not None, "the parser has read it"
        sequences = oip_state.sequences
        served = await sequences.run(sequence, message, context, memory_factor, place)
    return request_id, plan, served
