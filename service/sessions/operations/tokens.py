"""Append, attend, and step: both in one run."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core.kvcache.run import LayerOutput
from service.errors import TimedOut
from service.sessions.errors import OperationTimedOut
from service.sessions.lifetime.session import Session
from service.sessions.operations.token_plan import commit_plan, decide, payload_digests, plan
from service.sessions.operations.token_request import (
    TokenOperation,
    TokenRequest,
    read_request,
)
from service.sessions.requests.layout import layout_of
from service.sessions.running.answer import NO_MESSAGE, NO_TENSORS, SessionAnswer
from service.sessions.running.call import SessionCall
from service.sessions.running.jobs import make_jobs
from service.sessions.running.runner import PlannedOperation

INLINE_DIGEST_BYTES = 2**20
"""Most bytes of new keys and values whose digests are computed on the event loop: 0.1 ms."""


async def run(call: SessionCall, kind: TokenOperation) -> SessionAnswer:
    """Append, attend or step.

    Raises:
        SessionError, ServiceError, RopeError: the session is unchanged.
    """
    session = call.session
    if kind.appends:
        call.check_not_frozen()
    layout, dtype = layout_of(session), session.cache.config.dtype
    request = read_request(call.message, layout, dtype, kind, call.services.choose_backend)
    call.message = NO_MESSAGE  # the tensors are freed when the call has run
    layers, shape = request.layers, OutputShape.of(request)
    num_bytes = request.answer_bytes
    call.services.charge(call.context, num_bytes, call.memory_factor)
    turn = await call.take_turn(changes=kind.appends)
    try:
        payloads = None
        if request.appended_bytes > INLINE_DIGEST_BYTES:
            inference, deadline = call.services.inference, call.context.deadline
            try:
                payloads = await inference.to_thread(deadline, payload_digests, request.tokens)
            except TimedOut:
                raise OperationTimedOut(committed=False) from None
            session.check_alive()
        decision = decide(session, request, payloads)
        if decision.is_repeat:
            call.services.metrics.session_repeats.inc()
        is_done = not sum(request.tokens.num_tokens) or (decision.is_repeat and not kind.attends)
        if is_done:
            turn.release()
            state = state_of(session, kind, layers, has_layers=request.has_layers)
            return call.answer(state, shape.empty(request, dtype) if kind.attends else NO_TENSORS)
        registry = call.services.registry
        inputs, pending = await call.services.offload.with_room(
            partial(plan, registry, session, request, decision), call.context
        )
    except BaseException:
        turn.release()
        raise
    values: dict[str, Any] = {}

    def commit() -> None:
        commit_plan(session, pending, layers, decision)
        values.update(state_of(session, kind, layers, has_layers=shape.has_layers))

    operation = PlannedOperation(
        turn, commit, lambda: session.cache.discard(pending), changes=kind.appends
    )
    jobs = make_jobs(inputs, request.batch_key, call.services.runner, request.backend)
    del inputs, request
    outputs, completed = await call.services.run(jobs, operation, call.context)
    tensors = shape.tensors(outputs) if kind.attends else NO_TENSORS
    return call.answer(
        values, tensors, num_bytes=num_bytes, completed=completed, backend=outputs[0].backend
    )


def state_of(
    session: Session, kind: TokenOperation, layers: Sequence[int], *, has_layers: bool
) -> dict[str, Any]:
    """Return the parameters of an answer: lengths of the layers of an append, else the session's.

    Args:
        session: after the operation.
        kind: the operation.
        layers: of the request.
        has_layers: whether the request has a list of layers.
    """
    cache = session.cache
    generation = cache.generation
    if not kind.appends:
        return {"length": [*cache.length], "generation": generation}
    if has_layers:
        lengths = [[*cache.lengths(layer)] for layer in layers]
        return {"lengths": lengths, "generation": generation}
    return {"length": [*cache.lengths(layers[0])], "generation": generation}


class OutputShape(NamedTuple):
    """The shape of out and lse, as that of q."""

    lead: tuple[int, ...]
    has_layers: bool

    @classmethod
    def of(cls, request: TokenRequest) -> "OutputShape":
        """Return the shape of the answer to a request."""
        return cls(request.tokens.lead, request.has_layers)

    def tensors(self, outputs: Sequence[LayerOutput]) -> dict[str, Tensor]:
        """Return the tensors of an answer."""
        tensors = {}
        for name in ("out", "lse"):
            layers = [x for each in outputs if (x := getattr(each, name)) is not None]
            if layers:
                x = torch.stack(layers) if self.has_layers else layers[0]
                tensors[name] = x.reshape(*self.lead, *layers[0].shape[1:])
        return tensors

    def empty(self, request: TokenRequest, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the tensors of an answer without queries."""
        heads, width = request.group.num_heads, request.group.value_dim
        tensors = {"out": torch.empty(*self.lead, heads, width, dtype=request.out_dtype or dtype)}
        if request.return_lse:
            tensors["lse"] = torch.empty(*self.lead, heads)
        return tensors
