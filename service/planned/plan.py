"""A plan: what the header of a request determines, and a request that follows one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from rope_core import Attend, Call, Result, Rotate
from rope_core.calls import tensor_fields, with_fields
from rope_core.calls.rope_checks import check_position_values
from service.access.keys import NO_KEYS, Keys
from service.access.tenant import ANONYMOUS, Tenant
from service.asgi.problems import ErrorAnswer
from service.batching.call_queue import Entry
from service.batching.run import Completed
from service.endpoints.builders import PreparedCall
from service.inference.engine import Job, Runner
from service.oip.statistics import Statistics
from service.slab_pool import Slab
from service.wire import Buffer, Message, Parameters
from service.wire.elements import view_as_bytes, view_as_tensor

Parts = Sequence[Buffer]
"""The bytes of each tensor of an answer, in the order of the answer."""


POSITION_FIELDS = frozenset(("positions", "q_positions", "k_positions"))

PLANNED_CALLS = (Rotate, Attend)
"""Calls that a request with a plan may have."""


@dataclass(slots=True)
class PlannedResult:
    """What a runner returns for a call."""

    parts: Parts
    backend: str
    """Name of the backend that computed."""


class Description(NamedTuple):
    """What a request says of its tensors, before their bytes."""

    text: bytes
    """As the client sent it, without `message_id`."""
    message_id: bytes
    """The client's name of the request within the body (`id` of `/v2`); empty if there is none."""
    num_bytes: int
    """Bytes of the body before those of the tensors. If fewer bytes of the body have arrived, this
    is a lower bound."""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """What is equal in all answers of a plan."""

    route: str
    """The route's name in metrics."""
    header_lines: bytes
    """Type and length of the body."""
    preamble: bytes
    """The body before the bytes of the tensors."""
    describe_failure: Callable[[Exception], ErrorAnswer]
    """Returns the answer to a failure."""
    with_id: Callable[[bytes], tuple[bytes, bytes]] | None = None
    """Returns `header_lines` and `preamble` for a request with a `message_id`."""
    statistics: Statistics | None = None
    """Counts the requests to a model of `/v2`."""


class ParsedRequest(NamedTuple):
    """The message of a request, and the format of the answers to requests with its description."""

    message: Message
    answer_format: Callable[[Message], AnswerFormat | None]
    """Returns the format of answers whose tensors have these names, shapes and dtypes; None: an
    answer has some of the tensors only, or has them in another order."""


class TensorSpan(NamedTuple):
    """Where a tensor lies in the body, behind the description of the tensors."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What the header of a request and the description of its tensors determine."""

    prefix: bytes
    """Header and description as the client sends them, without identifiers and `message_id`."""

    num_bytes: int
    """Bytes of the tensors, which follow `prefix`."""

    timeout_s: float
    num_body_bytes: int
    """Declared length of the body."""
    charge_bytes: int
    """Memory of a request and of its answer."""

    max_outstanding_s: float
    """Outstanding work, in seconds, above which a request is checked, see
    `LoadEstimate.max_outstanding_s`; negative: each request is checked."""

    job: Job
    """Costs and keys of each call. The tensors of its own call are None."""

    operation: type[Call]
    operation_name: str
    """Name of the operation in metrics."""
    runner: Runner | None
    """Runs batches of calls of one kind; None: they are run as all others."""

    spans: tuple[TensorSpan, ...]

    tensor_names: Mapping[str, str] | None
    """Name of the tensor for each field of the call; None: `prepare` must check its numbers."""

    prepare: Callable[[Message], PreparedCall | Message]
    """Returns the call of a message; checks its numbers."""

    params: Parameters
    answer_format: AnswerFormat
    log_fields: Mapping[str, object]
    """Log fields of requests that fail: shapes, bytes, backend."""

    tenant: Tenant = ANONYMOUS
    """Tenant of the requests: the header has its key."""
    keys: Keys = NO_KEYS
    """The keys that gave the tenant. The plan is stale when the gate has others."""

    def build_call(self, body: memoryview) -> Call:
        """Return the call whose tensors are views of a body.

        Raises:
            RopeError: a tensor's numbers do not fit.
        """
        tensors = {
            name: view_as_tensor(body, dtype, shape, offset)
            for name, dtype, shape, offset, _ in self.spans
        }
        if self.tensor_names is not None:
            for field, name in self.tensor_names.items():
                if field in POSITION_FIELDS:
                    check_position_values(name, tensors[name], None)
            return with_fields(
                self.job.call, {field: tensors[name] for field, name in self.tensor_names.items()}
            )
        prepared = self.prepare(Message(tensors, self.params))
        assert isinstance(prepared, PreparedCall), "a plan is made for calls of the device"
        return prepared.call


class PlannedJob:
    """The call of a planned request, as the batcher and the engine need it."""

    __slots__ = (
        *("answer_bytes", "backend", "batch_key", "kind", "num_bytes", "num_tokens", "operation"),
        *("pack_key", "plan", "runner", "seconds", "slab"),
    )

    def __init__(self, plan: Plan, slab: Slab) -> None:
        job = plan.job
        self.plan = plan
        self.slab = slab
        self.operation = plan.operation
        self.runner: Any = plan.runner
        self.batch_key = job.batch_key
        self.pack_key = job.pack_key
        self.num_tokens = job.num_tokens
        self.num_bytes = job.num_bytes
        self.answer_bytes = job.answer_bytes
        self.seconds = job.seconds
        self.backend = job.backend
        self.kind = job.kind

    @property
    def call(self) -> Call:
        """The call; its tensors are views of the slab."""
        return self.plan.build_call(self.slab.memory)


@dataclass(slots=True, eq=False)
class PlannedEntry(Entry[Any, Any]):
    """A planned request in the queue, on the device, or with its answer on the way."""

    charged_bytes: int
    """Its share of the memory budget."""

    send_answer: Callable[["PlannedEntry", Completed[Any] | Exception], None]
    """Sends the answer; called once. It raises no exception."""

    request_id: str
    """The client's `x-request-id`, or a new one."""

    message_id: bytes
    """As in `Description`."""

    identifiers: Mapping[bytes, bytes]
    """Fields of the header that differ in each request, by name, such as `traceparent`."""

    is_answered: bool = field(default=False, init=False)
    backend_call: tuple[str, str] | None = field(default=None, init=False)
    """Operation and backend, once the call is computed."""
    failure: Mapping[str, object] | None = field(default=None, init=False)
    """Log fields of a request that has failed."""

    def resolve(self, outcome: Completed[Any] | Exception) -> None:
        """Answer the request, unless it is answered."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.is_answered:
            self.is_answered = True
            self.send_answer(self, outcome)


def answer_parts(result: Result | PlannedResult) -> Parts:
    """Return the tensors of a result as bytes."""
    if isinstance(result, PlannedResult):
        return result.parts
    return [view_as_bytes(tensor.contiguous()) for tensor in tensor_fields(result).values()]
