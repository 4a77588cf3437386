"""The scope that each HTTP route and gRPC method needs. All others need `admin`."""

import re

from service.access.tenant import Scope

PUBLIC_PATHS = frozenset(("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"))
"""Routes that need no key: probes of load balancers and orchestrators."""

_PAGE = "/ui"
"""The page needs no key: its files are the same for everybody."""

_HTTP: tuple[tuple[re.Pattern[str], Scope], ...] = tuple(
    (re.compile(pattern), scope)
    for pattern, scope in (
        (r"/v1/(sessions(/.*)?|stream|step)", Scope.SESSIONS),
        (r"/v2/models/rope_session(/versions/[^/]+)?/infer", Scope.SESSIONS),
        (r"/v1/recent", Scope.METRICS),
        (r"/|/v1/.*|/version|/openapi\.json|/docs(/.*)?|/static-offline-docs/.*", Scope.INFER),
        (r"/metrics|/v2/models/stats|/v2/models/[^/]+(/versions/[^/]+)?/stats", Scope.METRICS),
        (r"/v2/models/[^/]+(/versions/[^/]+)?(/infer|/ready|/config)?", Scope.INFER),
        (r"/v2|/v2/repository/index", Scope.INFER),
        (r"/v2/models/[^/]+/trace/setting|/v2/trace/setting|/v2/logging", Scope.ADMIN),
        (r"/v2/(system|cuda)sharedmemory/.*|/v2/repository/models/.*", Scope.ADMIN),
    )
)
"""The first pattern that matches the whole path gives the scope."""

_SERVICE = "/inference.GRPCInferenceService/"

PUBLIC_METHODS = frozenset(
    (
        *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"),
        *(f"{_SERVICE}ServerLive", f"{_SERVICE}ServerReady"),
    )
)
"""Methods that need no key."""

_METHODS: dict[str, Scope] = {
    _SERVICE + name: scope
    for scope, names in {
        Scope.INFER: (
            *("ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig", "RepositoryIndex"),
            *("ModelInfer", "ModelStreamInfer"),
        ),
        Scope.METRICS: ("ModelStatistics",),
        Scope.ADMIN: (
            *("RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings"),
            *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister"),
            *("SystemSharedMemoryUnregister", "CudaSharedMemoryStatus"),
            *("CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
        ),
    }.items()
    for name in names
} | {
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo": Scope.INFER
    for version in ("v1", "v1alpha")
}


def is_public(path: str) -> bool:
    """Return whether an HTTP path needs no key."""
    return path in PUBLIC_PATHS or path == _PAGE or path.startswith(f"{_PAGE}/")


def path_scope(path: str) -> Scope | None:
    """Return the scope that the tables give an HTTP path; None: no pattern matches."""
    for pattern, scope in _HTTP:
        if pattern.fullmatch(path):
            return scope
    return None


def method_scope(path: str) -> Scope | None:
    """Return the scope that the tables give a gRPC method; None: not in the table."""
    return _METHODS.get(path)
