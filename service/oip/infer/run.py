"""Run a parsed request by the service's one handler, whatever format it came in."""

from collections.abc import Awaitable

from service.inference.handler import InferenceHandler, RequestContext, Served
from service.oip.infer.models import Model
from service.oip.infer.plan import InferPlan, InferRequest
from service.wire import json_codec

INLINE_WRITE_BYTES = json_codec.inline_limit_bytes
"""Larger answers are written on a thread, except where writing them copies nothing."""


async def run_model(
    handler: InferenceHandler,
    model: Model,
    context: RequestContext,
    reading: Awaitable[InferRequest],
) -> tuple[str, InferPlan, Served]:
    """Return a request's id, its plan and its answer.

    Args:
        handler: answers requests of all protocols.
        model: the model that the request names.
        context: of the request.
        reading: returns the request. This function awaits it, so that no caller holds the tensors.

    Raises:
        ServiceError, RopeError: the request cannot be answered.
    """
    request_id, plan, message = await reading
    context.charge.add(plan.region_bytes)
    memory_factor, queue_s = plan.memory_factor, plan.queue_s
    served = await handler.infer(model.endpoint, message, context, memory_factor, queue_s)
    return request_id, plan, served
