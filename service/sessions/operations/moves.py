"""Operations that change a session and move bytes: select_tail, rebase."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rope_core.kvcache.cache import Pending
from service.sessions.lifetime.session import Session
from service.sessions.operations.structural import COMMON, Guarded, state_of
from service.sessions.requests.parameters import check_names
from service.sessions.running.answer import SessionAnswer
from service.sessions.running.call import SessionCall, SessionServices
from service.sessions.running.jobs import move_bytes, move_job
from service.sessions.running.runner import PlannedOperation


@dataclass(frozen=True, slots=True)
class Move:
    """A checked request, ready to be planned at the turn of the session."""

    plan: Callable[[Session], Pending]
    """Plans the change of a session that has its turn."""
    after: Callable[[Session], None] = lambda _: None
    """Called once the change is committed."""


@dataclass(frozen=True, slots=True)
class MoveOperation:
    """What an operation takes and does."""

    name: str
    params: tuple[str, ...]
    """Names of its own parameters."""
    read: Callable[[Mapping[str, Any], Session, SessionServices], Move]
    """Checks the parameters."""


async def run(call: SessionCall, operation: MoveOperation) -> SessionAnswer:
    """Change the session, and move bytes on the device.

    Raises:
        SessionError, ServiceError, RopeError: the session is unchanged.
    """
    call.check_not_frozen()
    session, services = call.session, call.services
    values = check_names(call.message, (*operation.params, *COMMON))
    guarded = Guarded.read(operation.name, values)
    move = operation.read(values, session, services)
    turn = await call.take_turn()
    try:
        earlier = guarded.earlier_answer(session)
        if earlier is not None:
            services.metrics.session_repeats.inc()
            turn.release()
            return call.answer(earlier)
        guarded.check(session)
        cache = session.cache
        pending = await services.offload.with_room(
            lambda: services.registry.grow(session, lambda: move.plan(session), cache.discard),
            call.context,
        )
    except BaseException:
        turn.release()
        raise
    answer: dict[str, Any] = {}

    def commit() -> None:
        if session.ended is not None:
            cache.discard(pending)
            return
        cache.commit(pending)
        move.after(session)
        answer.update(state_of(session))
        guarded.remember(session, answer)

    operation_to_run = PlannedOperation(turn, commit, lambda: cache.discard(pending))
    moves = pending.moves
    if moves is None or moves.is_empty:
        operation_to_run.settle(has_run=True)
        return call.answer(answer)
    job = move_job(moves, move_bytes(moves), services.runner)
    _, completed = await services.run([job], operation_to_run, call.context)
    return call.answer(answer, completed=completed)
