"""Step tokens of many sessions in one run: `POST /v1/step`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch

from rope_core import ConfigError, RopeError, ShapeError
from rope_core.kvcache.cache import Pending
from rope_core.kvcache.errors import KVCacheError
from rope_core.kvcache.run import LayerInput, LayerOutput
from service.asgi.problems import problem_for
from service.batching.run import Completed
from service.errors import ServiceError
from service.inference.handler import RequestContext
from service.sessions.errors import Frozen, KVMemoryFull, SessionError
from service.sessions.lifetime.session import Session
from service.sessions.lifetime.turns import Turn
from service.sessions.operations.step_many_request import Packed, read_packed_request
from service.sessions.operations.token_plan import Decision, commit_plan, decide, plan
from service.sessions.operations.token_request import STEP, TokenRequest
from service.sessions.requests.layout import layout_of
from service.sessions.requests.tensors import read_packed
from service.sessions.running.answer import SessionAnswer, message_of
from service.sessions.running.call import SessionServices, wait_for
from service.sessions.running.jobs import make_jobs
from service.sessions.running.runner import PlannedOperation
from service.sessions.running.translate import translate
from service.wire import Message


@dataclass(slots=True)
class Part:
    """The part of a request that is for one session, and its result."""

    session_id: str
    session: Session | None = None
    rows: list[int] = field(default_factory=list)
    """Tokens of each of its rows."""
    tokens: slice = field(default_factory=lambda: slice(0))
    """Its tokens in the request."""
    layer: int = 0
    decision: Decision | None = None
    pending: Pending | None = None
    result: dict[str, Any] = field(default_factory=dict)

    def fail(self, error: Exception) -> None:
        """Make an error the result of one session; the others go on."""
        if isinstance(error, KVCacheError):
            error = translate(error, self.session)
        problem = problem_for(error)
        document = {"status": problem.status, "code": problem.code, "detail": problem.detail}
        self.result = {"session": self.session_id, **document, **problem.members}

    def commit(self) -> None:
        """Commit the plan, and put the new lengths into the result."""
        assert self.session is not None, "the part was planned"
        assert self.pending is not None, "the part was planned"
        assert self.decision is not None, "the part was planned"
        commit_plan(self.session, self.pending, [self.layer], self.decision)
        cache = self.session.cache
        state = {"length": cache.lengths(self.layer), "generation": cache.generation}
        self.result = {"session": self.session_id, "status": 200, **state}

    def discard(self) -> None:
        """Give the pages of the plan back."""
        if self.session is not None and self.pending is not None:
            self.session.cache.discard(self.pending)


async def run(
    services: SessionServices, message: Message, context: RequestContext, memory_factor: int
) -> SessionAnswer:
    """Append and attend for many sessions; one that is refused does not fail the others.

    Raises:
        ServiceError, RopeError: the request cannot be read or run; all sessions are unchanged.
    """
    packed = read_packed_request(message, services)
    del message
    parts = _find_all(services, packed, context)
    shape = _AnswerShape.of(packed)
    services.charge(context, shape.num_bytes, memory_factor)
    turn = Turn([part.session.turns for part in parts if part.session is not None])
    if not turn.is_held:
        await wait_for(turn, context)
    try:
        restore_s = await _restore_all(services, parts, turn, context)
        key, inputs = await _plan_all(services, packed, parts, context)
        planned = [part for part in parts if part.pending is not None]
        if not planned:
            turn.release()
            return shape.answer(parts, [], [], None)._replace(restore_s=restore_s)
        jobs = make_jobs(inputs, key, services.runner, packed.backend)
    except BaseException:
        for part in parts:
            part.discard()
        turn.release()
        raise
    del inputs, packed

    def commit() -> None:
        for part in planned:
            part.commit()

    def discard() -> None:
        for part in planned:
            part.discard()

    operation = PlannedOperation(turn, commit, discard)
    outputs, completed = await services.run(jobs, operation, context)
    return shape.answer(parts, planned, outputs, completed)._replace(restore_s=restore_s)


async def _restore_all(
    services: SessionServices, parts: Sequence[Part], turn: Turn, context: RequestContext
) -> float:
    """Let the pages of offloaded sessions come back to the device; return the seconds it took."""
    seconds = 0.0
    for part in parts:
        session = part.session
        if session is None or session.ended or session.cache.bytes_to_restore is None:
            continue
        try:
            seconds += await services.offload.restore(session, turn, context)
        except KVMemoryFull as error:
            part.fail(error)
            part.session = None
    return seconds


def _find_all(services: SessionServices, packed: Packed, context: RequestContext) -> list[Part]:
    """Return a part for each session, with the tokens of its rows.

    Raises:
        ConfigError: the rows of the sessions are not those of cu_seqlens.
    """
    parts = []
    for session_id in packed.session_ids:
        part = Part(session_id)
        try:
            part.session = services.registry.find(session_id, context.tenant)
        except SessionError as error:
            part.fail(error)
        parts.append(part)
    num_rows = len(packed.row_lengths)
    num_known = sum(part.session.cache.batch for part in parts if part.session is not None)
    missing = [part for part in parts if part.session is None]
    # a single missing session gets the rows that the others leave; several get one row each
    each = num_rows - num_known if len(missing) == 1 else 1
    if num_known + each * len(missing) != num_rows or each < 0:
        got = f"{num_rows} sequences for {num_known} rows"
        raise ConfigError("cu_seqlens", "as many sequences as the sessions have rows", got)
    bounds = [0, *accumulate(packed.row_lengths)]
    row = 0
    for part in parts:
        rows = each if part.session is None else part.session.cache.batch
        part.tokens = slice(bounds[row], bounds[row + rows])
        part.rows = packed.row_lengths[row : row + rows]
        row += rows
    return parts


async def _plan_all(
    services: SessionServices, packed: Packed, parts: Sequence[Part], context: RequestContext
) -> tuple[str, list[LayerInput]]:
    """Plan all parts that can be; return their batch key and their inputs."""
    key, all_inputs = "", list[LayerInput]()
    for index, part in enumerate(parts):
        session = part.session
        if session is None:
            continue
        try:
            session.check_alive()
            if session.is_frozen:
                raise Frozen
            request = _request(packed, index, part, session)
            if key and request.batch_key != key:
                expected = "of the same heads, dtype and attention as the others"
                raise ConfigError("sessions", expected, "another")
            part.layer = request.layers[0]
            part.decision = decide(session, request)
            if part.decision.is_repeat:
                services.metrics.session_repeats.inc()
            inputs, part.pending = await services.offload.with_room(
                partial(plan, services.registry, session, request, part.decision), context
            )
        except (ServiceError, RopeError) as error:
            part.fail(error)
            continue
        key = request.batch_key
        all_inputs += inputs
    return key, all_inputs


def _request(packed: Packed, index: int, part: Part, session: Session) -> TokenRequest:
    """Return the request of one session.

    Raises:
        ConfigError, ShapeError: its layer or its tensors do not fit.
    """
    layout = layout_of(session)
    layer = packed.layers[index]
    if layer is None:
        if len(layout.groups) > 1:
            expected = f"given: the session has {len(layout.groups)} layers"
            raise ConfigError("layer", expected, "none")
        layer = 0
    group = layout.group_of([layer])
    tokens, tensors = part.tokens, packed.tensors
    positions = tensors.get("positions")
    parts = {name: tensors[name][tokens] for name in ("q", "k", "v")}
    if positions is not None:
        parts["positions"] = positions[..., tokens]
    dtype, axes = session.cache.config.dtype, (layout.num_axes, layout.broadcasts_axes)
    checked = read_packed(parts, group, dtype, part.rows, *axes)
    if not sum(part.rows):
        raise ShapeError("q", "of at least one token: a step appends", "none")
    return TokenRequest(
        STEP,
        [layer],
        has_layers=False,
        group=group,
        batch_key=layout.batch_keys[layer],
        rows=None,
        expected_length=packed.expected_lengths[index],
        expected_generation=packed.expected_generations[index],
        return_lse=packed.return_lse,
        out_dtype=packed.out_dtype,
        backend=packed.backend,
        tokens=checked,
    )


class _AnswerShape(NamedTuple):
    """The tensors of an answer."""

    num_tokens: int
    num_heads: int
    width: int
    dtype: torch.dtype
    has_lse: bool

    @classmethod
    def of(cls, packed: Packed) -> "_AnswerShape":
        """Return those of a request."""
        q, v = packed.tensors["q"], packed.tensors["v"]
        dtype = packed.out_dtype or q.dtype
        return cls(q.shape[0], q.shape[1], v.shape[2], dtype, packed.return_lse)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return (
            self.num_tokens * self.num_heads * (self.width * self.dtype.itemsize + 4 * self.has_lse)
        )

    def answer(
        self,
        parts: Sequence[Part],
        planned: Sequence[Part],
        outputs: Sequence[LayerOutput],
        completed: Completed[Any] | None,
    ) -> SessionAnswer:
        """Return the answer; tokens of sessions that failed are 0."""
        tensors = {
            "out": torch.zeros(self.num_tokens, self.num_heads, self.width, dtype=self.dtype)
        }
        if self.has_lse:
            tensors["lse"] = torch.full((self.num_tokens, self.num_heads), -torch.inf)
        for part, output in zip(planned, outputs, strict=True):
            for name, x in tensors.items():
                x[part.tokens] = getattr(output, name)
        return SessionAnswer(
            message_of({"results": [part.result for part in parts]}, tensors),
            num_bytes=self.num_bytes,
            completed=completed,
            backend=outputs[0].backend if outputs else "",
        )
