"""The path of every session operation, whatever its protocol: message, plan, run, answer."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from rope_core import ConfigError
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.errors import KVCacheError
from service.access.tenant import Tenant
from service.inference.handler import RequestContext
from service.lifecycle import Lifecycle
from service.sessions.errors import SessionsOff
from service.sessions.find_source import find_source
from service.sessions.idempotent_creation import CreateOptions, IdempotentCreation
from service.sessions.lifetime.documents import document, list_document
from service.sessions.lifetime.session import Session, SessionOptions
from service.sessions.operations import attach, create, fork, moves, step_many, structural, tokens
from service.sessions.operations.change import run_change, run_delete
from service.sessions.operations.places import EVICT, SHIFT
from service.sessions.operations.rebase import REBASE
from service.sessions.operations.reorder import REORDER
from service.sessions.operations.select_tail import SELECT_TAIL
from service.sessions.operations.token_request import APPEND, ATTEND, STEP
from service.sessions.operations.truncate import TRUNCATE
from service.sessions.running.answer import NO_MESSAGE, SessionAnswer, message_of
from service.sessions.running.call import SessionCall, SessionServices
from service.sessions.running.translate import translate
from service.sessions.transfer.exporting import SessionExport, begin_export
from service.sessions.transfer.importing import ImportedBody
from service.sessions.transfer.manifest import read_manifest
from service.sessions.transfer.query import ExportQuery
from service.wire import Message
from service.wire.safetensors_codec import Header

__all__ = ["CreateOptions", "SessionAnswer", "SessionHandler"]

Operation = Callable[[SessionCall], Awaitable[SessionAnswer]]

OPERATIONS: dict[str, Operation] = {
    "step": partial(tokens.run, kind=STEP),
    "append": partial(tokens.run, kind=APPEND),
    "attend": partial(tokens.run, kind=ATTEND),
    **{
        each.name: partial(structural.run, operation=each)
        for each in (TRUNCATE, EVICT, SHIFT, REORDER)
    },
    **{each.name: partial(moves.run, operation=each) for each in (SELECT_TAIL, REBASE)},
    "attach": attach.run,
    "delete": run_delete,
    "change": run_change,
}
"""Operations by name; `change` is PATCH."""


class SessionHandler:
    """Answers session operations for HTTP, WebSocket and the Open Inference Protocol.

    Args:
        services: what operations use.
        lifecycle: once the service is ending, there are no new sessions.
        is_on: whether clients may have sessions.
    """

    def __init__(self, services: SessionServices, lifecycle: Lifecycle, *, is_on: bool) -> None:
        self.services = services
        self.is_on = is_on
        self._creation = IdempotentCreation(services, lifecycle)

    def check_on(self) -> None:
        """Raise SessionsOff if clients may have no sessions."""
        if not self.is_on:
            raise SessionsOff

    def find(self, session_id: str, tenant: Tenant) -> Session:
        """Return a live session, without renewing its lease.

        Raises:
            NoSession, SessionGone, WrongOwner: as `SessionRegistry.find`.
            SessionsOff: clients may have no sessions.
        """
        self.check_on()
        return self.services.registry.find(session_id, tenant, renew=False)

    async def call(
        self,
        session_id: str,
        operation: str,
        message: Message,
        context: RequestContext,
        memory_factor: int = 1,
    ) -> SessionAnswer:
        """Run an operation of a session, one of OPERATIONS, `fork` or `inspect`.

        The caller drops its own reference to `message`. One call of a session runs at a time, in
        the order of the calls of this method.

        Args:
            session_id: as the client has it.
            operation: its name.
            message: its tensors and parameters.
            context: of the request; the memory of the answer is added to its charge.
            memory_factor: bytes of memory for each byte of the answer, when it is encoded.

        Raises:
            SessionError, ServiceError, RopeError: the session is unchanged.
        """
        if not self.is_on:
            raise SessionsOff
        if operation == "inspect":
            return self.inspect(session_id, context.tenant)
        session = self.services.registry.find(session_id, context.tenant)
        call = SessionCall(self.services, session, message, context, memory_factor)
        del message
        try:
            if operation == "fork":
                self._creation.update_draining()
                return (await fork.run(call))[0]
            if operation != "step":
                return await OPERATIONS[operation](call)
            started = time.perf_counter()
            answer = await OPERATIONS[operation](call)
            self.services.metrics.session_step_seconds.observe(time.perf_counter() - started)
        except KVCacheError as error:
            raise translate(error, session, creates=operation == "fork") from None
        return answer

    async def create(
        self, message: Message, context: RequestContext, options: CreateOptions
    ) -> SessionAnswer:
        """Create a session, or fork one.

        Args:
            message: the configuration, or `fork` with the id or name of a session.
            context: of the request.
            options: how a repeat is recognised.

        Raises:
            SessionError, ServiceError, RopeError: there is no new session.
        """
        self.check_on()
        if "fork" in message.params.values:
            call = self._fork_of(message, context)
            return _with_id(await self._once_forked(call, options))
        create_now = partial(self._create, message, context)
        return await self._creation.run(create_now, self._answer_again, context, options)

    async def fork(
        self,
        session_id: str,
        message: Message,
        context: RequestContext,
        options: CreateOptions,
    ) -> SessionAnswer:
        """Fork a session; arguments and errors as `create`."""
        self.check_on()
        session = self.services.registry.find(session_id, context.tenant)
        call = SessionCall(self.services, session, message, context, 1)
        return await self._once_forked(call, options)

    async def export(
        self, session_id: str, query: ExportQuery, context: RequestContext
    ) -> SessionExport:
        """Return the export of a session, which the caller closes.

        Raises:
            SessionError, ServiceError, RopeError: there is nothing to close.
        """
        self.check_on()
        session = self.services.registry.find(session_id, context.tenant)
        call = SessionCall(self.services, session, NO_MESSAGE, context, 1)
        return await begin_export(call, query)

    async def begin_import(self, header: Header, context: RequestContext) -> ImportedBody:
        """Return the receiver of the body of an import.

        Raises:
            ServiceError, RopeError: the header is none of an import.
        """
        self.check_on()
        self._creation.update_draining()
        inference = self.services.inference
        resolver = inference.rope_resolver
        manifest = await inference.to_thread(context.deadline, read_manifest, header, resolver)
        return ImportedBody(manifest)

    async def allocate_import(
        self, body: ImportedBody, options: SessionOptions, context: RequestContext, key: str | None
    ) -> KVCache:
        """Return the cache of an import, once its positions and segments have been received.

        It is no session before `end_import`. The caller calls `registry.drop_import` in any case.

        Raises:
            SessionError, ServiceError, RopeError: there is nothing to drop.
        """
        arena = await self.services.get_arena(context)
        rows, owner = body.rows(), context.tenant.name
        options = self._creation.begin_options(context.tenant, key, options)
        try:
            return self.services.registry.begin_import(
                context.tenant, lambda: body.make_cache(rows, arena, owner), options
            )
        except KVCacheError as error:
            raise translate(error, None, creates=True) from None

    async def end_import(
        self,
        body: ImportedBody,
        cache: KVCache,
        options: SessionOptions,
        context: RequestContext,
        repeat: CreateOptions,
    ) -> SessionAnswer:
        """Return the answer of a complete import, or of an equal earlier one.

        Raises:
            SessionError, ServiceError, RopeError: there is no new session.
        """
        registry, configuration = self.services.registry, body.manifest.configuration

        async def create_now() -> tuple[SessionAnswer, Sequence[Session]]:
            session = registry.end_import(context.tenant, cache, configuration.document, options)
            answer = create.answer_of(self.services, session, configuration.warnings)
            return answer, [session]

        return await self._creation.run(create_now, self._answer_again, context, repeat)

    def inspect(self, session_id: str, tenant: Tenant) -> SessionAnswer:
        """Return the document of a session, without waiting for its turn."""
        session = self.find(session_id, tenant)
        now = self.services.registry.clock()
        headers = {"X-Session-Expires-In": str(int(session.expires_in_s(now)))}
        return SessionAnswer(message_of(document(session, now)), headers=headers, is_document=True)

    def list(
        self,
        tenant: Tenant,
        *,
        labels: Sequence[str],
        name: str | None,
        cursor: str | None,
        limit: str | None,
    ) -> SessionAnswer:
        """Return the documents of the tenant's sessions; arguments as `SessionRegistry.page`."""
        self.check_on()
        registry = self.services.registry
        sessions, next_cursor = registry.page(
            tenant, labels=labels, name=name, cursor=cursor, limit=limit
        )
        now = registry.clock()
        documents = [list_document(session, now) for session in sessions]
        values = {"sessions": documents, "next_cursor": next_cursor}
        return SessionAnswer(message_of(values), is_document=True)

    def close(self) -> None:
        """Give the memory of all sessions back: the service has ended."""
        self.services.registry.close()

    async def step_many(
        self, message: Message, context: RequestContext, memory_factor: int = 1
    ) -> SessionAnswer:
        """Step tokens of many sessions: `POST /v1/step`; arguments as `call`."""
        self.check_on()
        started = time.perf_counter()
        answer = await step_many.run(self.services, message, context, memory_factor)
        metrics = self.services.metrics
        metrics.session_step_seconds.observe(time.perf_counter() - started)
        codes = Counter(each.get("code", "ok") for each in answer.message.params.values["results"])
        for code, number in codes.items():
            metrics.session_ops("step", code).inc(number)
        return answer

    def _answer_again(self, sessions: Sequence[Session]) -> SessionAnswer:
        """Return the answer to a create or an import that has made a session before."""
        return create.answer_of(self.services, sessions[0])

    async def _once_forked(self, call: SessionCall, options: CreateOptions) -> SessionAnswer:
        answer_again = partial(fork.answer_of, self.services)
        return await self._creation.run(
            partial(self._fork, call), answer_again, call.context, options
        )

    async def _create(
        self, message: Message, context: RequestContext
    ) -> tuple[SessionAnswer, Sequence[Session]]:
        try:
            answer, session = await create.run(self.services, message, context)
        except KVCacheError as error:
            raise translate(error, None, creates=True) from None
        return answer, [session]

    async def _fork(self, call: SessionCall) -> tuple[SessionAnswer, Sequence[Session]]:
        try:
            return await fork.run(call)
        except KVCacheError as error:
            raise translate(error, call.session, creates=True) from None

    def _fork_of(self, message: Message, context: RequestContext) -> SessionCall:
        """Return the call of a create that forks a session."""
        values = dict(message.params.values)
        source = values.pop("fork")
        if not isinstance(source, str):
            raise ConfigError("fork", "the id or the name of a session", type(source).__name__)
        session = find_source(self.services.registry, source, context.tenant)
        of_fork = message_of(values, message.tensors)
        return SessionCall(self.services, session, of_fork, context, 1)


def _with_id(answer: SessionAnswer) -> SessionAnswer:
    """Return the answer of a fork with the further parameter `id`: that of the first fork."""
    values = answer.message.params.values
    return answer._replace(message=message_of({"id": values["ids"][0], **values}))
