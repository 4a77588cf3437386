"""The routes of `/v2` that do not infer."""

import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute

from service.errors import BadMessage, ServiceError, TooLarge
from service.lifecycle import Lifecycle, Phase
from service.oip import metadata, validate
from service.oip.errors import NotLoadable, NotServed, UnknownRegion, describe
from service.oip.infer.models import Model, model_of
from service.oip.shm.registry import Regions
from service.oip.state import OipState
from service.oip.types import (
    IndexEntry,
    LogSettings,
    ModelConfiguration,
    ModelMetadata,
    ServerMetadata,
    Statistics,
    TraceSettings,
)

MAX_BODY_BYTES = 2**16

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ControlRoute(APIRoute):
    """A route whose failures are told in the protocol's form."""

    def get_route_handler(self) -> Handler:
        """Return what answers a request."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(request)
            except ServiceError as failure:
                status, headers, body = describe(failure)
                response = Response(body, status)
                response.raw_headers = headers
                return response

        return answer


def control_routes(oip_state: OipState) -> APIRouter:
    """Return all routes of `/v2` that do not infer."""
    router = APIRouter(route_class=ControlRoute, prefix="/v2", tags=["Open Inference Protocol"])
    _add_server(router, oip_state.lifecycle, oip_state.regions)
    _add_models(router, oip_state)
    _add_repository(router, oip_state.lifecycle)
    _add_system_memory(router, oip_state.regions)
    _add_cuda_memory(router)
    log = metadata.describe_log(oip_state.handler.settings.log_level)
    _add_settings(router, "/trace/setting", "tracing", metadata.TRACE)
    _add_settings(router, "/models/{name}/trace/setting", "tracing", metadata.TRACE)
    _add_settings(router, "/logging", "logging", log)
    return router


def _model(request: Request) -> Model:
    """Return whom a path names; what a query says has no meaning here."""
    return model_of(request.path_params["name"], request.path_params.get("version", ""))


def _ready(lifecycle: Lifecycle, told: dict[str, Any]) -> JSONResponse:
    is_ready = lifecycle.phase is Phase.READY
    return JSONResponse(told | {"ready": is_ready}, 200 if is_ready else 503)


def _add_server(router: APIRouter, lifecycle: Lifecycle, regions: Regions) -> None:
    @router.get("", summary="Name, version and extensions of the service")
    async def server() -> ServerMetadata:
        return metadata.describe_server(regions.is_on)

    @router.get("/health/live", summary="200 while the process can recover")
    async def live() -> JSONResponse:
        lives = lifecycle.phase not in (Phase.LOST, Phase.STUCK)
        return JSONResponse({"live": lives}, 200 if lives else 503)

    @router.get("/health/ready", summary="200 when traffic is welcome, else 503")
    async def ready() -> JSONResponse:
        return _ready(lifecycle, {})


def _add_models(router: APIRouter, oip_state: OipState) -> None:
    lifecycle, statistics = oip_state.lifecycle, oip_state.statistics

    @router.get("/models/stats", summary="What all models have done")
    async def all_stats() -> Statistics:
        return {"model_stats": [each.describe() for each in statistics.values()]}

    for version in ("", "/versions/{version}"):
        path = "/models/{name}" + version

        @router.get(path, summary="Inputs and outputs of a model")
        async def model_metadata(request: Request) -> ModelMetadata:
            return metadata.describe_model(_model(request))

        @router.get(path + "/ready", summary="200 when a model can be asked")
        async def model_ready(request: Request) -> JSONResponse:
            return _ready(lifecycle, {"name": _model(request).name})

        @router.get(path + "/config", summary="Configuration of a model, as Triton tells it")
        async def config(request: Request) -> ModelConfiguration:
            return metadata.configure(_model(request), oip_state.on_gpu)

        @router.get(path + "/stats", summary="What a model has done")
        async def stats(request: Request) -> Statistics:
            return {"model_stats": [statistics[_model(request).name].describe()]}

        @router.post(path + "/infer", summary="Infer")
        async def nobody(request: Request) -> None:
            _model(request)  # those that exist never come here


def _add_repository(router: APIRouter, lifecycle: Lifecycle) -> None:
    @router.post("/repository/index", summary="All models")
    async def index(request: Request) -> list[IndexEntry]:
        asked = await _read(request)
        return metadata.list_models(lifecycle, validate.boolean("ready", asked.get("ready", False)))

    @router.post("/repository/models/{name}/load", summary="Refused")
    @router.post("/repository/models/{name}/unload", summary="Refused")
    async def control(name: str) -> None:
        raise NotLoadable


def _add_system_memory(router: APIRouter, regions: Regions) -> None:
    def status(region: str | None) -> list[dict[str, Any]]:
        return [dataclasses.asdict(each) for each in regions.status(region)]

    def unregister(region: str | None) -> Response:
        regions.unregister(region)
        return Response()

    path = "/systemsharedmemory"

    @router.get(path + "/status", summary="All regions")
    async def all_regions() -> list[dict[str, Any]]:
        return status(None)

    @router.get(path + "/region/{region}/status", summary="One region")
    async def one_region(region: str) -> list[dict[str, Any]]:
        return status(region)

    @router.post(path + "/region/{region}/register", summary="Register a region")
    async def register(region: str, request: Request) -> Response:
        regions.check_on()
        asked = await _read(request)
        regions.register(region, asked.get("key"), asked.get("offset", 0), asked.get("byte_size"))
        return Response()

    @router.post(path + "/unregister", summary="Unregister all regions")
    async def unregister_all() -> Response:
        return unregister(None)

    @router.post(path + "/region/{region}/unregister", summary="Unregister a region")
    async def unregister_one(region: str) -> Response:
        return unregister(region)


def _add_cuda_memory(router: APIRouter) -> None:
    path, one = "/cudasharedmemory", "/cudasharedmemory/region/{region}"

    @router.get(path + "/status", summary="Regions of CUDA memory: none")
    async def none() -> list[Any]:
        return []

    @router.get(one + "/status", summary="A region of CUDA memory: there is none")
    async def no_region(region: str) -> None:
        raise UnknownRegion(metadata.NO_CUDA_MEMORY)

    @router.post(path + "/unregister", summary="Done: there are none")
    @router.post(one + "/unregister", summary="Done: there are none")
    async def done() -> Response:
        return Response()

    @router.post(one + "/register", summary="Refused")
    async def refused(region: str) -> None:
        raise NotServed(metadata.NO_CUDA_MEMORY)


def _add_settings(
    router: APIRouter, path: str, what: str, settings: TraceSettings | LogSettings
) -> None:
    @router.get(path, summary=f"Settings of {what}")
    async def get(request: Request) -> TraceSettings | LogSettings:
        if "name" in request.path_params:
            _model(request)
        return settings

    @router.post(path, summary=f"Settings of {what}; to change one is refused")
    async def change(request: Request) -> TraceSettings | LogSettings:
        if "name" in request.path_params:
            _model(request)
        if await _read(request):
            raise NotServed(metadata.UNCHANGED)
        return settings


async def _read(request: Request) -> dict[str, Any]:
    """Return the object that a body is; a body may be missing."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge("the body, in bytes,", MAX_BODY_BYTES, "more")
    try:
        return validate.mapping("the body", orjson.loads(body) if body.strip() else {})
    except orjson.JSONDecodeError as broken:
        raise BadMessage(f"not JSON: {broken}") from None
