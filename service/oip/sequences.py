"""Sequences: KV sessions by the ids that clients of the Open Inference Protocol choose."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from service.access.tenant import Scope, Tenant
from service.errors import Forbidden, printable
from service.inference.handler import RequestContext, Served
from service.oip.errors import SequenceExists, UnknownSequence
from service.oip.infer.models import ROPE_SESSION
from service.oip.infer.sequence_params import SequenceId, SequenceParams
from service.sessions.errors import NoSession, SessionGone
from service.sessions.handler import CreateOptions, SessionAnswer, SessionHandler
from service.sessions.lifetime.turns import Turn, Turns
from service.sessions.running.answer import message_of
from service.sessions.running.call import wait_for
from service.wire import Message

MAX_ENDED = 4096
"""Most sequences that are remembered after their sessions have ended: clients get the reason."""

Key = tuple[str, SequenceId]
"""Name of the tenant, and the id of the sequence."""


class Place:
    """The place of a request among those of its stream.

    Requests of sequences wait until those before them have their turns; all others do not.

    Args:
        before: of the request before; None for the first.
    """

    __slots__ = ("_before", "_taken")

    def __init__(self, before: "Place | None") -> None:
        self._before = None if before is None else before._taken
        self._taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Return when the request before has its turn, has ended, or is of no sequence."""
        if self._before is not None and not self._before.done():
            await asyncio.wait((self._before,))

    def take(self) -> None:
        """Let the next request go on. Idempotent."""
        if not self._taken.done():
            self._taken.set_result(None)


@dataclass(slots=True)
class _Sequence:
    """A sequence of one tenant."""

    session_id: str | None = None
    """None: it has not started, or has ended by `sequence_end`."""
    turns: Turns = field(default_factory=Turns)
    """Its requests run one at a time, so that a step finds the session of the start before it."""


class Sequences:
    """Runs requests of sequences by the handler of all sessions. For the event loop's thread.

    Args:
        handler: of sessions.
    """

    def __init__(self, handler: SessionHandler) -> None:
        self._handler = handler
        self._sequences: dict[Key, _Sequence] = {}
        self._max_sequences = MAX_ENDED
        """The table is swept when it has so many entries."""

    def __len__(self) -> int:
        """Return how many sequences are remembered."""
        return len(self._sequences)

    async def run(
        self,
        params: SequenceParams,
        message: Message,
        context: RequestContext,
        memory_factor: int,
        place: Place | None = None,
    ) -> Served:
        """Start a sequence if the request says so, step it, and end it if the request says so.

        Args:
            params: of the sequence.
            message: of the step.
            context: of the request; the memory of the answer is added to its charge.
            memory_factor: bytes of memory for each byte of the answer, when it is encoded.
            place: of the request in its stream; None: it is not in a stream.

        Raises:
            SequenceExists: the request starts a sequence that lives.
            UnknownSequence: the request does not start the sequence, and no other has.
            SessionGone: the session has ended, but not by `sequence_end`.
            Forbidden: the API key lacks the scope of sessions.
            SessionError, ServiceError, RopeError: as operations of sessions.
        """
        tenant = context.tenant
        if Scope.SESSIONS not in tenant.scopes:
            text = f"model {ROPE_SESSION.name} needs the scope {Scope.SESSIONS}"
            raise Forbidden(f"{text}, which the API key lacks")
        if place is not None:
            await place.wait()
        key = tenant.name, params.id
        sequence = self._find(key, is_start=params.is_start)
        turn = Turn((sequence.turns,))
        if place is not None:
            place.take()
        try:
            if not turn.is_held:
                await wait_for(turn, context)
            answer = await self._run(sequence, params, message, context, memory_factor)
        finally:
            turn.release()
            if sequence.session_id is None and not sequence.turns.is_busy:
                del self._sequences[key]
        return Served(
            message_of(_as_scalars(answer.message.params.values), answer.message.tensors),
            answer.num_bytes,
            answer.completed,
            answer.backend,
        )

    def _find(self, key: Key, *, is_start: bool) -> _Sequence:
        """Return a sequence, a new one for a start.

        Raises:
            UnknownSequence: there is none.
        """
        sequence = self._sequences.get(key)
        if sequence is None:
            if not is_start:
                raise _unknown(key[1])
            if len(self._sequences) >= self._max_sequences:
                self._sweep()
            sequence = self._sequences[key] = _Sequence()
        return sequence

    async def _run(
        self,
        sequence: _Sequence,
        params: SequenceParams,
        message: Message,
        context: RequestContext,
        memory_factor: int,
    ) -> SessionAnswer:
        """Answer a request whose turn has come."""
        if params.is_start:
            answer = await self._start(sequence, params, message, context, memory_factor)
        elif sequence.session_id is None:
            raise _unknown(params.id)
        elif params.is_end and not message.tensors:
            answer = SessionAnswer(message_of({}))
        else:
            answer = await self._step(sequence, params.id, message, context, memory_factor)
        if params.is_end:
            await self._end(sequence, context, has_stepped=bool(message.tensors))
        return answer

    async def _start(
        self,
        sequence: _Sequence,
        params: SequenceParams,
        message: Message,
        context: RequestContext,
        memory_factor: int,
    ) -> SessionAnswer:
        """Create the session of a sequence and step it, both or neither."""
        handler, tenant = self._handler, context.tenant
        if sequence.session_id is not None and self._lives(sequence.session_id, tenant):
            text = f"sequence {printable(params.id)} of model '{ROPE_SESSION.name}' exists already"
            raise SequenceExists(f"{text}: end it, or start another")
        configuration = Message({}, params.configuration)
        created = await handler.create(configuration, context, CreateOptions())
        document = created.message.params.values
        session_id: str = document["id"]
        try:
            answer = await handler.call(session_id, "step", message, context, memory_factor)
        except BaseException:
            with suppress(NoSession, SessionGone):
                handler.services.registry.undo_create([handler.find(session_id, tenant)])
            raise
        sequence.session_id = session_id
        warnings = document.get("warnings")
        if not warnings:
            return answer
        step = answer.message
        values = {**step.params.values, "warnings": warnings}
        return answer._replace(message=message_of(values, step.tensors))

    async def _step(
        self,
        sequence: _Sequence,
        sequence_id: SequenceId,
        message: Message,
        context: RequestContext,
        memory_factor: int,
    ) -> SessionAnswer:
        assert sequence.session_id is not None, "checked by the caller"
        session_id = sequence.session_id
        try:
            return await self._handler.call(session_id, "step", message, context, memory_factor)
        except NoSession:  # it ended so long ago that nobody knows why
            sequence.session_id = None
            raise _unknown(sequence_id) from None

    async def _end(
        self, sequence: _Sequence, context: RequestContext, *, has_stepped: bool
    ) -> None:
        """Delete the session of a sequence."""
        assert sequence.session_id is not None, "it has been stepped"
        try:
            await self._handler.call(sequence.session_id, "delete", Message({}), context)
        except SessionGone:
            if not has_stepped:
                raise
        sequence.session_id = None

    def _lives(self, session_id: str, tenant: Tenant) -> bool:
        try:
            self._handler.find(session_id, tenant)
        except (NoSession, SessionGone):
            return False
        return True

    def _sweep(self) -> None:
        """Forget the oldest sequences whose sessions have ended, all but half of MAX_ENDED."""
        live = {session.id.text for session in self._handler.services.registry.sessions}
        ended = [
            key
            for key, sequence in self._sequences.items()
            if sequence.session_id not in live and not sequence.turns.is_busy
        ]
        for key in ended[: max(0, len(ended) - MAX_ENDED // 2)]:
            del self._sequences[key]
        self._max_sequences = len(self._sequences) + MAX_ENDED // 2


def _unknown(sequence_id: SequenceId) -> UnknownSequence:
    """Return the error of a sequence that was not started, in the words of Triton."""
    return UnknownSequence(
        f"inference request for sequence {printable(sequence_id)} to model "
        f"'{ROPE_SESSION.name}' must specify the START flag on the first request of the sequence"
    )


def _as_scalars(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a step's answer as this protocol has them: numbers and text.

    The length of the only row is a number; of several rows it is a list as JSON text.
    """
    scalars = dict(values)
    length = scalars.get("length")
    if isinstance(length, list):
        scalars["length"] = length[0] if len(length) == 1 else json.dumps(length)
    return scalars
