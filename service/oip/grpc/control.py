"""What the protocol tells of the service and of its models, from the documents of HTTP."""

from collections.abc import Callable, Mapping
from typing import Any

from grpc import StatusCode
from grpc.aio import ServicerContext

from service import __version__
from service.errors import printable
from service.life import Life, Phase
from service.oip.control import EXTENSIONS, LOADED, NO_SHARED_MEMORY, config_of, metadata_of
from service.oip.errors import UnknownModel
from service.oip.grpc.calls import Unary
from service.oip.grpc.errors import Refusal
from service.oip.grpc.messages import METHODS
from service.oip.models import MODELS, VERSION, model_of
from service.oip.observing import TRACE_SETTINGS, UNCHANGED, log_settings
from service.settings import Settings

Tell = Callable[[Any], Mapping[str, Any]]
"""Answers a request by a document that has the response's fields."""


def control_methods(settings: Settings, life: Life) -> dict[str, Unary]:
    """Return the methods that do not infer, by name."""
    told: dict[str, Tell] = {
        "ServerLive": lambda _: {"live": life.phase not in (Phase.LOST, Phase.STUCK)},
        "ServerReady": lambda _: {"ready": life.phase is Phase.READY},
        "ModelReady": lambda asked: {"ready": life.phase is Phase.READY and _exists(asked)},
        "ServerMetadata": lambda _: _server(),
        "ModelMetadata": lambda asked: metadata_of(model_of(asked.name, asked.version)),
        "ModelConfig": lambda asked: {"config": config_of(model_of(asked.name, asked.version))},
        "RepositoryIndex": lambda asked: _index(life, only_ready=asked.ready),
        "RepositoryModelLoad": _refuse_control,
        "RepositoryModelUnload": _refuse_control,
        "CudaSharedMemoryStatus": _no_region,
        "CudaSharedMemoryRegister": _refuse_region,
        "CudaSharedMemoryUnregister": lambda _: {},
        "TraceSetting": _trace,
        "LogSettings": lambda asked: _logging(asked, settings),
    }
    return {name: _method(name, tell) for name, tell in told.items()}


def _method(name: str, tell: Tell) -> Unary:
    method = METHODS[name]

    async def answer(request: bytes, _: ServicerContext) -> bytes:
        asked = method.request.FromString(request)
        return bytes(method.answer(tell(asked)).SerializeToString())

    return answer


def _server() -> dict[str, Any]:
    return {"name": "rope-service", "version": __version__, "extensions": EXTENSIONS}


def _exists(asked: Any) -> bool:
    try:
        model_of(asked.name, asked.version)
    except UnknownModel:
        return False
    return True


def _index(life: Life, *, only_ready: bool) -> dict[str, Any]:
    ready = life.phase is Phase.READY
    state = "READY" if ready else "UNAVAILABLE"
    names = () if only_ready and not ready else MODELS
    return {"models": [{"name": name, "version": VERSION, "state": state} for name in names]}


def _refuse_control(asked: Any) -> dict[str, Any]:
    model_of(asked.model_name or asked.repository_name)  # where KServe's clients have it
    raise Refusal(StatusCode.UNAVAILABLE, LOADED)


def _no_region(asked: Any) -> dict[str, Any]:
    if asked.name:
        raise Refusal(StatusCode.NOT_FOUND, f"there is no region {printable(asked.name)}")
    return {}


def _refuse_region(_: Any) -> dict[str, Any]:
    raise Refusal(StatusCode.UNIMPLEMENTED, NO_SHARED_MEMORY)


def _trace(asked: Any) -> dict[str, Any]:
    if asked.model_name:
        model_of(asked.model_name)
    _refuse_changes(asked)
    return {"settings": {name: _listed(value) for name, value in TRACE_SETTINGS.items()}}


def _logging(asked: Any, settings: Settings) -> dict[str, Any]:
    _refuse_changes(asked)
    return {"settings": {name: _chosen(value) for name, value in log_settings(settings).items()}}


def _refuse_changes(asked: Any) -> None:
    if asked.settings:
        raise Refusal(StatusCode.UNIMPLEMENTED, UNCHANGED)


def _listed(value: str | list[str]) -> dict[str, list[str]]:
    return {"value": value if isinstance(value, list) else [value]}


def _chosen(value: str | bool | int) -> dict[str, str | bool | int]:
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return {kinds[type(value)]: value}
