"""The methods of gRPC that do not infer."""

from collections.abc import Callable, Mapping
from typing import Any

from service.oip.control import REFUSALS, Control
from service.oip.errors import UnknownModel
from service.oip.grpc.messages import METHODS
from service.oip.grpc.rpc import Rpc
from service.oip.grpc.rpc_handlers import UnaryMethod
from service.oip.state import OipState
from service.oip.types import LogSettings, Region, TraceSettings

Answer = Callable[[Any], Mapping[str, Any] | None]
"""Takes the request of a method; returns a document with the response's fields, None if empty."""

_PARAM_FIELDS = {bool: "bool_param", int: "uint32_param", str: "string_param"}
"""Fields of a log setting's value, by the type of the value."""


def control_methods(oip_state: OipState) -> dict[str, UnaryMethod]:
    """Return the methods that do not infer, by name."""
    control = Control(oip_state)
    answers: dict[str, Answer] = {
        "ServerLive": lambda _: control.server_live(),
        "ServerReady": lambda _: control.server_ready(),
        "ServerMetadata": lambda _: control.server_metadata(),
        "ModelReady": lambda r: {"ready": _is_ready(control, r.name, r.version)},
        "ModelMetadata": lambda r: control.model_metadata(r.name, r.version),
        "ModelConfig": lambda r: {"config": control.model_config(r.name, r.version)},
        "ModelStatistics": lambda r: control.model_statistics(r.name, r.version),
        "RepositoryIndex": lambda r: {"models": control.repository_index(lambda: _fields(r))},
        "RepositoryModelLoad": REFUSALS["load_model"],
        "RepositoryModelUnload": REFUSALS["unload_model"],
        "SystemSharedMemoryStatus": lambda r: _regions(control.system_memory(r.name)),
        "SystemSharedMemoryRegister": lambda r: control.register_system_memory(
            r.name, lambda: _fields(r)
        ),
        "SystemSharedMemoryUnregister": lambda r: control.unregister_system_memory(r.name),
        "CudaSharedMemoryStatus": lambda r: REFUSALS["cuda_memory_region"]() if r.name else None,
        "CudaSharedMemoryRegister": REFUSALS["register_cuda_memory"],
        "CudaSharedMemoryUnregister": lambda _: control.unregister_cuda_memory(),
        "TraceSetting": lambda r: _trace_settings(
            control.trace_settings(r.model_name, lambda: r.settings)
        ),
        "LogSettings": lambda r: _log_settings(control.log_settings(lambda: r.settings)),
    }
    return {name: _method(name, answer) for name, answer in answers.items()}


def _method(name: str, answer: Answer) -> UnaryMethod:
    method = METHODS[name]

    async def respond(request: bytes, _: Rpc) -> bytes:
        document = answer(method.request.FromString(request))
        return bytes(method.answer(document or {}).SerializeToString())

    return respond


def _fields(request: Any) -> dict[str, Any]:
    return {field.name: getattr(request, field.name) for field in request.DESCRIPTOR.fields}


def _regions(regions: list[Region]) -> dict[str, Any]:
    return {"regions": {region["name"]: region for region in regions}}


def _trace_settings(settings: TraceSettings) -> dict[str, Any]:
    values = {name: v if isinstance(v, list) else [v] for name, v in settings.items()}
    return {"settings": {name: {"value": value} for name, value in values.items()}}


def _log_settings(settings: LogSettings) -> dict[str, Any]:
    return {"settings": {name: {_PARAM_FIELDS[type(v)]: v} for name, v in settings.items()}}


def _is_ready(control: Control, name: str, version: str) -> bool:
    try:
        return control.model_ready(name, version)["ready"]
    except UnknownModel:
        return False
