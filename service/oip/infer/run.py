"""Run a parsed request by the service's one handler, whatever format it came in."""

from collections.abc import Awaitable

from rope_core import ShapeError
from service.batching.admission import Charge
from service.inference.handler import Disconnected, InferenceHandler, Served
from service.oip.infer.models import Model
from service.oip.infer.plan import InferPlan, InferRequest
from service.wire import json_codec

INLINE_WRITE_BYTES = json_codec.inline_limit_bytes
"""Larger answers are written on a thread, except where writing them copies nothing."""


async def run_model(
    handler: InferenceHandler,
    model: Model,
    reading: Awaitable[InferRequest],
    *,
    deadline: float,
    charge: Charge,
    disconnected: Disconnected | None = None,
) -> tuple[str, InferPlan, Served]:
    """Return a request's id, its plan and its answer.

    Args:
        handler: runs requests of all protocols.
        model: the model that the request names.
        reading: returns the request. It is awaited here so that no caller keeps its tensors.
        deadline: as for `InferenceHandler.infer`.
        charge: likewise.
        disconnected: likewise.

    Raises:
        ServiceError, RopeError: the request cannot be answered.
    """
    request_id, plan, message = await reading
    charge.add(plan.region_bytes)
    serving = handler.infer(
        model.endpoint,
        message,
        deadline=deadline,
        charge=charge,
        memory_factor=plan.memory_factor,
        queue_s=plan.queue_s,
        disconnected=disconnected,
    )
    del message  # the handler frees the tensors as soon as the call has run
    try:
        return request_id, plan, await serving
    except ShapeError as failure:
        raise model.with_input_name(failure) from None
