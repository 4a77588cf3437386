"""The routes of `/v2` that do not infer: one table, which is served and described by OpenAPI."""

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from service.asgi import io
from service.errors import BadMessage, ClientLeft, Overloaded, ServiceError, TooLarge
from service.oip import errors, validate
from service.oip.control import REFUSALS, Control
from service.oip.state import OipState
from service.oip.types import IndexRequest, NoSettings, RegisterRequest

MAX_BODY_BYTES = 2**16

BODY_ERRORS = (BadMessage, TooLarge)
"""Errors of all routes with a body."""


@dataclass(frozen=True, slots=True)
class Route:
    """A route, as it is served and as OpenAPI describes it."""

    method: str
    operation_id: str
    path: str
    answer: Callable[..., Any]
    """Makes the document of the response. The first line of its docstring is the summary."""
    errors: tuple[type[ServiceError], ...] = ()
    """Errors of the operation, without those of a bad body."""
    body: type[Any] | None = None
    """Type of the request's body; None for a route without a body."""
    probe: str | None = None
    """Key of the document whose value false makes the status 503."""

    @property
    def response(self) -> Any:
        """Type of the document: None for an empty response, NoReturn for a refusal."""
        return inspect.signature(self.answer, eval_str=True).return_annotation


def _refused(method: str, name: str, path: str) -> Route:
    return Route(method, name, path, REFUSALS[name], (REFUSALS[name].error,))


_get, _post = partial(Route, "GET"), partial(Route, "POST")
_MODEL, _VERSION = "/models/{name}", "/models/{name}/versions/{version}"
_SHM, _CUDA = "/systemsharedmemory", "/cudasharedmemory"
_REGION, _CUDA_REGION = f"{_SHM}/region/{{region}}", f"{_CUDA}/region/{{region}}"
_UNREGISTER, _TRACE = Control.unregister_system_memory, Control.trace_settings
_OFF = (errors.SharedMemoryOff,)

ROUTES: tuple[Route, ...] = (
    _get("server_metadata", "", Control.server_metadata),
    _get("server_live", "/health/live", Control.server_live, probe="live"),
    _get("server_ready", "/health/ready", Control.server_ready, probe="ready"),
    _get("all_statistics", "/models/stats", Control.model_statistics),
    *(
        _get(prefix + name, path + suffix, answer, (errors.UnknownModel,), probe=probe)
        for path, prefix in ((_MODEL, "model_"), (_VERSION, "model_version_"))
        for suffix, name, answer, probe in (
            ("", "metadata", Control.model_metadata, None),
            ("/ready", "ready", Control.model_ready, "ready"),
            ("/config", "config", Control.model_config, None),
            ("/stats", "statistics", Control.model_statistics, None),
        )
    ),
    _post("repository_index", "/repository/index", Control.repository_index, (), IndexRequest),
    _refused("POST", "load_model", "/repository/models/{name}/load"),
    _refused("POST", "unload_model", "/repository/models/{name}/unload"),
    _get("system_memory", f"{_SHM}/status", Control.system_memory, _OFF),
    _get(
        "system_memory_region",
        f"{_REGION}/status",
        Control.system_memory,
        (errors.UnknownRegion, errors.SharedMemoryOff),
    ),
    _post(
        "register_system_memory",
        f"{_REGION}/register",
        Control.register_system_memory,
        (errors.SharedMemoryOff, Overloaded),
        RegisterRequest,
    ),
    _post("unregister_all_system_memory", f"{_SHM}/unregister", _UNREGISTER, _OFF),
    _post("unregister_system_memory", f"{_REGION}/unregister", _UNREGISTER, _OFF),
    _get("cuda_memory", f"{_CUDA}/status", Control.cuda_memory),
    _refused("GET", "cuda_memory_region", f"{_CUDA_REGION}/status"),
    _refused("POST", "register_cuda_memory", f"{_CUDA_REGION}/register"),
    _post("unregister_all_cuda_memory", f"{_CUDA}/unregister", Control.unregister_cuda_memory),
    _post("unregister_cuda_memory", f"{_CUDA_REGION}/unregister", Control.unregister_cuda_memory),
    _get("log_settings", "/logging", Control.log_settings),
    _post("update_log_settings", "/logging", Control.log_settings, (errors.NotServed,), NoSettings),
    _get("trace_settings", "/trace/setting", _TRACE),
    _post("update_trace_settings", "/trace/setting", _TRACE, (errors.NotServed,), NoSettings),
    _get("model_trace_settings", f"{_MODEL}/trace/setting", _TRACE, (errors.UnknownModel,)),
    _post(
        "update_model_trace_settings",
        f"{_MODEL}/trace/setting",
        _TRACE,
        (errors.UnknownModel, errors.NotServed),
        NoSettings,
    ),
)
"""Paths are below `/v2`."""


def control_routes(oip_state: OipState) -> APIRouter:
    """Return the routes of ROUTES, and routes that answer inference by unknown models."""
    control = Control(oip_state)
    router = APIRouter(prefix="/v2", include_in_schema=False)
    for route in ROUTES:
        router.add_api_route(route.path, _endpoint(route, control), methods=[route.method])
    for path in (f"{_MODEL}/infer", f"{_VERSION}/infer"):
        unknown = _post("infer", path, Control.model_ready)  # raises UnknownModel
        router.add_api_route(path, _endpoint(unknown, control), methods=["POST"])
    return router


def _endpoint(route: Route, control: Control) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    async def respond(request: Request) -> Response:
        arguments = dict(request.path_params)
        try:
            if route.body is not None:
                arguments["read_body"] = partial(_parse, await _receive(request))
            document = route.answer(control, **arguments)
        except ClientLeft:
            raise
        except ServiceError as error:
            answer = errors.describe(error)
            request.scope[io.LOG_FIELDS].update(answer.log_fields)
            response = Response(answer.body, answer.status)
            response.raw_headers = answer.headers
            return response
        if document is None:
            return Response()
        is_false = route.probe is not None and not document[route.probe]
        body = orjson.dumps(document)
        return Response(body, 503 if is_false else 200, media_type="application/json")

    return respond


async def _receive(request: Request) -> bytes | TooLarge:
    """Return the body, or an error if the body is over the limit; then its rest is not received.

    Raises:
        ClientLeft: the client disconnected before the end of the body.
        SlowRequest: the body arrives too slowly.
    """
    too_large = TooLarge("the body, in bytes,", MAX_BODY_BYTES, "more")
    if int(request.headers.get("content-length", 0)) > MAX_BODY_BYTES:
        return too_large
    body, more = bytearray(), True
    while more:
        event = await request.receive()
        if event["type"] == "http.disconnect":
            raise ClientLeft
        body += event.get("body", b"")
        more = event.get("more_body", False)
        if len(body) > MAX_BODY_BYTES:
            return too_large
    return bytes(body)


def _parse(body: bytes | TooLarge) -> dict[str, Any]:
    """Return the JSON object in a body; an empty body is an empty object."""
    if isinstance(body, TooLarge):
        raise body
    try:
        return validate.instance("the body", orjson.loads(body) if body.strip() else {}, dict)
    except orjson.JSONDecodeError as error:
        raise BadMessage(f"not JSON: {error}") from None
