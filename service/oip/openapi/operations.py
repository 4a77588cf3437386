"""What the description of `/v2` tells of each route that does not infer."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.asgi.problems import RESPONSES
from service.errors import BadMessage, Overloaded, TooLarge
from service.oip.errors import (
    STATUSES,
    NotLoadable,
    NotServed,
    SharedMemoryOff,
    UnknownModel,
    UnknownRegion,
)
from service.oip.openapi.schemas import Schema
from service.v1.schemas import ref

_OF_FAILURES = {kind: status.value for kind, status, _ in RESPONSES}
_BAD_BODY = (_OF_FAILURES[BadMessage], _OF_FAILURES[TooLarge])
_FULL = _OF_FAILURES[Overloaded]
_NO_MODEL, _NO_REGION = STATUSES[UnknownModel], STATUSES[UnknownRegion]
_OFF, _NOT_SERVED = STATUSES[SharedMemoryOff], STATUSES[NotServed]

ASKED: Mapping[str, Schema] = {
    "IndexRequest": {
        "type": "object",
        "properties": {"ready": {"type": "boolean", "description": "Tell only of ready ones."}},
    },
    "RegisterRequest": {
        "type": "object",
        "required": ["key", "byte_size"],
        "properties": {
            "key": {"type": "string", "description": "Name of a POSIX shared memory object."},
            "offset": {"type": "integer", "minimum": 0, "description": "In bytes; 0 if missing."},
            "byte_size": {"type": "integer", "minimum": 1},
        },
    },
    "NoSettings": {"type": "object", "additionalProperties": False},
}


@dataclass(frozen=True, slots=True)
class Row:
    """What is told of a route."""

    id: str
    """What generated clients call it."""
    answer: Schema | None = None
    """None answers an empty body."""
    refusals: tuple[int, ...] = ()
    """Statuses of answers that are `{"error": text}`."""
    asked: str | None = None
    """Name of the schema of the body; None takes none."""
    unready: bool = False
    """Whether it also answers 503, with what it answers with 200."""
    served: bool = True
    """Whether it is ever answered with 200."""


def _list_of(name: str) -> Schema:
    return {"type": "array", "items": ref(name)}


_NONE: Schema = {"type": "array", "items": {}, "maxItems": 0}
_SETTINGS = (*_BAD_BODY, _NOT_SERVED)
_REFUSED = (STATUSES[NotLoadable],)
_MODEL: Mapping[str, tuple[str, str, bool]] = {
    "": ("metadata", "ModelMetadata", False),
    "/ready": ("ready", "ModelReady", True),
    "/config": ("config", "ModelConfiguration", False),
    "/stats": ("statistics", "Statistics", False),
}
_ONE, _CUDA = "/systemsharedmemory/region/{region}", "/cudasharedmemory/region/{region}"
_TRACE = "/models/{name}/trace/setting"
ROWS: Mapping[tuple[str, str], Row] = {
    ("get", ""): Row("server_metadata", ref("ServerMetadata")),
    ("get", "/health/live"): Row("server_live", ref("ServerLive"), unready=True),
    ("get", "/health/ready"): Row("server_ready", ref("ServerReady"), unready=True),
    ("get", "/models/stats"): Row("all_statistics", ref("Statistics")),
    **{
        ("get", f"/models/{{name}}{version}{path}"): Row(
            f"model_{of}{name}", ref(answer), (_NO_MODEL,), unready=unready
        )
        for path, (name, answer, unready) in _MODEL.items()
        for version, of in (("", ""), ("/versions/{version}", "version_"))
    },
    ("post", "/repository/index"): Row(
        "repository_index", _list_of("IndexEntry"), _BAD_BODY, asked="IndexRequest"
    ),
    ("post", "/repository/models/{name}/load"): Row("load_model", None, _REFUSED, served=False),
    ("post", "/repository/models/{name}/unload"): Row("unload_model", None, _REFUSED, served=False),
    ("get", "/systemsharedmemory/status"): Row("system_memory", _list_of("Region"), (_OFF,)),
    ("get", f"{_ONE}/status"): Row("system_memory_region", _list_of("Region"), (_NO_REGION, _OFF)),
    ("post", f"{_ONE}/register"): Row(
        "register_system_memory", None, (*_BAD_BODY, _OFF, _FULL), asked="RegisterRequest"
    ),
    ("post", "/systemsharedmemory/unregister"): Row("unregister_all_system_memory", None, (_OFF,)),
    ("post", f"{_ONE}/unregister"): Row("unregister_system_memory", None, (_OFF,)),
    ("get", "/cudasharedmemory/status"): Row("cuda_memory", _NONE),
    ("get", f"{_CUDA}/status"): Row("cuda_memory_region", None, (_NO_REGION,), served=False),
    ("post", f"{_CUDA}/register"): Row("register_cuda_memory", None, (_NOT_SERVED,), served=False),
    ("post", "/cudasharedmemory/unregister"): Row("unregister_all_cuda_memory"),
    ("post", f"{_CUDA}/unregister"): Row("unregister_cuda_memory"),
    ("get", "/trace/setting"): Row("trace_settings", ref("TraceSettings")),
    ("post", "/trace/setting"): Row(
        "update_trace_settings", ref("TraceSettings"), _SETTINGS, asked="NoSettings"
    ),
    ("get", _TRACE): Row("model_trace_settings", ref("TraceSettings"), (_NO_MODEL,)),
    ("post", _TRACE): Row(
        "update_model_trace_settings",
        ref("TraceSettings"),
        (_NO_MODEL, *_SETTINGS),
        asked="NoSettings",
    ),
    ("get", "/logging"): Row("log_settings", ref("LogSettings")),
    ("post", "/logging"): Row(
        "update_log_settings", ref("LogSettings"), _SETTINGS, asked="NoSettings"
    ),
}
"""By method and path, without what all paths begin with."""
