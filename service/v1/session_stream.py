"""The messages of a session stream: each is an operation of a session, and has one answer.

A message is a safetensors body. Among its parameters are `op`, `seq`, a number that the answer
repeats, and on `/v1/stream` `session`, the id of the session. All others are those of the
operation. Frames are the task of `service.server.websocket`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from service.access.gate import Gate
from service.access.tenant import ANONYMOUS, Tenant
from service.asgi.problems import STATUSES, code_of
from service.batching.admission import Admission, Charge
from service.errors import ServiceError
from service.inference.handler import InferenceHandler, RequestContext
from service.observability.request_log import CLIENT_LEFT_CODE
from service.sessions.running.answer import SessionAnswer
from service.v1.session_messages import encode_answer, encode_failure, read_request
from service.wire import Buffer, Message

STREAM_ROUTE = "/v1/stream"
"""A stream whose messages name their sessions."""

SESSION_STREAM_ROUTE = "/v1/sessions/{id}/stream"
"""The stream of one session, as logs and metrics show it: ids are secrets."""

STREAM_ROUTES = STREAM_ROUTE, SESSION_STREAM_ROUTE

ANSWER_COPIES = 2
"""The tensors of an answer, and the frame that is sent."""


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
        code = "ok"
        try:
            refusal = self._admit(call)
            data, call.data = call.data, b""
            request = read_request(data, self.session_id, named)
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
            call.answer = StreamAnswer(encode_answer(answer, named), is_failure=False)
        except Exception as failure:
            code = code_of(failure)
            if code != CLIENT_LEFT_CODE:
                self._service.metrics.count_refusal(code, STATUSES.get(code, 500))
            call.answer = StreamAnswer(encode_failure(failure, named), is_failure=True)
        except BaseException as cancelled:
            code = code_of(cancelled)
            raise
        finally:
            metrics = self._service.metrics
            metrics.session_ops(named.get("op", "unknown"), code).inc()
            metrics.recent.current.messages += 1  # of the second in which it ran, or the next

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
