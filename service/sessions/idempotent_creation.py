"""Run a request that creates sessions once, and answer its repeats."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from service.access.tenant import Tenant
from service.inference.handler import RequestContext
from service.lifecycle import Lifecycle
from service.sessions.errors import OperationTimedOut
from service.sessions.lifetime.idempotency import IdempotencyKeys, Recorded
from service.sessions.lifetime.session import Session, SessionOptions
from service.sessions.running.answer import SessionAnswer
from service.sessions.running.call import SessionServices


class CreateOptions(NamedTuple):
    """How a repeat of a request that creates sessions is recognised."""

    key: str | None = None
    """Value of the header `Idempotency-Key`; None: a repeat creates other sessions."""
    digest: bytes = b""
    """Of the path and the body."""


class IdempotentCreation:
    """Runs creates, forks and imports; a repeat with the same Idempotency-Key creates nothing.

    Args:
        services: what operations use.
        lifecycle: once the service is ending, there are no new sessions.
    """

    def __init__(self, services: SessionServices, lifecycle: Lifecycle) -> None:
        self._services = services
        self._lifecycle = lifecycle
        self._keys = IdempotencyKeys(services.registry.clock)

    def update_draining(self) -> None:
        """Set in the registry whether new sessions are refused: the service is ending."""
        self._services.registry.is_draining = self._lifecycle.ending

    def begin_options(
        self, tenant: Tenant, key: str | None, options: SessionOptions
    ) -> SessionOptions:
        """Return what the cache of an import is checked for before its data arrives.

        If a request with the key has created a session before, the name is left out: this import
        may be its repeat, and the name is that of its own session.
        """
        if key is not None and self._keys.has_recorded(tenant, key):
            return replace(options, name=None)
        return options

    async def run(
        self,
        create_now: Callable[[], Awaitable[tuple[SessionAnswer, Sequence[Session]]]],
        answer_again: Callable[[Sequence[Session]], SessionAnswer],
        context: RequestContext,
        options: CreateOptions,
    ) -> SessionAnswer:
        """Create sessions, or answer a request that has created them before.

        Args:
            create_now: creates the sessions, and returns the answer.
            answer_again: returns the answer for sessions that were created before.
            context: of the request.
            options: how a repeat is recognised.

        Raises:
            BadHeader, ConfigError: the key is not valid, or belongs to another request.
            OperationTimedOut: an equal request did not end before the deadline.
            SessionGone: all sessions of the earlier request have ended; also what `create_now`
                raises.
        """
        self.update_draining()
        if options.key is None:
            return (await create_now())[0]
        claim = self._keys.claim(context.tenant, options.key, options.digest)
        try:
            async with asyncio.timeout(context.deadline - time.monotonic()), claim:
                claim.keep()
        except TimeoutError:
            raise OperationTimedOut(committed=False) from None
        try:
            if claim.recorded is not None:
                return self._recorded(claim.recorded, answer_again, context.tenant)
            answer, sessions = await create_now()
            claim.record(answer.status, tuple(sessions))
            return answer
        finally:
            claim.end()

    def _recorded(
        self,
        recorded: Recorded,
        answer_again: Callable[[Sequence[Session]], SessionAnswer],
        tenant: Tenant,
    ) -> SessionAnswer:
        """Return the answer to a repeated request: the present documents of its sessions."""
        live = [session for session in recorded.sessions if session.ended is None]
        for session in live or recorded.sessions[:1]:
            self._services.registry.use(session, tenant)
        self._services.metrics.session_repeats.inc()
        return answer_again(live)._replace(status=recorded.status)
