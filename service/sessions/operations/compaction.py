"""Join segments of a row after an operation has split it into many."""

from rope_core.kvcache.cache import Pending
from rope_core.kvcache.errors import KVCacheError
from service.errors import ClientLeft, ServiceError, TimedOut
from service.sessions.errors import OperationTimedOut, SessionError
from service.sessions.lifetime.turns import Turn
from service.sessions.running.call import SessionCall
from service.sessions.running.jobs import move_bytes, move_job
from service.sessions.running.runner import PlannedOperation

MAX_SEGMENTS = 8
"""Segments of a row beyond which they are joined. StreamingLLM has 2."""


def plan_compaction(call: SessionCall) -> Pending | None:
    """Plan to join segments; None: there are few, or no memory for it now."""
    session = call.session
    cache = session.cache
    if max(cache.num_segments) <= MAX_SEGMENTS:
        return None
    try:
        return call.services.registry.grow(session, lambda: cache.plan_compaction(MAX_SEGMENTS))
    except (KVCacheError, SessionError):
        return None


async def compact(call: SessionCall, turn: Turn, pending: Pending) -> None:
    """Run a plan; then the turn ends. The operation before it is committed in any case.

    Raises:
        OperationTimedOut: the deadline has passed; the operation is committed.
        ClientLeft: the client has disconnected.
    """
    cache, services = call.session.cache, call.services
    assert pending.moves is not None, "a compaction moves"

    def commit() -> None:
        (cache.discard if call.session.ended is not None else cache.commit)(pending)

    operation = PlannedOperation(turn, commit, lambda: cache.discard(pending))
    job = move_job(pending.moves, move_bytes(pending.moves), services.runner)
    try:
        await services.run([job], operation, call.context)
    except TimedOut:
        raise OperationTimedOut(committed=True) from None
    except ClientLeft:
        raise
    except ServiceError:  # too little memory, or an end of the service: the segments stay
        return
