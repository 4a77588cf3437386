"""The application: what is made at start, and the routes that are no endpoints."""

import asyncio
import logging
import platform
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from itertools import chain
from pathlib import Path
from threading import Barrier

import torch
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route as StarletteRoute

from rope_core import ConfigError, Result
from rope_core.backends import fused, varlen
from rope_core.presets import built_in, from_folder
from service import __version__
from service.asgi import problems
from service.asgi.middleware import QUIET, App, Requests
from service.batching.admission import Admission
from service.batching.batcher import Batcher
from service.buffer_pool import BufferPool
from service.device import Accelerator, Cpu, Device, Driver, cgroup, find_driver
from service.endpoints.catalog import list_presets, list_variants
from service.endpoints.rope_resolver import RopeResolver
from service.endpoints.table import ENDPOINTS
from service.errors import DeviceLost, DeviceStuck
from service.inference.backend_policy import BackendPolicy
from service.inference.engine import Engine, Job
from service.inference.handler import InferenceHandler
from service.kernel_builds.builder import KernelBuilder
from service.kernel_builds.warm_up_calls import rare_calls, usual_calls
from service.lifecycle import Lifecycle, Phase
from service.observability import metrics
from service.observability.request_log import RequestLog
from service.oip.errors import refusal
from service.oip.http.control import control_routes
from service.oip.http.routes import infer_routes
from service.oip.openapi import document as oip_openapi
from service.oip.state import OipState
from service.server.warm_up import warm_up
from service.settings import Settings, shapes_of
from service.v1 import openapi
from service.v1.routes import Route
from service.v1.schemas import Healthz, Presets, Readyz, Variants, Version

log = logging.getLogger("rope.app")

STAGING_THREADS = 4
"""Threads of torch on the CPU where a GPU computes, and the CPU only copies.

OpenMP makes a team of threads for each thread that calls torch. Teams of all cores of a large host
would exceed the pid limit of a container, and OpenMP then ends the process.
"""


def create_app(settings: Settings, lifecycle: Lifecycle, driver: Driver | None = None) -> Requests:
    """Return the ASGI application of a service of its own, which lives as its lifespan does.

    Args:
        settings: what the operator wants.
        lifecycle: what the service tells of itself, and is told.
        driver: of the device to compute on; that of `settings.device` where None.
    """
    service, device_threads = build_service(settings, lifecycle, driver)
    return build_app(OipState(service, lifecycle), device_threads)


def build_app(oip_state: OipState, device_threads: ThreadPoolExecutor) -> Requests:
    """Return the ASGI application: FastAPI, in `app`, and the hot routes in front of it."""
    service, lifecycle = oip_state.handler, oip_state.lifecycle
    settings, measured = service.settings, service.metrics
    app = FastAPIOffline(
        title="rope-service",
        version=__version__,
        description="Rotary position embedding and attention over HTTP.",
        lifespan=lambda _: lifespan(oip_state, device_threads),
        redoc_url=None,
        exception_handlers={HTTPException: _refuse},
        generate_unique_id_function=lambda route: route.path.rpartition("/")[2],
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    routes: dict[str, App] = {each.path: Route(each, service) for each in ENDPOINTS}
    routes |= infer_routes(oip_state)
    app.router.redirect_slashes = False  # to what the client calls this host
    app.router.routes += [StarletteRoute(p, r, methods=["POST"]) for p, r in routes.items()]
    _add_status_routes(app, service, lifecycle, measured)
    control = control_routes(oip_state)
    app.include_router(control)
    paths = frozenset(getattr(route, "path", "") for route in (*app.routes, *control.routes))
    describe = app.openapi
    app.openapi = cache(  # type: ignore[method-assign]
        lambda: oip_openapi.describe(openapi.describe(describe()))
    )
    request_log = RequestLog(measured, logged=settings.logs_requests, quiet=QUIET)
    return Requests(
        app, hot=routes, paths=paths, request_log=request_log, is_ending=lambda: lifecycle.ending
    )


@asynccontextmanager
async def lifespan(oip_state: OipState, device_threads: ThreadPoolExecutor) -> AsyncIterator[None]:
    """Warm up, and be there for requests; at the end, answer who still waits."""
    service = oip_state.handler
    if service.engine.device.capabilities.builds_kernels:
        service.batcher.pause()
    loop = asyncio.get_running_loop()

    def restart_watchdog() -> None:  # on the builder's thread: a build is a sign of life
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(service.batcher.restart_watchdog)

    service.builder.on_progress = restart_watchdog
    warming = asyncio.create_task(_warm_up(service, oip_state.lifecycle, device_threads))
    try:
        with torch.inference_mode():  # for all that runs on this thread
            yield
    finally:
        warming.cancel()
        service.builder.close()
        service.batcher.close()
        oip_state.regions.close()
        device_threads.shutdown(wait=False)
        service.io_executor.shutdown(wait=False)


def build_service(
    settings: Settings, lifecycle: Lifecycle, driver: Driver | None = None
) -> tuple[InferenceHandler, ThreadPoolExecutor]:
    """Return what all routes share, and the threads of its device."""
    measured = metrics.Metrics()
    driver = driver or find_driver(settings.device)
    torch.set_num_threads(settings.threads or _num_threads(driver))
    budget = settings.memory_budget_bytes or min(cgroup.memory_bytes() // 4, 4 * 2**30)
    buffer_pool = BufferPool(max_idle_bytes=budget, pinner=driver)
    builder = KernelBuilder(measured)
    device: Device = (
        Cpu(buffer_pool) if driver is None else Accelerator(driver, buffer_pool, builder)
    )
    engine = Engine(
        device,
        max_call_s=settings.max_call_s,
        stuck_s=settings.device_stuck_s,
    )
    max_inflight = device.capabilities.max_inflight
    device_threads = ThreadPoolExecutor(max_inflight, thread_name_prefix="device")
    batcher: Batcher[Job, Result] = Batcher(
        engine.run,
        device_threads,
        max_inflight=max_inflight,
        inline=engine.inline,
        watchdog_timeout_s=engine.watchdog_timeout_s,
        on_failure=partial(_end, lifecycle),
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_bytes=settings.max_batch_bytes or device.capabilities.batch_bytes,
        max_queue_calls=settings.max_queue_calls,
        metrics=measured,
    )
    admission = Admission(budget)
    measured.queue_depth.set_function(lambda: len(batcher.waiting))
    measured.kernel_builds_waiting.set_function(lambda: builder.num_waiting)
    measured.queued_bytes.set_function(lambda: sum(job.num_bytes for job in batcher.waiting))
    measured.admitted_bytes.set_function(lambda: admission.charged_bytes)
    measured.device_memory_bytes.set_function(device.memory_bytes)
    io_executor = ThreadPoolExecutor(1, thread_name_prefix="reader")
    rope_resolver = _ropes(settings.presets_dir)
    choice = BackendPolicy(_backend(settings.backend, device), settings.allow_backend)
    service = InferenceHandler(
        *(
            settings,
            engine,
            choice,
            batcher,
            admission,
            buffer_pool,
            builder,
            rope_resolver,
            io_executor,
            measured,
        )
    )
    lifecycle.abort_pending = batcher.close
    return service, device_threads


def _num_threads(driver: Driver | None) -> int:
    """Return how many threads torch uses on the CPU by default."""
    cpus = cgroup.num_cpus()
    return cpus if driver is None else min(STAGING_THREADS, cpus)


def _ropes(folder: Path | None) -> RopeResolver:
    try:
        own = {} if folder is None else from_folder(folder)
    except ConfigError as wrong:
        raise SystemExit(f"presets_dir: {wrong}") from None
    return RopeResolver({**built_in(), **own})


def _backend(wanted: str, device: Device) -> str | None:
    for backend in (fused, varlen):
        never = backend.unavailable(torch.device(device.name)) if wanted == backend.name else None
        if never is not None:
            raise SystemExit(f"backend {wanted} was asked for, but {never}")
    return None if wanted == "auto" else wanted


async def _warm_up(
    service: InferenceHandler, lifecycle: Lifecycle, device_threads: Executor
) -> None:
    """Build the usual kernels, report ready, then build the rarer kernels."""
    engine, choice, builder = service.engine, service.backend_policy, service.builder
    capabilities, listed = engine.device.capabilities, service.settings.warm_up_shapes
    shapes = capabilities.warm_up_shapes if listed is None else shapes_of(listed)
    loop = asyncio.get_running_loop()
    # not asyncio's default executor, whose threads the end of the loop waits for, even if stuck
    thread = ThreadPoolExecutor(1, thread_name_prefix="warm-up")
    barrier = Barrier(capabilities.max_inflight)

    def on_lane() -> None:
        barrier.wait()  # so that each thread runs once: cuDNN, for one, keeps its plans per thread
        usual = chain.from_iterable(usual_calls(*shape) for shape in shapes)
        warm_up(engine, choice, builder, usual, required=True)

    def build_rarer() -> None:
        rarer = chain.from_iterable(rare_calls(*shape) for shape in shapes)
        warm_up(engine, choice, builder, rarer, required=False)

    try:
        await loop.run_in_executor(thread, service.buffer_pool.preallocate_pinned)
        max_inflight = (
            loop.run_in_executor(device_threads, on_lane) for _ in range(capabilities.max_inflight)
        )
        await asyncio.gather(*max_inflight)
        lifecycle.warmed_up()
        log.info("ready", extra={"fields": {"device": engine.device.name}})
        service.batcher.resume()
        if capabilities.builds_kernels:
            # Requests do not wait for these kernels: the eager backend computes their calls. One
            # call at a time goes to the builder, so what requests miss is built next.
            await loop.run_in_executor(thread, build_rarer)
    except DeviceLost as lost:
        service.batcher.close(DeviceLost)
        _end(lifecycle, lost)
    except Exception:
        log.exception("warm-up failed; the service will not become ready")
    finally:
        service.batcher.resume()
        thread.shutdown(wait=False)


def _end(lifecycle: Lifecycle, failure: DeviceLost | DeviceStuck) -> None:
    log.error("ending: %s", failure)
    lifecycle.fail(Phase.LOST if isinstance(failure, DeviceLost) else Phase.STUCK)


def _add_status_routes(
    app: FastAPI, service: InferenceHandler, lifecycle: Lifecycle, measured: metrics.Metrics
) -> None:
    measured.ready.set_function(lambda: lifecycle.phase is Phase.READY)

    @app.get("/healthz", tags=["status"], summary="200 while the process lives")
    async def healthz() -> Healthz:
        return {"status": "alive"}

    @app.get(
        "/readyz",
        tags=["status"],
        summary="200 when traffic is welcome, else 503",
        response_model=Readyz,
        responses={503: {"model": Readyz, "description": "Not yet, or no longer"}},
    )
    async def readyz() -> JSONResponse:
        ready = lifecycle.phase is Phase.READY
        return JSONResponse({"status": lifecycle.phase.value}, 200 if ready else 503)

    @app.get(
        "/metrics",
        tags=["status"],
        summary="Measurements, for Prometheus",
        response_class=PlainTextResponse,
    )
    async def show_metrics() -> Response:
        return Response(measured.render(), media_type=metrics.CONTENT_TYPE)

    @app.get(
        "/v1/presets",
        tags=["catalogue"],
        summary="Released models: name, config, source",
        response_model=Presets,
    )
    async def presets() -> Response:
        return Response(list_presets(service.rope_resolver), media_type="application/json")

    @app.get(
        "/v1/variants",
        tags=["catalogue"],
        summary="Variants, schemes, builders of positions",
        response_model=Variants,
    )
    async def variants() -> JSONResponse:
        return JSONResponse(list_variants())

    @app.get("/version", tags=["status"], summary="What is running")
    async def version() -> Version:
        return {
            "version": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": service.engine.device.name,
        }


async def _refuse(request: Request, refused: Exception) -> Response:
    """Answer what the router refuses, in the form of all problems, or in that of the protocol."""
    assert isinstance(refused, HTTPException), "registered for it alone"
    if request.url.path.split("/")[1] == "v2":
        headers, body = refusal(refused.detail)
    else:
        headers, body = problems.refuse(refused.status_code, refused.detail)
    response = Response(body, refused.status_code)
    response.raw_headers = headers
    for name, value in (refused.headers or {}).items():
        response.headers[name] = value
    return response
