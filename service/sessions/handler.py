"""The path of every session operation, whatever its protocol: message, plan, run, commit, answer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from service.inference.handler import RequestContext
from service.sessions.session import Session
from service.wire import Message


class SessionAnswer(NamedTuple):
    """The answer to an operation, before an adapter writes it."""

    message: Message
    status: int = 200
    headers: Mapping[str, str] = {}
    """`X-Session-Expires-In`, `Location`, `Server-Timing`."""
    num_bytes: int = 0
    is_document: bool = False
    """Whether the answer is JSON whatever the request accepts."""


class SessionHandler:
    """Answers session operations for HTTP, WebSocket and the Open Inference Protocol."""

    async def create(
        self, message: Message, context: RequestContext, options: Mapping[str, Any]
    ) -> SessionAnswer:
        """Create, import or fork. `options`: of the query and the header (`Idempotency-Key`)."""
        raise NotImplementedError

    async def call(
        self, session_id: str, operation: str, message: Message, context: RequestContext
    ) -> SessionAnswer:
        """Run an operation of a session: step, append, attend, truncate, select_tail, evict, shift,
        rebase, reorder, attach, fork.

        The caller drops its own reference to `message`. One call of a session runs at a time, in
        the order of the calls of this method.

        Raises:
            SessionError, ServiceError, RopeError: the session is unchanged.
        """
        raise NotImplementedError

    async def step_many(self, message: Message, context: RequestContext) -> SessionAnswer:
        """Step tokens of many sessions: `POST /v1/step`."""
        raise NotImplementedError

    def document(self, session: Session) -> dict[str, Any]:
        """Return the document of a session."""
        raise NotImplementedError
