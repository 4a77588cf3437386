"""The routes of sessions over HTTP: `/v1/sessions`, what is below it, and `/v1/step`."""

from collections.abc import Mapping
from functools import partial
from http import HTTPStatus

from service.access.tenant import ANONYMOUS, Tenant
from service.asgi import io, problems
from service.asgi.body import disconnected, read_body
from service.asgi.io import Headers, Receive, Scope, Send
from service.asgi.problems import code_of
from service.asgi.routing_errors import describe_method, nearest
from service.batching.admission import Charge
from service.errors import (
    BadHeader,
    BadQuery,
    TimedOut,
    UnsupportedMediaType,
    printable,
)
from service.inference.handler import RequestContext
from service.sessions import paths
from service.sessions.errors import OperationTimedOut, SessionGone
from service.sessions.handler import CreateOptions, SessionHandler
from service.sessions.lifetime.idempotency import request_digest
from service.sessions.paths import EXPORT, OPERATIONS, SESSIONS, STEP_MANY
from service.sessions.requests.parameters import TENSORS
from service.sessions.running.answer import NO_MESSAGE, SessionAnswer
from service.sessions.transfer.query import read_query, read_unique
from service.v1.http_params import HEADER
from service.v1.routes import SHORT_BODY_BYTES
from service.v1.session_transfer import (
    read_import_header,
    receive_import,
    receive_start,
    send_export,
)
from service.wire import (
    Buffer,
    Codec,
    Decoded,
    codec_for,
    json_codec,
    negotiate_response_codec,
    safetensors_codec,
)

METHODS: Mapping[str, tuple[str, ...]] = {
    SESSIONS: ("GET", "POST"),
    STEP_MANY: ("POST",),
    f"{paths.PREFIX}{{id}}": ("DELETE", "GET", "HEAD", "PATCH"),
    **{f"{paths.PREFIX}{{id}}/{name}": ("POST",) for name in OPERATIONS},
    f"{paths.PREFIX}{{id}}/{EXPORT}": ("GET",),
}
"""Methods by route."""

_OPERATIONS: Mapping[tuple[str, str], str] = {
    (SESSIONS, "GET"): "list",
    (SESSIONS, "POST"): "create",
    (STEP_MANY, "POST"): "step_many",
    (f"{paths.PREFIX}{{id}}", "GET"): "inspect",
    (f"{paths.PREFIX}{{id}}", "HEAD"): "inspect",
    (f"{paths.PREFIX}{{id}}", "PATCH"): "change",
    (f"{paths.PREFIX}{{id}}", "DELETE"): "delete",
}
"""Names in metrics of the operations that no path names, by route and method."""

_RUNS = frozenset(("step", "append", "attend"))
"""Operations that wait for the device."""

INLINE_DIGEST_BYTES = 2**17
"""Largest body that is hashed on the event loop."""

_NO_QUERY = "this route has no parameters in the query: send them in the body"

_NO_EXPORT = (
    "only an import has parameters in the query, and the body is no export: "
    "send the file of an export as application/x-safetensors, or parameters in the body"
)


class SessionRoutes:
    """All routes of sessions as one ASGI application."""

    def __init__(self, handler: SessionHandler) -> None:
        self._handler = handler
        self._inference = handler.services.inference

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            SessionError, ServiceError, RopeError: the request cannot be answered.
        """
        self._handler.check_on()
        path, method = scope["path"], scope["method"]
        if path in (SESSIONS, STEP_MANY):
            session_id = operation = ""
            route = path
        else:
            session_id, operation = paths.parse(path)
            route = paths.route_of(path)
        if route not in METHODS:
            await _refuse(scope, send, HTTPStatus.NOT_FOUND, _unknown(operation))
            return
        if method not in METHODS[route]:
            await _refuse(
                scope,
                send,
                HTTPStatus.METHOD_NOT_ALLOWED,
                describe_method(method, route, METHODS[route]),
                METHODS[route],
            )
            return
        code = "ok"
        try:
            await self._serve(scope, receive, send, session_id, operation)
        except BaseException as failure:
            code = code_of(failure)
            if isinstance(failure, TimedOut) and not isinstance(failure, OperationTimedOut):
                raise OperationTimedOut(committed=False) from None
            raise
        finally:
            name = operation or _OPERATIONS[route, method]
            self._inference.metrics.session_ops(name, code).inc()

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, session_id: str, operation: str
    ) -> None:
        """Answer a request of an existing route."""
        headers = scope[io.HEADERS_BY_NAME]
        tenant = scope.get(io.TENANT, ANONYMOUS)
        path, method, query = scope["path"], scope["method"], scope["query_string"]
        if session_id:
            _check_session_header(headers, session_id)
            try:
                self._handler.find(session_id, tenant)
            except SessionGone:
                if method != "DELETE":
                    raise
                await io.send(send, 204, [], [])  # as the first DELETE
                return
        deadline = self._inference.deadline(io.timeout_s(headers))
        if method in ("GET", "HEAD") and operation != EXPORT:
            answer = self._read(tenant, session_id, query)
            await _send(send, answer, json_codec.encode(answer.message), json_codec, method)
            return
        if query and operation != EXPORT and path != SESSIONS:
            raise BadQuery(_NO_QUERY)
        if HEADER in headers:
            raise BadHeader("X-Rope-Params is for calls without a session: use the body")
        with Charge(self._inference.admission, tenant) as charge:
            watch = partial(disconnected, receive)
            context = RequestContext(
                deadline, charge, watch, tenant, log_fields=scope[io.LOG_FIELDS]
            )
            if operation == EXPORT:
                await send_export(self._handler, session_id, query, context, receive, send)
                return
            if method == "DELETE":
                await self._handler.call(session_id, "delete", NO_MESSAGE, context)
                await io.send(send, 204, [], [])
                return
            codec = codec_for(headers.get(b"content-type"))
            accepted = negotiate_response_codec(headers.get(b"accept")) or codec
            if headers.get(b"content-encoding", b"identity") != b"identity":
                raise UnsupportedMediaType("Content-Encoding must be absent or identity")
            if path == SESSIONS and codec is safetensors_codec:
                start = await receive_start(context, receive)
                header = await read_import_header(start, self._inference, context)
                if header is not None:
                    answer = await receive_import(
                        self._handler, header, start, headers, query, context
                    )
                    await _send(send, answer, json_codec.encode(answer.message), json_codec)
                    return
                receive = start.receive
            if query:
                raise BadQuery(_NO_EXPORT if path == SESSIONS else _NO_QUERY)
            batcher = self._inference.batcher
            if (operation in _RUNS or path == STEP_MANY) and batcher.load.num_waiting:
                batcher.check(deadline, tenant)
            body = await read_body(self._inference, context, receive, headers, codec.memory_factor)
            message, as_base64 = await self._decode(codec, body, context)
            factor = accepted.answer_memory_factor
            if path == SESSIONS or operation == "fork":
                options = await self._create_options(headers, path, body, context)
                del body
                if operation == "fork":
                    answering = self._handler.fork(session_id, message, context, options)
                else:
                    answering = self._handler.create(message, context, options)
            elif path == STEP_MANY:
                answering = self._handler.step_many(message, context, factor)
            else:
                name = operation or "change"
                answering = self._handler.call(session_id, name, message, context, factor)
            body = b""
            del message  # the tensors are freed when the call has run
            answer = await answering
            if answer.is_document:
                accepted = json_codec
            if answer.num_bytes > accepted.inline_limit_bytes:
                encode = accepted.encode
                parts = await self._inference.to_thread(None, encode, answer.message, as_base64)
            else:
                parts = accepted.encode(answer.message, as_base64)
            if answer.expires_in_s is not None:
                left_s = answer.expires_in_s(self._handler.services.registry.clock())
                answer = answer._replace(headers={"X-Session-Expires-In": str(int(left_s))})
            await _send(send, answer, parts, accepted)

    def _read(self, tenant: Tenant, session_id: str, query: bytes) -> SessionAnswer:
        """Return the document of a session, or a list of all."""
        if session_id:
            if query:
                raise BadQuery("this route has no parameters in the query")
            return self._handler.inspect(session_id, tenant)
        values = read_unique(query, ("name", "cursor", "limit"), repeatable=("label",))
        return self._handler.list(
            tenant,
            labels=[value for name, value in read_query(query) if name == "label"],
            name=values.get("name"),
            cursor=values.get("cursor"),
            limit=values.get("limit"),
        )

    async def _decode(self, codec: Codec, body: Buffer, context: RequestContext) -> Decoded:
        """Return the message of a body; a long text is parsed on a thread."""
        decode = codec.decode
        if codec is json_codec:
            decode = partial(json_codec.decode, tensor_names=TENSORS)
        if len(body) > SHORT_BODY_BYTES and (text_bytes := codec.long_text_bytes(body)):
            factor = json_codec.memory_factor - codec.memory_factor
            context.charge.add(text_bytes * factor)
            return await self._inference.to_thread(context.deadline, decode, body)
        return decode(body)

    async def _create_options(
        self, headers: Mapping[bytes, bytes], path: str, body: Buffer, context: RequestContext
    ) -> CreateOptions:
        """Return how a repeat of a request that creates sessions is recognised."""
        key = headers.get(b"idempotency-key")
        if key is None:
            return CreateOptions()
        if len(body) <= INLINE_DIGEST_BYTES:
            digest = request_digest(path, body)
        else:
            to_thread = self._inference.to_thread
            digest = await to_thread(context.deadline, request_digest, path, body)
        return CreateOptions(key.decode("latin-1"), digest)


def _check_session_header(headers: Mapping[bytes, bytes], session_id: str) -> None:
    """Raise BadHeader if X-Session-Id is another id than that of the path."""
    value = headers.get(b"x-session-id")
    if value is not None and value.decode("latin-1") != session_id:
        raise BadHeader("X-Session-Id must be the id in the path")


async def _send(
    send: Send, answer: SessionAnswer, parts: list[Buffer], codec: Codec, method: str = ""
) -> None:
    """Send an answer, without its body to HEAD."""
    headers: Headers = [
        (b"content-type", codec.media_type.encode()),
        (b"content-length", b"%d" % sum(map(len, parts))),
        *io.server_timing(answer.completed, answer.backend),
    ]
    if answer.restore_s:
        headers.append((b"server-timing", b"restore;dur=%.3f" % (answer.restore_s * 1e3)))
    for name, value in answer.headers.items():
        headers.append((name.lower().encode(), value.encode()))
    if warnings := answer.message.params.values.get("warnings"):
        headers.append(io.warning_header(warnings))
    await io.send(send, answer.status, headers, [] if method == "HEAD" else parts)


async def _refuse(
    scope: Scope, send: Send, status: int, detail: str, allowed: tuple[str, ...] = ()
) -> None:
    """Answer a request that matches no route; the path is not shown, as it has the id."""
    answer = problems.refuse(status, detail)
    scope[io.LOG_FIELDS].update(answer.log_fields)
    if allowed:
        answer.headers.append((b"allow", ", ".join(allowed).encode()))
    await io.send(send, status, answer.headers, [answer.body])


def _unknown(operation: str) -> str:
    near = nearest(operation, [*OPERATIONS])
    hint = f"did you mean {near}? " if near else ""
    return f"a session has no operation {printable(operation)}; {hint}GET /docs lists all routes"
