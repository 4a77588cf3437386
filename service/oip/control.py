"""Calls of the protocol that do not infer: HTTP and gRPC share the functions that answer."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import Field

from service.errors import ServiceError
from service.lifecycle import Phase
from service.oip import metadata, validate
from service.oip.errors import NotLoadable, NotServed, UnknownRegion
from service.oip.infer.models import model_of
from service.oip.shm.registry import Region
from service.oip.state import OipState
from service.oip.types import (
    IndexEntry,
    LogSettings,
    ModelConfiguration,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    Statistics,
    TraceSettings,
)

S = TypeVar("S", TraceSettings, LogSettings)

ReadBody = Callable[[], Mapping[str, Any]]
"""Return the parsed body of a request, or raise the error that refuses the body."""


class RefusedOperation:
    """Refuse an operation that this service does not offer."""

    def __init__(self, operation_id: str, error: Callable[[], ServiceError]) -> None:
        self.__name__ = operation_id
        self.error = error

    def __call__(self, *_: object, **arguments: object) -> NoReturn:
        raise self.error()


_NO_CUDA_MEMORY = "this service has no CUDA shared memory"
_FIXED_SETTINGS = "the operator sets tracing and logging; requests cannot change the settings"

REFUSALS: Mapping[str, RefusedOperation] = {
    refusal.__name__: refusal
    for refusal in (
        RefusedOperation("load_model", NotLoadable),
        RefusedOperation("unload_model", NotLoadable),
        RefusedOperation("cuda_memory_region", partial(UnknownRegion, _NO_CUDA_MEMORY)),
        RefusedOperation("register_cuda_memory", partial(NotServed, _NO_CUDA_MEMORY)),
        RefusedOperation("change_settings", partial(NotServed, _FIXED_SETTINGS)),
    )
}
"""What HTTP and gRPC refuse, by operation."""


class Control:
    """Answers of the calls that do not infer, as documents in JSON's terms."""

    def __init__(self, oip_state: OipState) -> None:
        self._state = oip_state
        self._log_settings = metadata.log_settings(oip_state.handler.settings.log_level)

    def server_live(self) -> ServerLive:
        """Return whether the process can recover."""
        return {"live": self._state.lifecycle.phase not in (Phase.LOST, Phase.STUCK)}

    def server_ready(self) -> ServerReady:
        """Return whether the service accepts requests."""
        return {"ready": self._state.lifecycle.phase is Phase.READY}

    def server_metadata(self) -> ServerMetadata:
        """Return the name, version and protocol extensions of the service."""
        return metadata.server_metadata(self._state.regions.enabled)

    def model_ready(self, name: str, version: str = "") -> ModelReady:
        """Return whether a model accepts requests."""
        return {"name": model_of(name, version).name, **self.server_ready()}

    def model_metadata(self, name: str, version: str = "") -> ModelMetadata:
        """Return the inputs and outputs of a model."""
        return metadata.model_metadata(model_of(name, version))

    def model_config(self, name: str, version: str = "") -> ModelConfiguration:
        """Return the configuration of a model in Triton's terms."""
        return metadata.model_config(model_of(name, version), self._state.on_gpu)

    def model_statistics(self, name: str, version: str = "") -> Statistics:
        """Return the statistics of a model."""
        return {"model_stats": [self._state.statistics[model_of(name, version).name].describe()]}

    def all_statistics(self) -> Statistics:
        """Return the statistics of all models."""
        return {"model_stats": [model.describe() for model in self._state.statistics.values()]}

    def repository_index(self, read_body: ReadBody) -> list[IndexEntry]:
        """Return the models and their states."""
        only_ready = validate.boolean("ready", read_body().get("ready", False))
        return metadata.repository_index(self._state.lifecycle, only_ready)

    def system_memory(self) -> list[Region]:
        """Return all regions of system shared memory."""
        return self._state.regions.status(None)

    def system_memory_region(self, region: str) -> list[Region]:
        """Return one region of system shared memory."""
        return self._state.regions.status(region)

    def register_system_memory(self, region: str, read_body: ReadBody) -> None:
        """Register a region of system shared memory."""
        regions = self._state.regions
        regions.check_enabled()
        body = read_body()
        regions.register(region, body.get("key"), body.get("offset", 0), body.get("byte_size"))

    def unregister_all_system_memory(self) -> None:
        """Unregister all regions of system shared memory."""
        self._state.regions.unregister(None)

    def unregister_system_memory(self, region: str) -> None:
        """Unregister one region of system shared memory."""
        self._state.regions.unregister(region)

    def cuda_memory(self) -> Annotated[list[Any], Field(max_length=0)]:
        """Return the regions of CUDA shared memory: always none."""
        return []

    def unregister_all_cuda_memory(self) -> None:
        """Do nothing: there are no regions of CUDA shared memory."""

    def unregister_cuda_memory(self, region: str) -> None:
        """Do nothing: there are no regions of CUDA shared memory."""

    def trace_settings(self) -> TraceSettings:
        """Return the settings of tracing."""
        return metadata.TRACE_SETTINGS

    def update_trace_settings(self, read_body: ReadBody) -> TraceSettings:
        """Return the settings of tracing; refuse to change a setting."""
        return _unchanged(metadata.TRACE_SETTINGS, read_body)

    def model_trace_settings(self, name: str) -> TraceSettings:
        """Return the settings of tracing a model."""
        model_of(name)
        return metadata.TRACE_SETTINGS

    def update_model_trace_settings(self, name: str, read_body: ReadBody) -> TraceSettings:
        """Return the settings of tracing a model; refuse to change a setting."""
        model_of(name)
        return _unchanged(metadata.TRACE_SETTINGS, read_body)

    def log_settings(self) -> LogSettings:
        """Return the settings of logging."""
        return self._log_settings

    def update_log_settings(self, read_body: ReadBody) -> LogSettings:
        """Return the settings of logging; refuse to change a setting."""
        return _unchanged(self._log_settings, read_body)


def _unchanged(settings: S, read_body: ReadBody) -> S:
    """Return the settings, unless the body would change one."""
    return REFUSALS["change_settings"]() if read_body() else settings
