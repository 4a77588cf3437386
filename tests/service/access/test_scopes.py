"""Every route and every method has a scope in the tables; all others need `admin`."""

from collections.abc import Iterable, Iterator

from starlette.routing import BaseRoute, Mount

from service.access.gate import Gate
from service.access.scopes import (
    PUBLIC_METHODS,
    is_public,
    method_scope,
    path_scope,
)
from service.access.tenant import Scope
from service.lifecycle import Lifecycle
from service.observability.metrics import Metrics
from service.oip.grpc.messages import METHODS
from service.oip.grpc.server import GrpcServer
from service.resident_memory import ResidentLimit
from service.server.app import create_app
from service.settings import Settings
from service.v1.session_stream import STREAM_ROUTES

SCOPES = {
    None: """
        /healthz /readyz /v2/health/live /v2/health/ready /ui /ui/{path:path}
    """,
    Scope.INFER: """
        /v1/rotate /v1/attention /v1/cos_sin /v1/shift /v1/merge /v1/resolve /v1/positions
        /v1/diagnose /v1/compare
        / /v1/presets /v1/variants /version /openapi.json /docs
        /static-offline-docs/{path}
        /v2 /v2/models/{name} /v2/models/{name}/versions/{version}
        /v2/models/{name}/ready /v2/models/{name}/versions/{version}/ready
        /v2/models/{name}/config /v2/models/{name}/versions/{version}/config
        /v2/models/{name}/infer /v2/models/{name}/versions/{version}/infer
        /v2/models/rope/infer /v2/models/rope/versions/1/infer
        /v2/models/rope_attention/infer /v2/models/rope_attention/versions/1/infer
        /v2/models/rope_cos_sin/infer /v2/models/rope_cos_sin/versions/1/infer
        /v2/repository/index
    """,
    Scope.SESSIONS: """
        /v1/step /v1/stream /v1/sessions /v1/sessions/{id} /v1/sessions/{id}/stream
        /v1/sessions/{id}/step /v1/sessions/{id}/append /v1/sessions/{id}/attend
        /v1/sessions/{id}/truncate /v1/sessions/{id}/select_tail /v1/sessions/{id}/evict
        /v1/sessions/{id}/shift /v1/sessions/{id}/rebase /v1/sessions/{id}/reorder
        /v1/sessions/{id}/attach /v1/sessions/{id}/fork /v1/sessions/{id}/export
    """,
    Scope.METRICS: """
        /metrics /v1/recent /v2/models/stats
        /v2/models/{name}/stats /v2/models/{name}/versions/{version}/stats
    """,
    Scope.ADMIN: """
        /v2/repository/models/{name}/load /v2/repository/models/{name}/unload
        /v2/systemsharedmemory/status /v2/systemsharedmemory/unregister
        /v2/systemsharedmemory/region/{region}/status
        /v2/systemsharedmemory/region/{region}/register
        /v2/systemsharedmemory/region/{region}/unregister
        /v2/cudasharedmemory/status /v2/cudasharedmemory/unregister
        /v2/cudasharedmemory/region/{region}/status
        /v2/cudasharedmemory/region/{region}/register
        /v2/cudasharedmemory/region/{region}/unregister
        /v2/logging /v2/trace/setting /v2/models/{name}/trace/setting
    """,
}
"""Add each new route here: this makes its scope an explicit decision."""

METHOD_SCOPES = {
    None: """ServerLive ServerReady Check Watch""",
    Scope.INFER: """
        ServerMetadata ModelReady ModelMetadata ModelConfig RepositoryIndex ModelInfer
        ModelStreamInfer ServerReflectionInfo
    """,
    Scope.METRICS: "ModelStatistics",
    Scope.ADMIN: """
        RepositoryModelLoad RepositoryModelUnload TraceSetting LogSettings
        SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister
        CudaSharedMemoryStatus CudaSharedMemoryRegister CudaSharedMemoryUnregister
    """,
}


def paths_of(routes: Iterable[BaseRoute]) -> Iterator[str]:
    """Yield the paths of routes and of included routers; names of parameters are segments."""
    for route in routes:
        if (router := getattr(route, "original_router", None)) is not None:
            yield from paths_of(router.routes)
        else:
            yield f"{route.path}/{{path}}" if isinstance(route, Mount) else route.path


def test_every_route_has_the_scope_that_is_written_here():
    app = create_app(Settings(device="cpu", warm_up_shapes=""), Lifecycle())
    found = {*paths_of(app.app.routes), *app.hot, *STREAM_ROUTES}
    assert app.paths - found == {"/static-offline-docs"}, "the mount without the path of a file"
    written = {path: scope for scope, text in SCOPES.items() for path in text.split()}
    assert found == written.keys()
    for path, scope in written.items():
        if scope is None:
            assert is_public(path)
        else:
            assert not is_public(path)
            assert path_scope(path) is scope, path


def test_every_method_has_the_scope_that_is_written_here():
    methods = dict.fromkeys(METHODS, lambda *_: None)
    limit = ResidentLimit(2**40)
    server = GrpcServer(Settings(), Lifecycle(), methods, Metrics(), limit, Gate())
    written = {name: scope for scope, text in METHOD_SCOPES.items() for name in text.split()}
    paths = {*server._unary, *server._streams}
    assert {path.rpartition("/")[2] for path in paths} == written.keys()
    for path in paths:
        scope = written[path.rpartition("/")[2]]
        assert (path in PUBLIC_METHODS) == (scope is None), path
        assert method_scope(path) is scope, path


def test_similar_paths_have_no_scope():
    for path in (
        *("", "//", "//healthz", "/healthz/", "/Healthz", "/healthz/../v1/rotate", "/metrics/"),
        *("/x/v1/rotate", "/v2/", "/v2/models", "/v2/models/", "/v2/health", "/v2/health/live/"),
        *("/v2/models/a/b", "/v2/models/rope/infer/x", "/docsx", "/v1", "/v1/rotate\n/metrics"),
        *("/uix", "/UI/", "/x/ui/", "//ui/"),
    ):
        assert not is_public(path)
        assert path_scope(path) is None or path == "/v1/rotate\n/metrics", path
    assert method_scope("/inference.GRPCInferenceService/") is None
    assert method_scope("/other.Service/ModelInfer") is None
