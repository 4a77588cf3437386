"""The ASGI application: FastAPI, with the hot routes in front of its router."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus

from fastapi import Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.routing import Route as StarletteRoute

from service import __version__
from service.asgi import io, problems
from service.asgi.middleware import QUIET, UNLOGGED, App, RequestMiddleware
from service.asgi.problems import ErrorAnswer
from service.asgi.routing_errors import describe_method, describe_unknown_path
from service.device import Driver
from service.endpoints.table import ENDPOINTS
from service.errors import UnknownName
from service.lifecycle import Lifecycle
from service.observability.request_log import RequestLog
from service.oip import errors
from service.oip.http.control import control_routes
from service.oip.http.routes import infer_routes
from service.oip.state import OipState
from service.page.application import PREFIX as PAGE
from service.server.api_docs import DESCRIPTION, TAGS, add_api_docs
from service.server.bootstrap import build_service, lifespan
from service.server.page_routes import page_routes
from service.server.recent import RecentRoute
from service.server.status import status_routes
from service.sessions.paths import SESSIONS, STEP_MANY
from service.settings import Settings
from service.v1.recent_openapi import PATH as RECENT
from service.v1.routes import Route
from service.v1.session_stream import STREAM_ROUTES
from service.v1.sessions import METHODS, SessionRoutes


def create_app(
    settings: Settings, lifecycle: Lifecycle, driver: Driver | None = None
) -> RequestMiddleware:
    """Return the ASGI application of a new service; its lifespan starts and ends the service.

    Args:
        settings: the operator's settings.
        lifecycle: the phase of the service.
        driver: driver of the device to compute on; that of `settings.device` if None.
    """
    service, device_threads = build_service(settings, lifecycle, driver)
    return build_app(OipState(service, lifecycle), device_threads)


def build_app(oip_state: OipState, device_threads: ThreadPoolExecutor) -> RequestMiddleware:
    """Return the ASGI application of a service; FastAPI is its attribute `app`."""
    service, lifecycle = oip_state.handler, oip_state.lifecycle
    settings = service.settings
    app = FastAPIOffline(
        title="rope-service",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=[*TAGS],
        lifespan=lambda _: lifespan(oip_state, device_threads),
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.path.rpartition("/")[2],
        telemetry={"auto_configure": False, "tracing": False, "metrics": False, "logs": False},
    )
    hot: dict[str, App] = {endpoint.path: Route(endpoint, service) for endpoint in ENDPOINTS}
    hot |= infer_routes(oip_state)
    sessions = SessionRoutes(oip_state.sessions)
    app.router.redirect_slashes = False  # a redirect would name the host as the client does
    app.router.routes += [StarletteRoute(path, hot[path], methods=["POST"]) for path in hot]
    app.router.routes += [
        StarletteRoute(path, sessions, methods=[*methods]) for path, methods in METHODS.items()
    ]
    hot |= dict.fromkeys((SESSIONS, STEP_MANY), sessions)
    control = control_routes(oip_state)
    status = status_routes(service, lifecycle)
    app.include_router(status)
    app.include_router(control)
    pages: dict[str, App] = {}
    if settings.page:
        app.router.routes += page_routes()
        pages[RECENT] = RecentRoute(service, oip_state.sessions.services, lifecycle)
        app.router.routes += [StarletteRoute(path, pages[path], methods=["GET"]) for path in pages]
    add_api_docs(app, oip_state.repository.models.values(), has_recent=RECENT in pages)
    routes = (*app.routes, *status.routes, *control.routes)
    app.add_exception_handler(HTTPException, partial(_refuse, routes))
    app.add_exception_handler(UnknownName, _answer_failure)
    for route in (*hot, *METHODS, RECENT, "other"):  # the series exist from the start
        service.metrics.request_seconds.labels(route)
    for code in problems.STATUSES:
        service.metrics.refusals(code)
    quiet = QUIET if settings.log_level == "debug" else UNLOGGED
    return RequestMiddleware(
        app,
        hot=hot,
        pages=pages,
        sessions=sessions,
        paths=frozenset((*(getattr(route, "path", "") for route in routes), *STREAM_ROUTES)) - {""},
        page=PAGE if settings.page else None,
        request_log=RequestLog(service.metrics, level=settings.log_level, quiet=quiet),
        describe=_describe,
        gate=service.gate,
        lifecycle=lifecycle,
    )


def _is_oip(path: str) -> bool:
    return path == "/v2" or path.startswith("/v2/")


def _describe(path: str, failure: Exception) -> ErrorAnswer:
    """Return the answer to a failure, in the form of the protocol."""
    return errors.describe(failure) if _is_oip(path) else problems.describe(failure)


async def _answer_failure(request: Request, failure: Exception) -> Response:
    """Answer an error that a route of the catalogue raises."""
    answer = problems.describe(failure)
    request.scope[io.LOG_FIELDS].update(answer.log_fields)
    response = Response(answer.body, answer.status)
    response.raw_headers = answer.headers
    return response


async def _refuse(routes: Sequence[BaseRoute], request: Request, failure: Exception) -> Response:
    """Answer 404 and 405 in the form of the protocol's errors.

    The router lists in `Allow` the methods of the first route with the path, but another route may
    have the same path and another method.
    """
    assert isinstance(failure, HTTPException), "registered for this class alone"
    path, detail = request.scope["path"], failure.detail
    allowed: set[str] = set()
    if failure.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        for route in routes:
            if route.matches(request.scope)[0] is not Match.NONE:
                allowed.update(getattr(route, "methods", ()))
        allowed = allowed or {"GET", "HEAD"}  # of a file, which is no route of its own
        detail = describe_method(request.method, path, allowed)
    elif failure.status_code == HTTPStatus.NOT_FOUND:
        paths = {getattr(route, "path", "") for route in routes if hasattr(route, "methods")}
        detail = describe_unknown_path(path, paths)
    answer = problems.refuse(failure.status_code, detail)
    request.scope[io.LOG_FIELDS].update(answer.log_fields)
    headers, body = errors.refusal(detail) if _is_oip(path) else (answer.headers, answer.body)
    response = Response(body, failure.status_code)
    response.raw_headers = headers
    if allowed:
        response.headers["allow"] = ", ".join(sorted(allowed))
    return response
