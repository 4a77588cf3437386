"""Sessions without caches: a step answers its query, and tests hold, fail or delay operations."""

import asyncio
from collections import defaultdict
from typing import Any

from service.access.tenant import Tenant
from service.errors import TimedOut
from service.inference.handler import RequestContext
from service.sessions.errors import NoSession, SessionGone
from service.sessions.handler import SessionAnswer
from service.wire import Message, Parameters


class FakeSessions:
    """Answers operations of the sessions `a`, `b` and `gone`.

    `step` answers its `q` as `out`, and the length; `attend` raises `failure`; all others answer
    their parameters. One operation of a session runs at a time.
    """

    def __init__(self) -> None:
        self.lengths: dict[str, int] = {"a": 0, "b": 0}
        self.calls: list[tuple[str, str, Message, RequestContext]] = []
        self.failure: Exception = ValueError("a bug")
        self.num_cancelled = 0
        self.committed: list[str] = []
        """The parameter `name` of steps that have run."""
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._held: dict[str, asyncio.Event] = {}

    def hold(self, session_id: str) -> None:
        """Let operations of a session wait until `release`."""
        self._held[session_id] = asyncio.Event()

    def release(self, session_id: str) -> None:
        self._held.pop(session_id).set()

    def check_on(self) -> None:
        """Sessions are on."""

    def find(self, session_id: str, _: Tenant) -> str:
        if session_id == "gone":
            raise SessionGone("expired")
        if session_id not in self.lengths:
            raise NoSession
        return session_id

    async def call(
        self, session_id: str, operation: str, message: Message, context: RequestContext
    ) -> SessionAnswer:
        self.find(session_id, context.tenant)
        self.calls.append((session_id, operation, message, context))
        try:
            async with self._locks[session_id]:
                if held := self._held.get(session_id):
                    await held.wait()
                return self._run(session_id, operation, message)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    def _run(self, session_id: str, operation: str, message: Message) -> SessionAnswer:
        values: dict[str, Any] = {**message.params.values}
        if operation == "delete":
            del self.lengths[session_id]
            return SessionAnswer(Message({}), 204)
        if operation == "attend":
            raise self.failure
        if operation == "truncate":
            raise TimedOut
        if operation != "step":
            return SessionAnswer(Message({}, Parameters.of(values)))
        self.lengths[session_id] += 1
        self.committed.append(values.get("name", ""))
        params = Parameters.of({"length": [self.lengths[session_id]]})
        return SessionAnswer(Message({"out": message.tensors["q"]}, params))
