"""The routes of `/v2` that infer: the exchange of the protocol around that of `/v1`."""

import time
from typing import cast

from service.asgi import io
from service.asgi.io import Event, Receive, Scope, Send
from service.batching.admission import Charge
from service.errors import ClientLeft
from service.oip.errors import describe
from service.oip.http.codec import LENGTH, HttpInferCodec
from service.oip.http.compression import inflate
from service.oip.infer.models import MODELS, VERSION, Model
from service.oip.infer.plan import InferPlan
from service.oip.state import OipState
from service.v1.routes import Route
from service.wire import Buffer, Codec


class InferRoute(Route):
    """Inference by one model, as an ASGI application that answers its failures itself."""

    def __init__(self, model: Model, oip_state: OipState) -> None:
        super().__init__(model.endpoint, oip_state.service)
        self._model = model
        self._planner = oip_state.parser
        self._statistics = oip_state.statistics[model.name]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = False

        async def watched(event: Event) -> None:
            nonlocal begun
            begun = True
            await send(event)

        started = time.perf_counter()
        try:
            served = await self.serve(scope, receive, watched)
        except Exception as failure:
            self._statistics.failed(failure, started)
            if begun or isinstance(failure, ClientLeft):
                raise
            status, headers, body = describe(self._model.told(failure))
            await io.send(send, status, headers, [body])
        else:
            assert served.answer is not None, "all models take the device"
            self._statistics.answered(served.answer, started, served.write_s)

    def _codecs(self, headers: dict[bytes, bytes]) -> tuple[Codec, Codec]:
        limit = self._service.settings.max_json_bytes
        exchange = HttpInferCodec(self._model, headers, self._planner, limit)
        return exchange, exchange

    async def _receive(
        self, headers: dict[bytes, bytes], codec: Codec, receive: Receive, charge: Charge
    ) -> Buffer:
        exchange, memory_factor = cast(HttpInferCodec, codec), codec.memory_factor
        charge.add(exchange.text_bytes)
        if exchange.coding is None:
            return await self._receive_raw(headers, memory_factor, receive, charge)
        body = await self._receive_raw(headers, 1, receive, charge)

        def charge_piece(num_bytes: int) -> None:
            charge.add(num_bytes * memory_factor)

        return await inflate(body, self._service, self._limit(memory_factor), charge_piece)

    def _charge_read(self, codec: Codec, charge: Charge) -> None:
        charge.add(_plan_of(codec).region_bytes)

    def _queue_s(self, codec: Codec) -> float | None:
        return _plan_of(codec).queue_s

    def _named(self, codec: Codec) -> io.Headers:
        exchange = cast(HttpInferCodec, codec)
        named = super()._named(codec)
        if exchange.json_bytes is not None:
            length = str(exchange.json_bytes).encode()
            named.append((LENGTH, length))
        if exchange.answer_coding is not None:
            named.append((b"content-encoding", exchange.answer_coding))
        return named


def _plan_of(codec: Codec) -> InferPlan:
    plan = cast(HttpInferCodec, codec).plan
    assert plan is not None, "decoded before"
    return plan


def infer_routes(oip_state: OipState) -> dict[str, Route]:
    """Return the routes that infer, by path."""
    routes: dict[str, Route] = {}
    for model in MODELS.values():
        route = InferRoute(model, oip_state)
        for version in ("", f"/versions/{VERSION}"):
            routes[f"/v2/models/{model.name}{version}/infer"] = route
    return routes
