"""The methods of gRPC that do not infer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from grpc.aio import ServicerContext

from service.oip.control import REFUSALS, Control
from service.oip.errors import UnknownModel
from service.oip.grpc.calls import Unary
from service.oip.grpc.messages import METHODS
from service.oip.state import OipState

Answer = Callable[[Any], Mapping[str, Any]]
"""Takes the request of a method, and returns a document with the fields of the response."""

_PARAM_FIELDS = {bool: "bool_param", int: "uint32_param", str: "string_param"}
"""Fields of a log setting's value, by the type of the value."""


def control_methods(oip_state: OipState) -> dict[str, Unary]:
    """Return the methods that do not infer, by name."""
    control = Control(oip_state)
    answers: dict[str, Answer] = {
        "ServerLive": lambda _: control.server_live(),
        "ServerReady": lambda _: control.server_ready(),
        "ModelReady": lambda r: {"ready": _is_ready(control, r.name, r.version)},
        "ServerMetadata": lambda _: control.server_metadata(),
        "ModelMetadata": lambda r: control.model_metadata(r.name, r.version),
        "ModelConfig": lambda r: {"config": control.model_config(r.name, r.version)},
        "RepositoryIndex": lambda r: {
            "models": control.repository_index(lambda: {"ready": r.ready})
        },
        "RepositoryModelLoad": REFUSALS["load_model"],
        "RepositoryModelUnload": REFUSALS["unload_model"],
        "CudaSharedMemoryRegister": REFUSALS["register_cuda_memory"],
        "CudaSharedMemoryUnregister": lambda _: {},
    }

    def model_statistics(request: Any) -> Mapping[str, Any]:
        if request.name:
            return control.model_statistics(request.name, request.version)
        return control.all_statistics()

    def system_memory(request: Any) -> Mapping[str, Any]:
        one = request.name
        regions = control.system_memory_region(one) if one else control.system_memory()
        return {"regions": {region.name: dataclasses.asdict(region) for region in regions}}

    def register_system_memory(request: Any) -> Mapping[str, Any]:
        fields = {name: getattr(request, name) for name in ("key", "offset", "byte_size")}
        control.register_system_memory(request.name, lambda: fields)
        return {}

    def unregister_system_memory(request: Any) -> Mapping[str, Any]:
        if request.name:
            control.unregister_system_memory(request.name)
        else:
            control.unregister_all_system_memory()
        return {}

    def cuda_memory(request: Any) -> Mapping[str, Any]:
        return REFUSALS["cuda_memory_region"]() if request.name else {}

    def trace_settings(request: Any) -> Mapping[str, Any]:
        read, model = (lambda: request.settings), request.model_name
        update = control.update_model_trace_settings
        settings = update(model, read) if model else control.update_trace_settings(read)
        values = {name: v if isinstance(v, list) else [v] for name, v in settings.items()}
        return {"settings": {name: {"value": value} for name, value in values.items()}}

    def log_settings(request: Any) -> Mapping[str, Any]:
        settings = control.update_log_settings(lambda: request.settings)
        return {"settings": {n: {_PARAM_FIELDS[type(v)]: v} for n, v in settings.items()}}

    answers |= {
        "ModelStatistics": model_statistics,
        "SystemSharedMemoryStatus": system_memory,
        "SystemSharedMemoryRegister": register_system_memory,
        "SystemSharedMemoryUnregister": unregister_system_memory,
        "CudaSharedMemoryStatus": cuda_memory,
        "TraceSetting": trace_settings,
        "LogSettings": log_settings,
    }
    return {name: _method(name, answer) for name, answer in answers.items()}


def _method(name: str, answer: Answer) -> Unary:
    method = METHODS[name]

    async def respond(request: bytes, _: ServicerContext) -> bytes:
        document = answer(method.request.FromString(request))
        return bytes(method.answer(document).SerializeToString())

    return respond


def _is_ready(control: Control, name: str, version: str) -> bool:
    try:
        return control.model_ready(name, version)["ready"]
    except UnknownModel:
        return False
