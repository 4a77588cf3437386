"""Append, attend, and step: both in one run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rope_core import ConfigError, ShapeError
from rope_core.kvcache.cache import Pending
from rope_core.kvcache.config import KVGroup
from rope_core.kvcache.run import LayerInput, LayerOutput
from service.errors import MissingTensor, printable
from service.sessions.answer import NO_TENSORS, SessionAnswer
from service.sessions.call import SessionCall
from service.sessions.errors import SessionConflict
from service.sessions.guard import check_append
from service.sessions.jobs import make_jobs
from service.sessions.layout import Layout, layout_of
from service.sessions.parameters import (
    check_names,
    check_rows_exist,
    flag,
    rows_of,
    whole,
    whole_list,
    whole_or_list,
)
from service.sessions.repeats import append_digest
from service.sessions.runner import PlannedOperation
from service.sessions.session import Session
from service.sessions.tensors import Tokens, check_num_rows, read_tokens
from service.wire import Message
from service.wire.elements import view_as_bytes

NO_MESSAGE = Message({})

_OF_LAYER = ("layer", "layers", "rows")
_GUARD = ("expected_length", "expected_generation")
_OF_ANSWER = ("return_lse", "out_dtype", "backend")


@dataclass(frozen=True, slots=True)
class TokenOperation:
    """What one of the three operations takes and does."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    params: tuple[str, ...]
    appends: bool
    attends: bool

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of all tensors that it may have."""
        return (*self.required, *self.optional)


STEP = TokenOperation(
    required=("q", "k", "v"),
    optional=("positions", "tail_mask", "cu_seqlens"),
    params=(*_OF_LAYER, *_GUARD, *_OF_ANSWER),
    appends=True,
    attends=True,
)
APPEND = TokenOperation(
    required=("k", "v"),
    optional=("positions", "cu_seqlens"),
    params=(*_OF_LAYER, *_GUARD),
    appends=True,
    attends=False,
)
ATTEND = TokenOperation(
    required=("q",),
    optional=("positions", "q_index", "tail_mask", "cu_seqlens"),
    params=(*_OF_LAYER, *_OF_ANSWER),
    appends=False,
    attends=True,
)


class TokenRequest(NamedTuple):
    """A message of one of the operations, as far as it can be read without the session's state."""

    kind: TokenOperation
    layers: list[int]
    has_layers: bool
    """Whether tensors have an axis of layers."""
    group: KVGroup
    batch_key: str
    rows: list[int] | None
    expected_length: int | list[int] | None
    expected_generation: int | None
    return_lse: bool
    out_dtype: torch.dtype | None
    backend: str | None
    tokens: Tokens

    @property
    def answer_bytes(self) -> int:
        """Bytes of out and lse."""
        if self.tokens.q is None:
            return 0
        num_elements = sum(x.shape[0] * x.shape[1] for x in self.tokens.q)
        itemsize = (self.out_dtype or self.tokens.q[0].dtype).itemsize
        return num_elements * (self.group.value_dim * itemsize + 4 * self.return_lse)


class Decision(NamedTuple):
    """What the state of the session makes of a request."""

    rows: list[int]
    is_repeat: bool
    """Whether the append is done already."""
    digests: list[list[bytes]]
    """Of each layer and row, what a repeat of this append has; empty without an append."""


async def run(call: SessionCall, kind: TokenOperation) -> SessionAnswer:
    """Append, attend or step.

    Raises:
        SessionError, ServiceError, RopeError: the session is unchanged.
    """
    session = call.session
    if kind.appends:
        call.check_not_frozen()
    layout, dtype = layout_of(session), session.cache.config.dtype
    request = read_request(call.message, layout, dtype, kind, call.choose_backend)
    call.message = NO_MESSAGE  # the tensors are freed when the call has run
    layers, shape = request.layers, OutputShape.of(request)
    num_bytes = request.answer_bytes
    call.charge(num_bytes)
    turn = await call.take_turn(changes=kind.appends)
    try:
        decision = decide(session, request)
        is_done = not sum(request.tokens.num_tokens) or (decision.is_repeat and not kind.attends)
        if is_done:
            values = lengths_of(session, layers, has_layers=request.has_layers)
            turn.release()
            return call.answer(values, shape.empty(request, dtype) if kind.attends else NO_TENSORS)
        inputs, pending = plan(session, request, decision)
    except BaseException:
        turn.release()
        raise
    values = {}

    def commit() -> None:
        commit_plan(session, pending, layers, decision)
        values.update(lengths_of(session, layers, has_layers=shape.has_layers))

    operation = PlannedOperation(
        turn, commit, lambda: discard_plan(session, pending), changes=kind.appends
    )
    jobs = make_jobs(inputs, request.batch_key, call.services.runner, request.backend)
    del inputs, request
    outputs, completed = await call.run(jobs, operation)
    tensors = shape.tensors(outputs) if kind.attends else NO_TENSORS
    return call.answer(
        values, tensors, num_bytes=num_bytes, completed=completed, backend=outputs[0].backend
    )


def read_request(
    message: Message,
    layout: Layout,
    dtype: torch.dtype,
    kind: TokenOperation,
    choose_backend: Callable[[object], str | None],
) -> TokenRequest:
    """Return what a message asks for.

    Raises:
        UnknownName, MissingTensor, ConfigError, ShapeError: the message does not fit.
    """
    values = check_names(message, kind.params, kind.tensors, kind.required)
    layers, has_layers = _layers_of(values, len(layout.groups))
    group = layout.group_of(layers)
    out_dtype = values.get("out_dtype")
    if out_dtype not in (None, "float32"):
        raise ConfigError("out_dtype", "float32 or absent", printable(repr(out_dtype)))
    tokens = read_tokens(
        message.tensors, group, dtype, len(layers) if has_layers else None, layout.num_axes
    )
    if kind.appends and kind.attends and not sum(tokens.num_tokens):
        raise ShapeError("q", "of at least one token: a step appends", "none")
    if tokens.q_index is not None and tokens.positions is None and group.rope is not None:
        raise MissingTensor("positions")
    return TokenRequest(
        kind,
        layers,
        has_layers,
        group,
        layout.batch_keys[layers[0]],
        rows_of(values),
        whole_or_list(values, "expected_length", None),
        whole(values, "expected_generation", None),
        flag(values, "return_lse"),
        None if out_dtype is None else torch.float32,
        choose_backend(values.get("backend")),
        tokens,
    )


def decide(session: Session, request: TokenRequest) -> Decision:
    """Check a request against the state of the session, which has the turn.

    Raises:
        ConfigError, ShapeError: the session has other rows.
        SessionConflict: the guard does not hold.
    """
    cache, tokens = session.cache, request.tokens
    batch = cache.batch
    rows = request.rows
    if rows is None:
        rows = [*range(batch)]
    else:
        check_rows_exist(rows, batch)
    check_num_rows(tokens.num_tokens, len(rows))
    if not request.kind.appends:
        return Decision(rows, False, [])
    generation = cache.generation
    repeats: list[bool] = []
    digests: list[list[bytes]] = []
    for index, layer in enumerate(request.layers):
        length = cache.lengths(layer)

        def is_repeat(starts: Sequence[int], index: int = index, layer: int = layer) -> bool:
            earlier = _digests(tokens, index, starts)
            return session.repeats.is_repeat(layer, rows, earlier, generation)

        repeats.append(
            check_append(
                request.expected_length,
                request.expected_generation,
                layer=layer,
                rows=rows,
                num_new=tokens.num_tokens,
                length=length,
                generation=generation,
                is_repeat=is_repeat,
            )
        )
        if not repeats[-1]:
            digests.append(_digests(tokens, index, [length[row] for row in rows]))
    if any(repeats) and not all(repeats):
        text = "some of the layers have these tokens already, others have not"
        lengths = [cache.lengths(layer) for layer in request.layers]
        raise SessionConflict(text, length=cache.length, generation=generation, lengths=lengths)
    return Decision(rows, repeats[0], digests)


def plan(
    session: Session, request: TokenRequest, decision: Decision
) -> tuple[list[LayerInput], Pending]:
    """Return the inputs of a run, and the plans to commit; their pages are allocated.

    Raises:
        KVCacheError, ShapeError: as `KVCache.plan`.
    """
    kind, tokens = request.kind, request.tokens
    appends = kind.appends and not decision.is_repeat
    pending = session.cache.plan(
        request.layers,
        num_new=tokens.num_tokens if appends else None,
        num_queries=tokens.num_tokens if kind.attends else None,
        rows=request.rows,
        positions=tokens.positions,
        q_index=tokens.q_index,
        tail_mask=tokens.tail_mask,
    )
    q, k, v = tokens.q, tokens.k, tokens.v
    inputs = []
    for index, layer_plan in enumerate(pending.layers):
        each = LayerInput(layer_plan)
        if q is not None:
            each.q, each.return_lse = q[index], request.return_lse
            each.out_dtype = request.out_dtype
        if appends and k is not None and v is not None:
            each.k, each.v = k[index], v[index]
        inputs.append(each)
    return inputs, pending


def commit_plan(
    session: Session, pending: Pending, layers: Sequence[int], decision: Decision
) -> None:
    """Move the lengths, and remember the append; of a session that has ended, do nothing."""
    if session.ended is not None:
        return
    cache = session.cache
    cache.commit(pending)
    for layer, digests in zip(layers, decision.digests, strict=False):
        session.repeats.record(layer, decision.rows, digests, cache.generation)


def discard_plan(session: Session, pending: Pending) -> None:
    """Give the pages of plans back."""
    if session.ended is None:
        session.cache.discard(pending)


def lengths_of(session: Session, layers: Sequence[int], *, has_layers: bool) -> dict[str, Any]:
    """Return the parameters of an answer that tell the state of layers."""
    cache = session.cache
    if has_layers:
        lengths = [cache.lengths(layer) for layer in layers]
        return {"lengths": lengths, "generation": cache.generation}
    return {"length": cache.lengths(layers[0]), "generation": cache.generation}


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


def _layers_of(values: Mapping[str, Any], num_layers: int) -> tuple[list[int], bool]:
    """Return the layers of a call, and whether tensors have an axis of layers."""
    if "layers" in values:
        if "layer" in values:
            raise ConfigError("layer", "absent if layers is given", printable(values["layer"]))
        layers: list[int] = whole_list(values, "layers")
        if not layers:
            raise ConfigError("layers", "at least one layer", "none")
        return layers, True
    default = 0 if num_layers == 1 else None
    layer = whole(values, "layer", default)
    if layer is None:
        raise ConfigError("layer", f"given: the session has {num_layers} layers", "none")
    return [layer], False


def _digests(tokens: Tokens, index: int, starts: Sequence[int]) -> list[bytes]:
    """Return the digest of an append of each row.

    Args:
        tokens: of the request.
        index: of the layer in the request.
        starts: length of each row before the append.
    """
    assert tokens.k is not None and tokens.v is not None, "an append has both"
    k, v, positions = tokens.k[index], tokens.v[index], tokens.positions
    digests, at = [], 0
    for start, num_new in zip(starts, tokens.num_tokens, strict=True):
        part = slice(at, at + num_new)
        at += num_new
        numbers = None
        if positions is not None:
            numbers = view_as_bytes(positions[..., part].contiguous())
        digests.append(
            append_digest(
                start,
                view_as_bytes(k[part].contiguous()),
                view_as_bytes(v[part].contiguous()),
                numbers,
            )
        )
    return digests
