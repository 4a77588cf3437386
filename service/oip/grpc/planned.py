"""Planned requests over gRPC: all of the message but its tensors was seen before."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from grpc import StatusCode

from rope_core import RopeError
from service.batching.admission import Charge
from service.batching.call_queue import Entry
from service.batching.run import Completed
from service.errors import ClientLeft, ServiceError, TimedOut
from service.oip import errors, validate
from service.oip.grpc import codec
from service.oip.grpc.errors import status_of
from service.oip.grpc.messages import METHODS
from service.oip.grpc.protobuf_wire import (
    SplitRequest,
    join_response,
    raw_input_tag,
    split_request,
)
from service.oip.grpc.rpc import Rpc
from service.oip.infer.models import EndpointModel, Model
from service.oip.infer.plan import MAX_HEADER_BYTES, InferPlan
from service.oip.state import OipState
from service.oip.statistics import DEADLINE_TOLERANCE_S
from service.planned.make_plan import make_plan
from service.planned.plan import AnswerFormat, ParsedRequest, Plan, PlannedJob, answer_parts
from service.planned.planner import MAX_PLANS
from service.wire import Buffer, Message

MAX_PLANNED_BYTES = 2**20
"""Longest request and answer. Their tensors are copied on the event loop."""

_ROUTE = METHODS["ModelInfer"].path

Key = tuple[bytes, ...]
"""A message without its id and its raw tensors, then the tag and length of each raw tensor."""


class ModelPlan(NamedTuple):
    """The plan of requests to a model."""

    model: Model
    plan: Plan


class Layout(NamedTuple):
    """Where the parts of a message without an id are; most messages of its length are alike."""

    model_plan: ModelPlan
    fixed: Sequence[tuple[int, bytes]]
    """Offset and bytes of each part that is not a tensor."""
    raw: Sequence[slice]
    """Where the raw tensors are."""


@dataclass(slots=True, eq=False)
class RpcEntry(Entry[Any, Any]):
    """A planned request in the queue or on the device."""

    planned: "PlannedInfer"
    rpc: Rpc
    model: Model
    message_id: str
    """The client's name of the request; empty if there is none."""
    is_answered: bool = field(default=False, init=False)

    def resolve(self, outcome: Completed[Any] | Exception) -> None:
        """Answer the request, unless it is answered."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.is_answered:
            self.is_answered = True
            try:
                self.planned.answer(self, outcome)
            except Exception as failure:  # the other calls of the batch must be answered
                self.rpc.finish(None, *status_of(failure))

    def cancel(self) -> None:
        """Withdraw the call: its client has left, or the deadline has passed."""
        is_late = time.monotonic() >= self.deadline - DEADLINE_TOLERANCE_S
        self.planned.batcher.withdraw(self, TimedOut() if is_late else ClientLeft())


class PlannedInfer:
    """Answers requests that have a plan, without a task."""

    def __init__(self, oip_state: OipState) -> None:
        self._handler = oip_state.handler
        self._parser = oip_state.parser
        self._repository = oip_state.repository
        self._statistics = oip_state.statistics
        self.batcher = oip_state.handler.batcher
        self._slab_pool = oip_state.handler.slab_pool
        self._seen: set[Key] = set()
        self._plans: dict[Key, ModelPlan | None] = {}
        self._layouts: dict[int, Layout] = {}  # by length of the message

    def begin(self, rpc: Rpc, body: bytes) -> bool:
        """Begin to answer a request; return False if it must be answered the ordinary way.

        Raises:
            Overloaded: it would wait for too long.
        """
        layout = self._layouts.get(len(body))
        if layout is not None and all(body.startswith(text, at) for at, text in layout.fixed):
            view = memoryview(body)
            return self._submit(rpc, layout.model_plan, "", [view[span] for span in layout.raw])
        if len(body) > MAX_PLANNED_BYTES:
            return False
        try:
            split = split_request(body)
        except (DecodeError, ServiceError):
            return False
        if len(split.id) > validate.MAX_NAME_LENGTH or codec.is_of_sequence(split.header):
            return False
        model_plan = self._find(split, body)
        return model_plan is not None and self._submit(rpc, model_plan, split.id, split.raw)

    def _submit(
        self, rpc: Rpc, model_plan: ModelPlan, message_id: str, raw: Sequence[memoryview]
    ) -> bool:
        """Put a request into the queue; return False if it was refused.

        Raises:
            Overloaded: it would wait for too long.
        """
        handler, (model, plan) = self._handler, model_plan
        arrived, deadline = time.monotonic(), handler.deadline(rpc.time_remaining())
        try:
            self.batcher.check(deadline, rpc.tenant, plan.job)
        except ServiceError as refusal:
            self._statistics[model.name].add_failure(refusal, arrived)
            rpc.log_fields |= plan.log_fields
            raise
        charge = Charge(handler.admission, rpc.tenant)
        try:
            # input: the message, freed when this function returns, and its tensors in a slab;
            # output: the tensors and their message, then the message and the core's copy of it
            charge.add(plan.charge_bytes + plan.job.answer_bytes)
            slab = self._slab_pool.lease(plan.num_bytes)
        except ServiceError:  # no memory: the ordinary way answers with the error
            charge.release()
            return False
        for span, piece in zip(plan.spans, raw, strict=True):
            slab.memory[span.offset : span.offset + span.num_bytes] = piece
        entry = RpcEntry(
            PlannedJob(plan, slab),
            arrived,
            deadline,
            self,
            rpc,
            model,
            message_id,
            tenant=rpc.tenant,
        )
        try:
            self.batcher.enqueue(entry)
        except ServiceError:
            charge.release()
            return False
        rpc.on_cancel = entry.cancel
        rpc.add_done_callback(charge.release)
        return True

    def answer(self, entry: RpcEntry, outcome: Completed[Any] | Exception) -> None:
        """Send the answer of a request."""
        write_started = time.monotonic()
        plan, model, rpc = entry.call.plan, entry.model, entry.rpc
        statistics = self._statistics[model.name]
        if isinstance(outcome, Exception):
            statistics.add_failure(outcome, entry.arrived)
            rpc.log_fields |= plan.log_fields
            rpc.finish(None, *status_of(outcome))
            return
        self._handler.metrics.backend_calls(plan.operation_name, outcome.result.backend).inc()
        raw = answer_parts(outcome.result)
        rpc.finish(
            b"".join(join_response(plan.answer_format.preamble, entry.message_id, raw)),
            StatusCode.OK,
        )
        statistics.add_success(outcome, entry.arrived, write_started)

    def _find(self, split: SplitRequest, body: bytes) -> ModelPlan | None:
        """Return the plan of a request; it is made from the second request with its key."""
        if len(split.header) > MAX_HEADER_BYTES:
            return None
        tags = [raw_input_tag(len(piece)) for piece in split.raw]
        key = (split.header, *tags)
        if key in self._plans:
            model_plan = self._plans[key]
            if model_plan is not None and not split.id:
                self._keep_layout(model_plan, split, tags, body)
            return model_plan
        if key not in self._seen:
            _make_room(self._seen)
            self._seen.add(key)
            return None
        try:
            model_plan = self._make(split, body)
        except (DecodeError, ServiceError, RopeError):
            return None  # the next request with this key may have numbers that fit
        _make_room(self._plans)
        self._plans[key] = model_plan
        return model_plan

    def _make(self, split: SplitRequest, body: bytes) -> ModelPlan | None:
        """Return the plan of a request, None if it can have none.

        Raises:
            DecodeError, ServiceError, RopeError: the request is not valid.
        """
        parsed = codec.parse(split)
        message = parsed.message
        model = self._repository.find(message.model_name, message.model_version)
        if not isinstance(model, EndpointModel):
            return None
        request = codec.decode(model, self._parser, parsed)
        infer_plan, parser = request.plan, self._parser
        is_plain = parser.has_plain_tensors(model, split.header, infer_plan)
        if infer_plan.queue_s is not None or not is_plain:
            return None
        parsed_request = ParsedRequest(
            request.message, partial(self._answer_format, model, infer_plan)
        )
        timeout_s = self._handler.settings.default_timeout_s  # each RPC has a deadline of its own
        plan = make_plan(
            self._handler, model.endpoint, parsed_request, split.header, len(body), timeout_s
        )
        if plan is None or plan.job.answer_bytes > MAX_PLANNED_BYTES:
            return None
        return ModelPlan(model, plan)

    def _answer_format(self, model: Model, plan: InferPlan, answer: Message) -> AnswerFormat | None:
        if not plan.is_whole(answer):
            return None
        header: Buffer = codec.encode(model, "", plan, answer, {})[0]
        return AnswerFormat(_ROUTE, b"", bytes(header), errors.describe)

    def _keep_layout(
        self, model_plan: ModelPlan, split: SplitRequest, tags: Sequence[bytes], body: bytes
    ) -> None:
        """Keep the layout of a message whose raw tensors follow all other parts."""
        fixed = [(0, split.header)]
        raw: list[slice] = []
        end = len(split.header)
        for tag, piece in zip(tags, split.raw, strict=True):
            fixed.append((end, tag))
            start = end + len(tag)
            end = start + len(piece)
            raw.append(slice(start, end))
        if end == len(body) and all(body.startswith(text, at) for at, text in fixed):
            _make_room(self._layouts)
            self._layouts[len(body)] = Layout(model_plan, fixed, raw)


def _make_room(cache: set[Any] | dict[Any, Any]) -> None:
    """Clear a cache that is full."""
    if len(cache) >= MAX_PLANS:
        cache.clear()
