"""Offload: pages of idle sessions wait in the memory of the host while others need the device's."""

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.cache import Pending
from rope_core.kvcache.errors import ArenaFull, SharedPages, TooManyTokens
from rope_core.kvcache.plan import MovePlan, PageCopy
from service.inference.handler import RequestContext
from service.sessions.errors import KVMemoryFull, NoKVMemory
from service.sessions.lifetime.registry import SessionRegistry
from service.sessions.lifetime.session import Session
from service.sessions.lifetime.turns import Turn
from service.sessions.running.jobs import SessionJob, SessionRunner, move_bytes, move_job
from service.sessions.running.runner import PlannedOperation

T = TypeVar("T")

RunJobs = Callable[[Sequence[SessionJob], PlannedOperation, RequestContext], Awaitable[object]]
"""Runs the jobs of an operation one after the other, as `run_operation`."""

IDLE_S = 2.0
"""A session that was used a shorter time ago stays on the device."""

MAX_RUN_BYTES = 64 * 2**20
"""Most bytes of a run of copies, unless a page group has more: calls of others run in between."""


class Offload:
    """Moves pages between the memory of the device and that of the host.

    Args:
        registry: of all sessions.
        runner: runs jobs of copies.
        run: runs the jobs of an operation in the batcher.
    """

    def __init__(self, registry: SessionRegistry, runner: SessionRunner, run: RunJobs) -> None:
        self._registry = registry
        self._runner = runner
        self._run_jobs = run
        self.device: Arena | None = None
        """None: no session was ever created."""
        self.host: Arena | None = None
        """None: sessions stay on the device."""
        self.on_restore: Callable[[float], None] = lambda _: None
        """Called with the seconds of each restore."""

    async def with_room(self, action: Callable[[], T], context: RequestContext) -> T:
        """Run an action that may need memory; offload idle sessions where there is too little.

        Args:
            action: changes nothing if it raises KVMemoryFull or NoKVMemory.
            context: of the call.

        Raises:
            KVMemoryFull, NoKVMemory: there is no room; also whatever `action` raises.
            OperationTimedOut, ServiceError: as `run_operation`, while sessions were offloaded.
        """
        while True:
            try:
                return action()
            except (KVMemoryFull, NoKVMemory) as full:
                if not await self._make_room(full.wanted_bytes - full.free_bytes, context):
                    raise

    async def restore(self, session: Session, turn: Turn, context: RequestContext) -> float:
        """Move the pages of an offloaded session back to the device; return the seconds it took.

        Args:
            session: an offloaded session.
            turn: of the session. It stays held, or is given to the run that is still under way
                when this raises.
            context: of the call that needs the session.

        Raises:
            KVMemoryFull: the session stays on the host.
            OperationTimedOut, ServiceError: as `run_operation`.
        """
        started = time.perf_counter()
        cache, device = session.cache, self.device
        assert device is not None, "there are sessions"
        plan = partial(self._registry.grow, session, partial(cache.plan_restore, device))
        pending = await self.with_room(partial(plan, is_charged=True), context)
        operation = PlannedOperation(
            turn, lambda: cache.commit(pending), lambda: cache.discard(pending), changes=False
        )
        operation.keeps_turn = True
        try:
            await self._run(pending, operation, context)
        except BaseException:
            if not operation.is_settled:
                operation.turn, operation.keeps_turn = turn.hand_over(), False
            raise
        seconds = time.perf_counter() - started
        self.on_restore(seconds)
        return seconds

    async def _make_room(self, missing: int, context: RequestContext) -> bool:
        """Offload idle sessions until they had `missing` bytes; return whether there was one.

        None is offloaded if all together hold too little.
        """
        if self.host is None:
            return False
        freed, clock = 0, self._registry.clock
        sessions = offload_order(self._registry.sessions, clock())
        if sum(session.cache.reserved_bytes for session in sessions) < missing:
            return False
        for session in sessions:
            if can_be_offloaded(session, clock()):
                freed += await self._offload(session, self.host, context)
                if freed >= missing:
                    break
        return freed > 0

    async def _offload(self, session: Session, host: Arena, context: RequestContext) -> int:
        """Move the pages of an idle session to the host; return the bytes that were freed."""
        cache, turn = session.cache, Turn([session.turns], renews=False)
        reserved = cache.reserved_bytes
        try:
            pending = cache.plan_offload(host)
        except (ArenaFull, TooManyTokens, SharedPages):
            turn.release()
            return 0
        except BaseException:
            turn.release()
            raise
        operation = PlannedOperation(
            turn, lambda: cache.commit(pending), lambda: cache.discard(pending), changes=False
        )
        await self._run(pending, operation, context)
        return reserved

    async def _run(
        self, pending: Pending, operation: PlannedOperation, context: RequestContext
    ) -> None:
        assert pending.moves is not None, "pages are copied"
        jobs = copy_jobs(pending.moves.copies, self._runner)
        if jobs:
            await self._run_jobs(jobs, operation, context)
        else:
            operation.settle(has_run=True)


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
    """Return the sessions that can be offloaded: least recently used first, then the largest.

    Sessions that share pages with others stay.
    """
    idle = [session for session in sessions if can_be_offloaded(session, now)]
    idle.sort(key=lambda session: (session.lease.renewed, -session.cache.reserved_bytes))
    return idle


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
