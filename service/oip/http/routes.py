"""The routes of `/v2` that infer: decode, infer, encode. Plain ASGI, without FastAPI's cost."""

import time
from collections.abc import Mapping
from functools import partial

from service.access.tenant import ANONYMOUS
from service.asgi import io
from service.asgi.body import disconnected, read_body
from service.asgi.io import Receive, Scope, Send
from service.batching.admission import Charge
from service.errors import BadQuery, ClientLeft, UnsupportedMediaType
from service.inference.handler import RequestContext
from service.oip.errors import describe
from service.oip.http.codec import (
    JSON_LENGTH_NAME,
    InferHeaders,
    NotJson,
    decode,
    encode,
    explain_not_json,
    parse_headers,
)
from service.oip.http.compression import inflate
from service.oip.infer.models import Model
from service.oip.infer.plan import InferRequest
from service.oip.infer.run import INLINE_WRITE_BYTES, run_model
from service.oip.state import OipState
from service.wire import Buffer, json_codec

OCTETS = b"application/octet-stream"
"""Media type of a body with binary tensors. Some clients name it for JSON as well."""


class InferRoute:
    """Inference by one model as an ASGI application that answers its own failures."""

    def __init__(self, model: Model, oip_state: OipState) -> None:
        self._model = model
        self._oip_state = oip_state
        self._handler = oip_state.handler
        self._parser = oip_state.parser
        self._regions = oip_state.regions
        self._statistics = oip_state.statistics[model.name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        with Charge(self._handler.admission, scope.get(io.TENANT, ANONYMOUS)) as charge:
            status = 200
            try:
                headers, parts = await self._infer(scope, receive, charge)
            except ClientLeft:
                raise
            except Exception as failure:
                answer = describe(failure)
                status, headers, parts = answer.status, answer.headers, [answer.body]
                scope[io.LOG_FIELDS].update(answer.log_fields)
            await io.send(send, status, headers, parts)

    async def _infer(
        self, scope: Scope, receive: Receive, charge: Charge
    ) -> tuple[io.Headers, list[Buffer]]:
        """Return headers and body of the answer."""
        handler, model, headers = self._handler, self._model, scope[io.HEADERS_BY_NAME]
        with self._statistics.count() as started:
            if scope["query_string"]:
                raise BadQuery("/v2 has no query; here parameters are in the JSON")
            infer_headers = parse_headers(headers, handler.settings.max_json_bytes)
            deadline = handler.deadline(io.timeout_s(headers))
            if handler.batcher.load.num_waiting:
                handler.batcher.check(deadline, charge.tenant)
            watch = partial(disconnected, receive)
            context = RequestContext(
                deadline, charge, watch, charge.tenant, log_fields=scope[io.LOG_FIELDS]
            )
            reading = self._read(context, infer_headers, receive, headers)
            request_id, plan, served = await run_model(self._oip_state, model, context, reading)
            write_started = time.monotonic()
            coding = infer_headers.response_coding
            write = partial(encode, model, request_id, plan, coding, served.message)
            if coding or not (plan.is_binary or served.num_bytes <= INLINE_WRITE_BYTES):
                response_headers, parts = await handler.to_thread(None, write)
            else:
                response_headers, parts = write()
            self._statistics.add_success(served.completed, started, write_started)
        response_headers += io.server_timing(served.completed, served.backend)
        return response_headers, parts

    async def _read(
        self,
        context: RequestContext,
        infer_headers: InferHeaders,
        receive: Receive,
        headers: Mapping[bytes, bytes],
    ) -> InferRequest:
        handler, model, parser = self._handler, self._model, self._parser
        json_bytes, memory_factor = infer_headers.json_bytes, 1
        if json_bytes is None:
            memory_factor = json_codec.memory_factor
        else:  # the rest of the body is bytes of tensors
            context.charge.add(json_bytes * (json_codec.memory_factor - 1))
        if infer_headers.coding is None:
            body = await read_body(handler, context, receive, headers, memory_factor)
        else:
            compressed = await read_body(handler, context, receive, headers, 1)
            body = await inflate(handler, context, compressed, memory_factor)
        num_json_bytes = len(body) if json_bytes is None else json_bytes
        is_short = num_json_bytes <= json_codec.inline_limit_bytes
        try:
            if is_short and not self._regions.enabled:  # a region may be long
                return decode(model, parser, json_bytes, body)
            deadline = context.deadline
            return await handler.to_thread(deadline, decode, model, parser, json_bytes, body)
        except NotJson as failure:
            hint = explain_not_json(body, json_bytes)
            if json_bytes is not None or headers.get(b"content-type") != OCTETS:
                raise NotJson(f"{failure}; {hint}" if hint else str(failure)) from None
            hint = hint or f"a body with binary tensors needs {JSON_LENGTH_NAME}"
            raise UnsupportedMediaType(f"{failure}; {hint}") from None


def infer_routes(oip_state: OipState) -> dict[str, InferRoute]:
    """Return the routes that infer, by path."""
    return {
        path: InferRoute(model, oip_state)
        for model in oip_state.repository.models.values()
        for path in model.infer_paths
    }
