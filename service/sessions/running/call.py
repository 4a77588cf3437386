"""One call of an operation: its session, its message, its turn, and the services that it uses."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from rope_core import ConfigError
from rope_core.kvcache.arena import Arena
from rope_core.kvcache.run import LayerOutput
from service.batching.run import Completed
from service.errors import ClientLeft
from service.inference.handler import InferenceHandler, RequestContext
from service.sessions.errors import Frozen, OperationTimedOut
from service.sessions.lifetime.registry import SessionRegistry
from service.sessions.lifetime.session import Session
from service.sessions.lifetime.turns import Turn
from service.sessions.running.answer import NO_TENSORS, SessionAnswer, message_of
from service.sessions.running.jobs import SessionJob, SessionRunner
from service.sessions.running.offload import Offload
from service.sessions.running.pieces import join_pieces
from service.sessions.running.runner import PlannedOperation, run_operation
from service.wire import Message


class SessionServices:
    """What all operations use.

    Args:
        inference: has the batcher, the device and the limits.
        registry: of all sessions.
        make_arena: allocates the memory of all caches, when the first session is created.
        make_host: then allocates memory of the host for offloaded sessions; None: none are.
    """

    def __init__(
        self,
        inference: InferenceHandler,
        registry: SessionRegistry,
        make_arena: Callable[[], Arena],
        make_host: Callable[[], Arena] | None = None,
    ) -> None:
        self.inference = inference
        self.registry = registry
        self.metrics = inference.metrics
        self.runner = SessionRunner(inference.engine.device, self.metrics.count_session_run)
        self.arena: Arena | None = None
        """None: no session was ever created."""
        self.offload = Offload(registry, self.runner, self.run)
        self._make_arena = make_arena
        self._make_host = make_host
        self._lock = asyncio.Lock()

    async def get_arena(self, context: RequestContext) -> Arena:
        """Return the arena; allocating it takes a while, and is done once.

        Raises:
            TimedOut: the deadline has passed; the arena is ready for a later request.
        """
        async with self._lock:
            to_thread, offload = self.inference.to_thread, self.offload
            if offload.host is None and self._make_host is not None:
                offload.host = await to_thread(context.deadline, self._make_host)
            if self.arena is None:
                self.arena = offload.device = await to_thread(context.deadline, self._make_arena)
            return self.arena

    def choose_backend(self, requested: object) -> str | None:
        """Return the name of the backend to use, None where the library chooses.

        Raises:
            ConfigError: the request names a backend and may not, or no text.
        """
        policy = self.inference.backend_policy
        if requested is None:
            return policy.forced
        if not isinstance(requested, str):
            raise ConfigError("backend", "the name of a backend", type(requested).__name__)
        policy.check_allowed(requested)
        return requested

    def charge(self, context: RequestContext, num_bytes: int, memory_factor: int) -> None:
        """Charge a request for its answer.

        Raises:
            TooLarge: the answer is over the limit.
            Overloaded: there is too little memory for it now.
        """
        inference = self.inference
        if num_bytes > inference.max_bytes(memory_factor):
            raise inference.answer_too_large(num_bytes, memory_factor)
        context.charge.add(num_bytes * memory_factor * context.answer_copies)

    async def run(
        self, jobs: Sequence[SessionJob], operation: PlannedOperation, context: RequestContext
    ) -> tuple[list[LayerOutput], Completed[Any]]:
        """Run an operation; return its outputs, and the times of all its runs together.

        Raises:
            OperationTimedOut, ServiceError: as `run_operation`.
        """
        completed = await run_operation(self.inference.batcher, jobs, operation, context)
        if len(completed) == 1:
            return completed[0].result, completed[0]
        outputs = join_pieces([job.owners for job in jobs], [each.result for each in completed])
        times = Completed(
            outputs,
            sum(each.queue_s for each in completed),
            sum(each.copy_s for each in completed),
            sum(each.compute_s for each in completed),
            max(each.num_calls for each in completed),
        )
        return outputs, times


@dataclass(slots=True)
class SessionCall:
    """One call of an operation of one session."""

    services: SessionServices
    session: Session
    message: Message
    context: RequestContext
    memory_factor: int
    """Bytes of memory for each byte of the answer, when it is encoded."""
    restore_s: float = 0.0
    """Seconds in which pages of offloaded sessions came back to the device."""

    def check_not_frozen(self) -> None:
        """Raise Frozen if the session is a snapshot."""
        if self.session.is_frozen:
            raise Frozen

    async def take_turn(
        self, *others: Session, changes: bool = True, needs_pages: bool = True
    ) -> Turn:
        """Return the turn of the session, and of others; the caller releases it.

        Args:
            others: further sessions.
            changes: whether the session must not be frozen.
            needs_pages: whether offloaded pages come back to the device first.

        Raises:
            SessionGone, Frozen: the session has ended, or has been frozen, meanwhile.
            KVMemoryFull: there is no room on the device for offloaded pages.
            OperationTimedOut, ClientLeft: the wait has ended.
        """
        session = self.session
        turn = Turn([session.turns, *(other.turns for other in others)])
        if not turn.is_held:
            await wait_for(turn, self.context)
        try:
            for each in (session, *others):
                each.check_alive()
            if changes:
                self.check_not_frozen()
            if needs_pages:
                for each in (session, *others):
                    if each.cache.bytes_to_restore is not None:
                        self.restore_s += await self.services.offload.restore(
                            each, turn, self.context
                        )
        except BaseException:
            turn.release()
            raise
        return turn

    def answer(
        self,
        values: Mapping[str, Any],
        tensors: Mapping[str, Tensor] = NO_TENSORS,
        *,
        num_bytes: int = 0,
        completed: Completed[Any] | None = None,
        backend: str = "",
    ) -> SessionAnswer:
        """Return an answer of the session."""
        return SessionAnswer(
            message_of(values, tensors),
            expires_in_s=self.session.expires_in_s,
            num_bytes=num_bytes,
            completed=completed,
            backend=backend,
            restore_s=self.restore_s,
        )


async def wait_for(turn: Turn, context: RequestContext) -> None:
    """Wait until a turn has come, the deadline has passed, or the client has disconnected.

    Raises:
        OperationTimedOut, ClientLeft: the places have been given back.
    """
    left = False

    async def release_when_left() -> None:
        nonlocal left
        assert context.disconnected is not None, "checked below"
        await context.disconnected()
        left = True
        turn.release()

    watcher = None
    if context.disconnected is not None:
        watcher = asyncio.create_task(release_when_left())
    try:
        async with asyncio.timeout(context.deadline - time.monotonic()):
            await turn.wait()
    except TimeoutError:
        raise OperationTimedOut(committed=False) from None
    except asyncio.CancelledError:
        if left:
            raise ClientLeft from None
        raise
    finally:
        if watcher is not None:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
