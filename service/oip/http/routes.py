"""The routes of `/v2` that infer: decode, infer, encode. Plain ASGI, without FastAPI's cost."""

import time
from collections.abc import Mapping
from functools import partial

from service.asgi import io
from service.asgi.io import Receive, Scope, Send
from service.batching.admission import Charge
from service.errors import ClientLeft
from service.oip.errors import describe
from service.oip.http.codec import InferHeaders, decode, encode, parse_headers
from service.oip.http.compression import inflate
from service.oip.infer.models import MODELS, VERSION, Model
from service.oip.infer.plan import InferRequest
from service.oip.infer.run import INLINE_WRITE_BYTES, run_model
from service.oip.state import OipState
from service.wire import Buffer, json_codec


class InferRoute:
    """Inference by one model as an ASGI application that answers its own failures."""

    def __init__(self, model: Model, oip_state: OipState) -> None:
        self._model = model
        self._handler = oip_state.handler
        self._parser = oip_state.parser
        self._statistics = oip_state.statistics[model.name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        with Charge(self._handler.admission) as charge:
            status = 200
            try:
                headers, parts = await self._infer(scope[io.HEADERS_BY_NAME], receive, charge)
            except ClientLeft:
                raise
            except Exception as failure:
                status, headers, body = describe(failure)
                parts = [body]
            await io.send(send, status, headers, parts)

    async def _infer(
        self, headers: Mapping[bytes, bytes], receive: Receive, charge: Charge
    ) -> tuple[io.Headers, list[Buffer]]:
        """Return headers and body of the answer."""
        handler, model = self._handler, self._model
        settings = handler.settings
        with self._statistics.count() as counted:
            infer_headers = parse_headers(headers, settings.max_json_bytes)
            deadline = io.deadline(headers, settings.default_timeout_s, settings.max_timeout_s)
            request_id, plan, served = await run_model(
                handler,
                model,
                self._read(infer_headers, headers, receive, deadline, charge),
                deadline=deadline,
                charge=charge,
                disconnected=partial(io.disconnected, receive),
            )
            begun = time.perf_counter()
            coding = infer_headers.response_coding
            write = partial(encode, model, request_id, plan, coding, served.message)
            if coding or not (plan.is_binary or served.num_bytes <= INLINE_WRITE_BYTES):
                response_headers, parts = await handler.to_thread(None, write)
            else:
                response_headers, parts = write()
            counted.answered(served, time.perf_counter() - begun)
        response_headers += io.server_timing(served.completed, served.backend)
        return response_headers, parts

    async def _read(
        self,
        infer_headers: InferHeaders,
        headers: Mapping[bytes, bytes],
        receive: Receive,
        deadline: float,
        charge: Charge,
    ) -> InferRequest:
        handler, parser = self._handler, self._parser
        json_bytes, memory_factor = infer_headers.json_bytes, infer_headers.memory_factor
        charge.add((json_bytes or 0) * (json_codec.memory_factor - 1))
        wire_factor = memory_factor if infer_headers.coding is None else 1
        body = await io.read_body(
            receive,
            headers,
            deadline=deadline,
            max_bytes=handler.max_bytes(wire_factor),
            charge=charge,
            memory_factor=wire_factor,
            buffer_pool=handler.buffer_pool,
        )
        if infer_headers.coding is not None:
            body = await inflate(
                body, handler, deadline=deadline, charge=charge, memory_factor=memory_factor
            )
        is_short = infer_headers.is_inline or len(body) <= json_codec.inline_limit_bytes
        if is_short and not parser.reads_regions:
            return decode(self._model, parser, json_bytes, body)
        return await handler.to_thread(deadline, decode, self._model, parser, json_bytes, body)


def infer_routes(oip_state: OipState) -> dict[str, InferRoute]:
    """Return the routes that infer, by path."""
    routes: dict[str, InferRoute] = {}
    for model in MODELS.values():
        route = InferRoute(model, oip_state)
        for version in ("", f"/versions/{VERSION}"):
            routes[f"/v2/models/{model.name}{version}/infer"] = route
    return routes
