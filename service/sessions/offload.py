"""Offload: pages of idle sessions wait in the memory of the host while others need the device's."""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rope_core.kvcache.cache import Pending
from rope_core.kvcache.errors import ArenaFull, SharedPages, TooManyTokens
from rope_core.kvcache.plan import MovePlan, PageCopy
from service.inference.handler import RequestContext
from service.sessions.errors import KVMemoryFull, NoKVMemory
from service.sessions.jobs import SessionJob, SessionRunner, move_bytes, move_job
from service.sessions.runner import PlannedOperation
from service.sessions.session import Session
from service.sessions.turns import Turn

if TYPE_CHECKING:
    from service.sessions.call import SessionServices

IDLE_S = 2.0
"""A session that was used a shorter time ago stays on the device."""

MAX_RUN_BYTES = 64 * 2**20
"""Most bytes of a run of copies, unless a page group has more: calls of others run in between."""


async def make_room(
    services: "SessionServices", full: KVMemoryFull | NoKVMemory, context: RequestContext
) -> bool:
    """Offload idle sessions until they had what is missing; return whether there was one.

    None is offloaded if all together hold too little. Sessions that share pages with others stay.

    Args:
        services: their registry, batcher and arenas.
        full: tells what is missing.
        context: of the call that needs the memory.

    Raises:
        OperationTimedOut, ServiceError: as `run_operation`, for the call that needs the memory.
    """
    if services.host is None:
        return False
    missing, freed = full.wanted_bytes - full.free_bytes, 0
    sessions = offload_order(services.registry.sessions, services.registry.clock())
    if sum(session.cache.reserved_bytes for session in sessions) < missing:
        return False
    for session in sessions:
        if can_be_offloaded(session, services.registry.clock()):
            freed += await _offload(services, session, context)
            if freed >= missing:
                break
    return freed > 0


def can_be_offloaded(session: Session, now: float) -> bool:
    """Tell whether a session is idle, not pinned, and has memory of the device for itself."""
    cache = session.cache
    return (
        session.ended is None
        and not session.is_pinned
        and not session.turns.is_busy
        and now - session.lease.renewed >= IDLE_S
        and cache.bytes_to_restore is None
        and cache.reserved_bytes > 0
        and not cache.shared_bytes
    )


def offload_order(sessions: Iterable[Session], now: float) -> list[Session]:
    """Return the sessions that can be offloaded: least recently used first, then the largest."""
    idle = [session for session in sessions if can_be_offloaded(session, now)]
    idle.sort(key=lambda session: (session.lease.renewed, -session.cache.reserved_bytes))
    return idle


async def _offload(services: "SessionServices", session: Session, context: RequestContext) -> int:
    """Move the pages of an idle session to the host; return the bytes that were freed."""
    assert services.host is not None, "checked by make_room"
    cache, turn = session.cache, Turn([session.turns], renews=False)
    reserved = cache.reserved_bytes
    try:
        pending = cache.plan_offload(services.host)
    except (ArenaFull, TooManyTokens, SharedPages):
        turn.release()
        return 0
    except BaseException:
        turn.release()
        raise
    operation = PlannedOperation(
        turn, lambda: cache.commit(pending), lambda: cache.discard(pending), changes=False
    )
    await _run(services, pending, operation, context)
    return reserved


async def restore(
    services: "SessionServices", session: Session, turn: Turn, context: RequestContext
) -> float:
    """Move the pages of an offloaded session back to the device; return the seconds it took.

    Args:
        services: their registry, batcher and arenas.
        session: an offloaded session.
        turn: of the session. It stays held, or is given to the run that is still under way when
            this raises.
        context: of the call that needs the session.

    Raises:
        KVMemoryFull: the session stays on the host.
        OperationTimedOut, ServiceError: as `run_operation`.
    """
    started = time.perf_counter()
    cache, arena = session.cache, services.arena
    assert arena is not None, "there are sessions"
    plan = partial(services.registry.grow, session, partial(cache.plan_restore, arena))
    pending = await services.with_room(partial(plan, is_charged=True), context)
    operation = PlannedOperation(
        turn, lambda: cache.commit(pending), lambda: cache.discard(pending), changes=False
    )
    operation.keeps_turn = True
    try:
        await _run(services, pending, operation, context)
    except BaseException:
        if not operation.is_settled:
            operation.turn, operation.keeps_turn = turn.hand_over(), False
        raise
    seconds = time.perf_counter() - started
    services.on_restore(seconds)
    return seconds


async def _run(
    services: "SessionServices",
    pending: Pending,
    operation: PlannedOperation,
    context: RequestContext,
) -> None:
    assert pending.moves is not None, "pages are copied"
    jobs = copy_jobs(pending.moves.copies, services.runner)
    if jobs:
        await services.run(jobs, operation, context)
    else:
        operation.settle(has_run=True)


def copy_jobs(copies: Sequence[PageCopy], runner: SessionRunner) -> list[SessionJob]:
    """Return jobs of at most MAX_RUN_BYTES that copy page groups, one after the other."""
    parts: list[MovePlan] = []
    num_bytes = MAX_RUN_BYTES
    for copy in copies:
        num_bytes += copy.pool.shape.group_bytes
        if num_bytes > MAX_RUN_BYTES:
            parts.append(MovePlan())
            num_bytes = copy.pool.shape.group_bytes
        parts[-1].copies.append(copy)
    return [move_job(part, move_bytes(part), runner) for part in parts]
