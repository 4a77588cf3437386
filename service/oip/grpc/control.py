"""What the protocol tells of the service and of its models, from the documents of HTTP."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from grpc.aio import ServicerContext

from service.lifecycle import Phase
from service.oip import metadata
from service.oip.errors import NotLoadable, NotServed, UnknownModel, UnknownRegion
from service.oip.grpc.messages import METHODS
from service.oip.grpc.rpc_handlers import Unary
from service.oip.infer.models import model_of
from service.oip.state import OipState
from service.oip.types import ModelStatistics

Tell = Callable[[Any], Mapping[str, Any]]
"""Answers a request by a document that has the response's fields."""


def control_methods(oip_state: OipState) -> dict[str, Unary]:
    """Return the methods that do not infer, by name."""
    lifecycle, gpu = oip_state.lifecycle, oip_state.on_gpu
    told: dict[str, Tell] = {
        "ServerLive": lambda _: {"live": lifecycle.phase not in (Phase.LOST, Phase.STUCK)},
        "ServerReady": lambda _: {"ready": lifecycle.phase is Phase.READY},
        "ModelReady": lambda asked: {"ready": lifecycle.phase is Phase.READY and _exists(asked)},
        "ServerMetadata": lambda _: metadata.describe_server(oip_state.regions.is_on),
        "ModelMetadata": lambda asked: metadata.describe_model(_model(asked)),
        "ModelConfig": lambda asked: {"config": metadata.configure(_model(asked), gpu)},
        "ModelStatistics": lambda asked: {"model_stats": _statistics(oip_state, asked)},
        "RepositoryIndex": lambda asked: {"models": metadata.list_models(lifecycle, asked.ready)},
        "RepositoryModelLoad": _refuse_control,
        "RepositoryModelUnload": _refuse_control,
    }
    methods = told | _memory(oip_state) | _settings(oip_state)
    return {name: _method(name, tell) for name, tell in methods.items()}


def _memory(oip_state: OipState) -> dict[str, Tell]:
    regions = oip_state.regions

    def status(asked: Any) -> dict[str, Any]:
        found = regions.status(asked.name or None)
        return {"regions": {each.name: dataclasses.asdict(each) for each in found}}

    def register(asked: Any) -> dict[str, Any]:
        regions.register(asked.name, asked.key, asked.offset, asked.byte_size)
        return {}

    def unregister(asked: Any) -> dict[str, Any]:
        regions.unregister(asked.name or None)
        return {}

    def no_region(asked: Any) -> dict[str, Any]:
        if asked.name:
            raise UnknownRegion(metadata.NO_CUDA_MEMORY)
        return {}

    def refuse(_: Any) -> dict[str, Any]:
        raise NotServed(metadata.NO_CUDA_MEMORY)

    return {
        "SystemSharedMemoryStatus": status,
        "SystemSharedMemoryRegister": register,
        "SystemSharedMemoryUnregister": unregister,
        "CudaSharedMemoryStatus": no_region,
        "CudaSharedMemoryRegister": refuse,
        "CudaSharedMemoryUnregister": lambda _: {},
    }


def _settings(oip_state: OipState) -> dict[str, Tell]:
    log = metadata.describe_log(oip_state.handler.settings.log_level)

    def trace(asked: Any) -> dict[str, Any]:
        if asked.model_name:
            model_of(asked.model_name)
        return _unchanged(asked, {name: _listed(value) for name, value in metadata.TRACE.items()})

    def logging(asked: Any) -> dict[str, Any]:
        return _unchanged(asked, {name: _chosen(value) for name, value in log.items()})

    return {"TraceSetting": trace, "LogSettings": logging}


def _method(name: str, tell: Tell) -> Unary:
    method = METHODS[name]

    async def answer(request: bytes, _: ServicerContext) -> bytes:
        asked = method.request.FromString(request)
        return bytes(method.answer(tell(asked)).SerializeToString())

    return answer


def _model(asked: Any) -> Any:
    return model_of(asked.name, asked.version)


def _exists(asked: Any) -> bool:
    try:
        _model(asked)
    except UnknownModel:
        return False
    return True


def _statistics(oip_state: OipState, asked: Any) -> list[ModelStatistics]:
    of = oip_state.statistics
    found = [of[_model(asked).name]] if asked.name else of.values()
    return [each.describe() for each in found]


def _refuse_control(_: Any) -> dict[str, Any]:
    raise NotLoadable


def _unchanged(asked: Any, told: dict[str, Any]) -> dict[str, Any]:
    if asked.settings:
        raise NotServed(metadata.UNCHANGED)
    return {"settings": told}


def _listed(value: object) -> dict[str, object]:
    return {"value": value if isinstance(value, list) else [value]}


def _chosen(value: object) -> dict[str, object]:
    kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
    return {kinds[type(value)]: value}
