"""The routes of `/v1`: decode, infer, encode. Plain ASGI, without FastAPI's cost."""

from dataclasses import replace
from functools import partial
from typing import Any

from service.access.tenant import ANONYMOUS
from service.asgi import io
from service.asgi.body import disconnected, read_body
from service.asgi.io import Receive, Scope, Send
from service.batching.admission import Charge
from service.endpoints.table import Endpoint
from service.errors import UnsupportedMediaType
from service.inference.handler import InferenceHandler, RequestContext
from service.v1.http_params import HEADER, merge_params, read_http_params
from service.wire import codec_for, json_codec, negotiate_response_codec, safetensors_codec

SHORT_BODY_BYTES = safetensors_codec.MAX_INLINE_HEADER_BYTES
"""Bodies of up to this size are parsed on the event loop, in every format."""


class Route:
    """One endpoint as an ASGI application."""

    def __init__(self, endpoint: Endpoint[Any], handler: InferenceHandler) -> None:
        self._endpoint = endpoint
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request.

        Raises:
            ServiceError, RopeError: the request cannot be answered.
        """
        headers = scope[io.HEADERS_BY_NAME]
        codec = codec_for(headers.get(b"content-type"))
        response_codec = negotiate_response_codec(headers.get(b"accept")) or codec
        handler = self._handler
        deadline = handler.deadline(io.timeout_s(headers))
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise UnsupportedMediaType("Content-Encoding must be absent or identity")
        query, http_params = scope["query_string"], []
        if query or HEADER in headers:
            http_params = read_http_params(query, headers, self._endpoint)
        tenant = scope.get(io.TENANT, ANONYMOUS)
        waits = self._endpoint.needs_device or self._endpoint.needs_worker
        batcher = handler.worker_queue.batcher if self._endpoint.needs_worker else handler.batcher
        if waits and batcher.load.num_waiting:
            batcher.check(deadline, tenant)
        with Charge(handler.admission, tenant) as charge:
            watch = partial(disconnected, receive)
            context = RequestContext(
                deadline, charge, watch, tenant, log_fields=scope[io.LOG_FIELDS]
            )
            body = await read_body(handler, context, receive, headers, codec.memory_factor)
            if len(body) > SHORT_BODY_BYTES and (text_bytes := codec.long_text_bytes(body)):
                charge.add(text_bytes * (json_codec.memory_factor - codec.memory_factor))
                message, as_base64 = await handler.to_thread(deadline, codec.decode, body)
            else:
                message, as_base64 = codec.decode(body)
            if http_params:
                params = merge_params(message.params, http_params, self._endpoint)
                message = replace(message, params=params)
            memory_factor = response_codec.answer_memory_factor
            serving = handler.infer(self._endpoint, message, context, memory_factor)
            del body, message  # the tensors are freed when the call has run
            served = await serving
            if served.num_bytes > response_codec.inline_limit_bytes:
                encode = response_codec.encode
                parts = await handler.to_thread(None, encode, served.message, as_base64)
            else:
                parts = response_codec.encode(served.message, as_base64)
            response_headers = [
                (b"content-type", response_codec.media_type.encode()),
                (b"content-length", str(sum(map(len, parts))).encode()),
                *io.server_timing(served.completed, served.backend),
            ]
            if warnings := served.message.params.values.get("warnings"):
                response_headers.append(io.warning_header(warnings))
            await io.send(send, 200, response_headers, parts)
