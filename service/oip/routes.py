"""The routes of `/v2` that infer: the exchange of the protocol around that of `/v1`."""

from service import http
from service.calling import Service
from service.errors import ClientLeft
from service.http import Event, Receive, Scope, Send
from service.oip.errors import describe
from service.oip.exchange import LENGTH, Exchange
from service.oip.models import MODELS, VERSION, Model
from service.routes import Route
from service.wire import Codec


class InferRoute(Route):
    """Inference by one model, as an ASGI application that answers its failures itself."""

    def __init__(self, model: Model, service: Service) -> None:
        super().__init__(model.endpoint, service)
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        begun = False

        async def watched(event: Event) -> None:
            nonlocal begun
            begun = True
            await send(event)

        try:
            await super().__call__(scope, receive, watched)
        except ClientLeft:
            raise
        except Exception as failure:
            if begun:
                raise
            status, headers, body = describe(failure)
            await http.send(send, status, headers, [body])

    def _codecs(self, headers: dict[bytes, bytes]) -> tuple[Codec, Codec]:
        limit = self._service.settings.max_json_bytes
        exchange = Exchange(self._model, headers.get(LENGTH), limit)
        return exchange, exchange

    def _named(self, codec: Codec) -> http.Headers:
        named = super()._named(codec)
        if isinstance(codec, Exchange) and codec.json_bytes is not None:
            named.append((b"inference-header-content-length", str(codec.json_bytes).encode()))
        return named


def infer_routes(service: Service) -> dict[str, Route]:
    """Return the routes that infer, by path."""
    routes: dict[str, Route] = {}
    for model in MODELS.values():
        route = InferRoute(model, service)
        for version in ("", f"/versions/{VERSION}"):
            routes[f"/v2/models/{model.name}{version}/infer"] = route
    return routes
