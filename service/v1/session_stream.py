"""The messages of a session stream: each is an operation of a session, and has one answer.

A message is a safetensors body. Among its parameters are `op`, `seq`, a number that the answer
repeats, and on `/v1/stream` `session`, the id of the session. All others are those of the
operation. Frames are the task of `service.server.websocket`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

import orjson

from rope_core import ConfigError
from service.access.gate import Gate
from service.access.tenant import ANONYMOUS, Tenant
from service.asgi.problems import problem_for
from service.batching.admission import Admission, Charge
from service.errors import BadMessage, ServiceError, UnknownName
from service.inference.handler import InferenceHandler, RequestContext
from service.sessions import paths
from service.sessions.handler import SessionAnswer
from service.wire import Buffer, Message, Parameters, params_key, safetensors_codec

STREAM_ROUTE = "/v1/stream"
"""A stream whose messages name their sessions."""

SESSION_STREAM_ROUTE = "/v1/sessions/{id}/stream"
"""The stream of one session, as logs and metrics show it: ids are secrets."""

STREAM_ROUTES = STREAM_ROUTE, SESSION_STREAM_ROUTE

GUARDED = frozenset(("append", "step", "truncate"))
"""Operations that must have `expected_length`: a client cannot know how far its messages came when
the stream breaks."""

OPERATIONS = frozenset((*paths.OPERATIONS, "inspect"))

MAX_HEADER_BYTES = 2**18
"""Longest header of a message. It is parsed on the event loop: messages keep their order."""

MAX_SEQ = 2**63 - 1

ANSWER_COPIES = 2
"""The tensors of an answer, and the frame that is sent."""

_BUSY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
"""Statuses whose problems say when the client may try again."""


class SessionOperations(Protocol):
    """What streams need of `SessionHandler`."""

    def check_on(self) -> None:
        """Check that clients may have sessions.

        Raises:
            SessionsOff: they may not.
        """

    def find(self, session_id: str, tenant: Tenant) -> object:
        """Return a live session, without renewing its lease.

        Raises:
            NoSession, SessionGone, WrongOwner: there is none.
        """

    async def call(
        self, session_id: str, operation: str, message: Message, context: RequestContext
    ) -> SessionAnswer:
        """Run an operation of a session; also `inspect` and `delete`."""


class StreamAnswer(NamedTuple):
    """What is sent for a message: a safetensors body, or the text of a problem document."""

    data: Buffer
    is_failure: bool


class StreamRequest(NamedTuple):
    """A message, parsed."""

    session_id: str
    operation: str
    timeout_s: float | None
    message: Message


@dataclass(slots=True, eq=False)
class StreamCall:
    """A message that has no answer yet, or whose answer is not sent yet."""

    data: Buffer
    """The message; empty once it is parsed."""
    answer: StreamAnswer | None = None
    charge: Charge | None = None
    """The memory of the message and of its answer."""
    counted: tuple[Gate, Tenant] | None = None
    """Where the message counts as a request in progress."""

    def end(self) -> None:
        """Free the charged memory, and the place among the requests in progress."""
        charge, self.charge = self.charge, None
        if charge is not None:
            charge.release()
        counted, self.counted = self.counted, None
        if counted is not None:
            gate, tenant = counted
            gate.quotas.end(tenant)


class SessionStream:
    """Answers the messages of one stream.

    Args:
        handler: runs the operations.
        service: has the limits, the memory budget and the gate.
        path: of the handshake, for the scope of its key.
        authorization: values of the handshake's Authorization headers.
        session_id: the session of the path; None: each message names its own.

    Raises:
        Unauthenticated, Forbidden: as `Gate.authorize`.
    """

    def __init__(
        self,
        handler: SessionOperations,
        service: InferenceHandler,
        path: str,
        authorization: Sequence[bytes],
        session_id: str | None,
    ) -> None:
        self._handler = handler
        self._service = service
        self._gate = service.gate
        self._path = path
        self._authorization = authorization
        self.session_id = session_id
        self.tenant = self._gate.authorize(path, authorization)
        self._keys = self._gate.keys

    @property
    def admission(self) -> Admission:
        """The memory budget of all requests."""
        return self._service.admission

    async def answer(self, call: StreamCall) -> None:
        """Set the answer to a message.

        Operations of a session run in the order in which tasks with this call are made.
        """
        named: dict[str, Any] = {"seq": None}
        try:
            refusal = self._admit(call)
            data, call.data = call.data, b""
            request = self._read(data, named)
            del data
            if refusal is not None:
                raise refusal  # noqa: TRY301 - it is answered with the number of its message
            assert call.charge is not None, "the message is admitted"
            context = RequestContext(
                self._service.deadline(request.timeout_s),
                call.charge,
                tenant=self.tenant,
                answer_copies=ANSWER_COPIES,
            )
            running = self._handler.call(
                request.session_id, request.operation, request.message, context
            )
            del request  # the tensors are freed when the call has run
            answer = await running
            call.answer = StreamAnswer(_encode(answer, named), is_failure=False)
        except Exception as failure:
            call.answer = StreamAnswer(_describe(failure, named), is_failure=True)

    async def delete(self) -> None:
        """Delete the session of the path, at its turn."""
        assert self.session_id is not None, "only a stream of one session deletes it"
        with Charge(self.admission, self.tenant) as charge:
            context = RequestContext(self._service.deadline(None), charge, tenant=self.tenant)
            await self._handler.call(self.session_id, "delete", Message({}), context)

    def _admit(self, call: StreamCall) -> ServiceError | None:
        """Authenticate a message, count it in the quota and charge it; return why it is refused."""
        num_bytes, gate = len(call.data), self._gate
        try:
            tenant = self._authorized()
            if tenant is not ANONYMOUS:
                gate.quotas.begin(tenant, num_bytes)
                call.counted = gate, tenant
                gate.quotas.add_bytes(tenant, num_bytes)
            call.charge = Charge(self.admission, tenant)
            call.charge.add(num_bytes)
        except ServiceError as refusal:
            return refusal
        return None

    def _authorized(self) -> Tenant:
        """Return the tenant of the key, which may have changed since the handshake.

        Raises:
            Unauthenticated, Forbidden: the key is no longer valid.
        """
        gate = self._gate
        if gate.needs_keys:
            now = time.monotonic()
            if now >= gate.file.next_look:
                gate.refresh(now)
            if gate.keys is not self._keys:
                self.tenant = gate.authorize(self._path, self._authorization)
                self._keys = gate.keys
        return self.tenant

    def _read(self, data: Buffer, named: dict[str, Any]) -> StreamRequest:
        """Parse a message.

        Args:
            data: the message.
            named: gets `seq` and `op`, which the answer repeats, as soon as they are known.

        Raises:
            BadMessage, BadTensor: the message cannot be read.
            ConfigError, UnknownName: a parameter is missing or has another value than it may have.
        """
        size = safetensors_codec.long_text_bytes(data)
        if size > MAX_HEADER_BYTES:
            raise BadMessage(
                f"the header of a message may be at most {MAX_HEADER_BYTES:,} bytes, got {size:,}"
            )
        message = safetensors_codec.decode(data, is_repeated=False).message
        values = {**message.params.values}
        seq = values.pop("seq", None)
        if type(seq) is not int or not 0 <= seq <= MAX_SEQ:
            raise ConfigError("seq", "a whole number from 0 to 2**63 - 1", _shown(seq))
        named["seq"] = seq
        operation = values.pop("op", None)
        if not isinstance(operation, str):
            raise ConfigError("op", "the name of an operation", _shown(operation))
        if operation not in OPERATIONS:
            raise UnknownName("operation", operation, sorted(OPERATIONS))
        named["op"] = operation
        session_id = self._session_id(values.pop("session", None))
        timeout_ms = values.pop("timeout_ms", None)
        if timeout_ms is not None and (type(timeout_ms) is not int or timeout_ms < 1):
            raise ConfigError("timeout_ms", "whole milliseconds, at least 1", _shown(timeout_ms))
        if operation in GUARDED and values.get("expected_length") is None:
            raise ConfigError("expected_length", f"given for {operation} over a stream", "none")
        try:
            params = Parameters(values, params_key(values))
        except orjson.JSONEncodeError:
            raise BadMessage("parameters are nested too deep") from None
        timeout_s = None if timeout_ms is None else timeout_ms / 1e3
        return StreamRequest(session_id, operation, timeout_s, Message(message.tensors, params))

    def _session_id(self, given: Any) -> str:
        """Return the id of a message's session.

        Raises:
            ConfigError: the message names none, or another one than the path.
        """
        session_id = self.session_id
        if given is None and session_id is not None:
            return session_id
        if not isinstance(given, str):
            raise ConfigError("session", "the id of a session", _shown(given))
        if session_id not in (None, given):
            expected = "the session of the path; the stream of /v1/stream takes all sessions"
            raise ConfigError("session", expected, "another one")
        return given


def _encode(answer: SessionAnswer, named: dict[str, Any]) -> bytes:
    """Return the body of an answer, with the number and the operation of its message."""
    members = answer.message.params.key[1:-1].strip()
    key = b'{"seq":%d,"op":"%b"%b%b}' % (
        named["seq"],
        named["op"].encode(),
        b"," if members else b"",
        members,
    )
    params = Parameters({}, key)
    return b"".join(safetensors_codec.encode(Message(answer.message.tensors, params)))


def _describe(failure: Exception, named: dict[str, Any]) -> bytes:
    """Return the text of the problem document for a failure."""
    problem = problem_for(failure)
    document = problem.as_dict() | named
    if problem.status in _BUSY:
        document["retry_after_s"] = getattr(failure, "retry_after_s", 1)
    return orjson.dumps(document)


def _shown(value: Any) -> str:
    """Return the kind of a value: values may be long, or be ids of sessions."""
    return "none" if value is None else f"another value ({type(value).__name__})"
