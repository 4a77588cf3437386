"""Check a step, an append or an attend against the state of its session, and plan it."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from rope_core.kvcache.cache import Pending
from rope_core.kvcache.run import LayerInput
from service.sessions.errors import SessionConflict
from service.sessions.lifetime.registry import SessionRegistry
from service.sessions.lifetime.repeats import append_digest, payload_digest
from service.sessions.lifetime.session import Session
from service.sessions.operations.token_request import TokenRequest
from service.sessions.requests.guard import check_append
from service.sessions.requests.parameters import check_rows_exist
from service.sessions.requests.tensors import Tokens, check_num_rows
from service.wire.elements import memory_at, view_as_bytes


class Decision(NamedTuple):
    """The result of the check of a request against the state of its session."""

    rows: list[int]
    is_repeat: bool
    """Whether the append is done already."""
    digests: list[list[bytes]]
    """Of each layer and row, what a repeat of this append has; empty without an append."""


def decide(
    session: Session, request: TokenRequest, payloads: Sequence[Sequence[bytes]] | None = None
) -> Decision:
    """Check a request against the state of the session, which has the turn.

    Args:
        session: whose turn it is.
        request: what is asked.
        payloads: `payload_digests` of its tokens; None: they are computed here.

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
    if payloads is None:
        payloads = payload_digests(tokens)
    generation = cache.generation
    lengths = None
    if request.has_layers:
        lengths = [cache.lengths(layer) for layer in request.layers]
    repeats: list[bool] = []
    digests: list[list[bytes]] = []
    for layer, new in zip(request.layers, payloads, strict=True):
        length = cache.lengths(layer)

        def is_repeat(
            starts: Sequence[int], new: Sequence[bytes] = new, layer: int = layer
        ) -> bool:
            earlier = _append_digests(starts, new)
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
                lengths=lengths,
            )
        )
        if not repeats[-1]:
            digests.append(_append_digests([length[row] for row in rows], new))
    if any(repeats) and not all(repeats):
        text = "some of the layers have these tokens already, others have not"
        raise SessionConflict(text, length=cache.length, generation=generation, lengths=lengths)
    return Decision(rows, repeats[0], digests)


def plan(
    registry: SessionRegistry, session: Session, request: TokenRequest, decision: Decision
) -> tuple[list[LayerInput], Pending]:
    """Return the inputs of a run, and the plans to commit; their pages are allocated.

    Raises:
        KVCacheError, ShapeError: as `KVCache.plan`.
    """
    kind, tokens = request.kind, request.tokens
    appends = kind.appends and not decision.is_repeat
    cache = session.cache

    def make_plan() -> Pending:
        return cache.plan(
            request.layers,
            num_new=tokens.num_tokens if appends else None,
            num_queries=tokens.num_tokens if kind.attends else None,
            rows=request.rows,
            positions=tokens.positions,
            q_index=tokens.q_index,
            tail_mask=tokens.tail_mask,
        )

    pending = registry.grow(session, make_plan, cache.discard) if appends else make_plan()
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
    """Move the lengths, and remember the append; of a session that has ended, give pages back."""
    cache = session.cache
    if session.ended is not None:
        cache.discard(pending)
        return
    cache.commit(pending)
    for layer, digests in zip(layers, decision.digests, strict=False):
        session.repeats.record(layer, decision.rows, digests, cache.generation)


def payload_digests(tokens: Tokens) -> list[list[bytes]]:
    """Return the digest of what an append brings, of each layer and row."""
    assert tokens.k is not None, "an append has k and v"
    assert tokens.v is not None, "an append has k and v"
    return [
        _digests_of_rows(k, v, tokens.positions, tokens.num_tokens)
        for k, v in zip(tokens.k, tokens.v, strict=True)
    ]


def _digests_of_rows(
    k: Tensor, v: Tensor, positions: Tensor | None, num_tokens: Sequence[int]
) -> list[bytes]:
    k, v = k.contiguous(), v.contiguous()
    digests, at = [], 0
    k_row, v_row = k.stride(0) * k.element_size(), v.stride(0) * v.element_size()
    k_address, v_address = k.data_ptr(), v.data_ptr()
    for num_new in num_tokens:
        numbers = None
        if positions is not None:
            numbers = view_as_bytes(positions[..., at : at + num_new].contiguous())
        digests.append(
            payload_digest(
                memory_at(k_address + at * k_row, num_new * k_row),
                memory_at(v_address + at * v_row, num_new * v_row),
                numbers,
            )
        )
        at += num_new
    return digests


def _append_digests(starts: Sequence[int], payloads: Sequence[bytes]) -> list[bytes]:
    return [append_digest(start, each) for start, each in zip(starts, payloads, strict=True)]
