"""Routes for operators, load balancers and Prometheus; lists of presets and variants."""

import platform
from typing import Any

import torch
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from service import __version__
from service.endpoints.catalog import list_presets, list_variants
from service.endpoints.table import ENDPOINTS
from service.errors import UnknownName
from service.inference.handler import InferenceHandler
from service.lifecycle import Lifecycle, Phase
from service.observability import metrics
from service.page.application import PREFIX
from service.server.page_routes import is_browser, redirect_to_page
from service.v1.openapi import json_content, ref
from service.v1.schemas import Healthz, Limits, Presets, Readyz, Variants, Version

INDEX = {
    "name": "rope-service",
    "version": __version__,
    "docs": "/docs",
    "openapi": "/openapi.json",
    "v1": [endpoint.path for endpoint in ENDPOINTS] + ["/v1/presets", "/v1/variants"],
    "v2": "/v2",
    "health": "/healthz",
    "readiness": "/readyz",
    "metrics": "/metrics",
}
"""The answer of `GET /`: where to go on."""


def status_routes(service: InferenceHandler, lifecycle: Lifecycle) -> APIRouter:
    """Return the routes of health, metrics, version and catalogue."""
    router = APIRouter()
    not_ready = json_content(ref(Readyz.__name__))
    not_ready["application/json"]["example"] = Readyz(status=Phase.WARMING_UP.value)

    has_page = service.settings.page

    @router.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        if not has_page:
            return JSONResponse(INDEX)
        if is_browser(request):
            return redirect_to_page()
        return JSONResponse(INDEX | {"page": f"{PREFIX}/"}, headers={"vary": "accept"})

    @router.get(
        "/healthz",
        tags=["status"],
        summary="200 while the process lives",
        responses=_documents(Healthz),
    )
    async def healthz() -> JSONResponse:
        """Stays 200 during a drain and with a full queue. Needs no API key."""
        return JSONResponse(Healthz(status="alive"))

    @router.get(
        "/readyz",
        tags=["status"],
        summary="200 when ready for traffic, else 503",
        responses=_documents(Readyz) | {503: {"description": "Not ready", "content": not_ready}},
    )
    async def readyz() -> JSONResponse:
        """The answer is 503 during the warm-up, from SIGTERM on, and after a device failure."""
        ready = lifecycle.phase is Phase.READY
        status, headers = 200 if ready else 503, {"x-rope-device": service.engine.device.name}
        return JSONResponse({"status": lifecycle.phase.value}, status, headers)

    @router.get(
        "/metrics",
        tags=["status"],
        summary="Measurements, for Prometheus",
        response_class=PlainTextResponse,
    )
    async def show_metrics() -> Response:
        """The text format of Prometheus."""
        return Response(service.metrics.render(), media_type=metrics.CONTENT_TYPE)

    @router.get(
        "/v1/presets",
        tags=["catalogue"],
        summary="Released models: name, config, source",
        dependencies=[Depends(_refuse_query)],
        responses=_documents(Presets),
    )
    async def presets() -> Response:
        """Each name is a value of `rope`, for example `"rope": "llama-3.1-8b"`."""
        return Response(list_presets(service.rope_resolver), media_type="application/json")

    @router.get(
        "/v1/variants",
        tags=["catalogue"],
        summary="Variants, schemes, position builders",
        dependencies=[Depends(_refuse_query)],
        responses=_documents(Variants),
    )
    async def variants() -> JSONResponse:
        """What `rope_type`, `axes` and `builder` accept, with the parameters of each."""
        return JSONResponse(list_variants())

    @router.get(
        "/version",
        tags=["status"],
        summary="Versions, device and limits",
        responses=_documents(Version),
    )
    async def version() -> JSONResponse:
        """Versions of the service, PyTorch and Python, the device that computes, and the limits."""
        versions = Version(
            version=__version__,
            torch=torch.__version__,
            python=platform.python_version(),
            device=service.engine.device.name,
            limits=_limits(service),
        )
        return JSONResponse(versions)

    return router


def _limits(service: InferenceHandler) -> Limits:
    settings = service.settings
    return Limits(
        max_body_bytes=settings.max_body_bytes,
        max_json_bytes=settings.max_json_bytes,
        max_header_bytes=settings.max_header_bytes,
        max_target_bytes=settings.max_target_bytes,
        memory_budget_bytes=service.admission.max_bytes,
        max_call_s=settings.max_call_s,
        max_queue_calls=settings.max_queue_calls,
        max_queue_s=settings.max_queue_s,
        default_timeout_s=settings.default_timeout_s,
        max_timeout_s=settings.max_timeout_s,
        max_sessions=settings.max_sessions,
    )


def _documents(kind: type[Any]) -> dict[int | str, dict[str, Any]]:
    """Return the description of an answer for OpenAPI.

    From a type FastAPI would build a schema, twice, at each start of the service.
    """
    return {200: {"content": json_content(ref(kind.__name__))}}


async def _refuse_query(request: Request) -> None:
    """Raise UnknownName if a request has a query: the routes have no parameters."""
    if request.scope["query_string"]:
        raise UnknownName("parameter", next(iter(request.query_params), ""), [])
