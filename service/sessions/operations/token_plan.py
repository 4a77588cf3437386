"""Check a step, an append or an attend against the state of its session, and plan it."""

from collections.abc import Sequence
from typing import NamedTuple

from rope_core.kvcache.cache import Pending
from rope_core.kvcache.run import LayerInput
from service.sessions.errors import SessionConflict
from service.sessions.guard import check_append
from service.sessions.operations.token_request import TokenRequest
from service.sessions.parameters import check_rows_exist
from service.sessions.registry import SessionRegistry
from service.sessions.repeats import append_digest
from service.sessions.session import Session
from service.sessions.tensors import Tokens, check_num_rows
from service.wire.elements import view_as_bytes


class Decision(NamedTuple):
    """The result of the check of a request against the state of its session."""

    rows: list[int]
    is_repeat: bool
    """Whether the append is done already."""
    digests: list[list[bytes]]
    """Of each layer and row, what a repeat of this append has; empty without an append."""


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


def _digests(tokens: Tokens, index: int, starts: Sequence[int]) -> list[bytes]:
    """Return the digest of an append of each row.

    Args:
        tokens: of the request.
        index: of the layer in the request.
        starts: length of each row before the append.
    """
    assert tokens.k is not None, "an append has k and v"
    assert tokens.v is not None, "an append has k and v"
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
