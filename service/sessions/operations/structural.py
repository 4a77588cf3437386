"""Operations that change the state of a session and move no bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from service.sessions.lifetime.repeats import fingerprint_of
from service.sessions.lifetime.session import Session
from service.sessions.lifetime.turns import Turn
from service.sessions.operations.compaction import compact, plan_compaction
from service.sessions.requests.guard import check_guard
from service.sessions.requests.parameters import check_names, text, whole, whole_or_list
from service.sessions.running.answer import SessionAnswer
from service.sessions.running.call import SessionCall

COMMON = ("expected_length", "expected_generation", "op_id")
"""Parameters of all operations that change a session and have no digest."""

Apply = Callable[[Session], object]


@dataclass(frozen=True, slots=True)
class StructuralOperation:
    """What an operation takes and does."""

    name: str
    params: tuple[str, ...]
    """Names of its own parameters."""
    read: Callable[[Mapping[str, Any]], Apply]
    """Checks the parameters, and returns what changes the session at its turn."""


@dataclass(frozen=True, slots=True)
class Guarded:
    """The guard and the op_id of an operation on all layers."""

    expected_length: int | Sequence[int] | None
    expected_generation: int | None
    op_id: str | None
    fingerprint: bytes

    @classmethod
    def read(cls, operation: str, values: Mapping[str, Any]) -> "Guarded":
        """Return those of a request. Raises ConfigError."""
        op_id = text(values, "op_id", None)
        return cls(
            whole_or_list(values, "expected_length", None),
            whole(values, "expected_generation", None),
            op_id,
            b"" if op_id is None else fingerprint_of(operation, values),
        )

    def earlier_answer(self, session: Session) -> Mapping[str, Any] | None:
        """Return the answer of the same operation, if it is done already. Raises ConfigError."""
        if self.op_id is None:
            return None
        return session.repeats.answer_to(self.op_id, self.fingerprint)

    def check(self, session: Session) -> None:
        """Raise SessionConflict if the session is in another state than expected."""
        check_guard(
            self.expected_length,
            self.expected_generation,
            length=session.cache.length,
            generation=session.cache.generation,
        )

    def remember(self, session: Session, answer: Mapping[str, Any]) -> None:
        """Remember the answer for a repeat."""
        if self.op_id is not None:
            session.repeats.remember(self.op_id, self.fingerprint, answer)


async def run(call: SessionCall, operation: StructuralOperation) -> SessionAnswer:
    """Change the session.

    Raises:
        SessionError, ServiceError, RopeError: the session is unchanged.
    """
    call.check_not_frozen()
    values = check_names(call.message, (*operation.params, *COMMON))
    guarded = Guarded.read(operation.name, values)
    apply = operation.read(values)
    return await apply_at_turn(call, await call.take_turn(), guarded, apply)


async def apply_at_turn(
    call: SessionCall, turn: Turn, guarded: Guarded, apply: Apply
) -> SessionAnswer:
    """Change a session, unless the same operation is done already; then the turn ends."""
    session = call.session
    try:
        values = guarded.earlier_answer(session)
        compaction = None
        if values is not None:
            call.services.metrics.session_repeats.inc()
        else:
            guarded.check(session)
            registry = call.services.registry
            change = partial(registry.grow, session, partial(apply, session))
            await call.services.offload.with_room(change, call.context)
            values = state_of(session)
            guarded.remember(session, values)
            compaction = plan_compaction(call)
    except BaseException:
        turn.release()
        raise
    if compaction is None:
        turn.release()
    else:
        await compact(call, turn, compaction)
    return call.answer(values)


def state_of(session: Session) -> dict[str, Any]:
    """Return the parameters of an answer."""
    return {"length": [*session.cache.length], "generation": session.cache.generation}
