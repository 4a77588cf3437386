"""Calls of the protocol that do not infer: HTTP and gRPC share the functions that answer.

The answers are documents in JSON's terms. An empty name stands for all models or regions.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import Field

from service import __version__
from service.errors import ServiceError
from service.lifecycle import Phase
from service.oip import types, validate
from service.oip.errors import NotLoadable, NotServed, UnknownRegion
from service.oip.infer.models import ROPE_SESSION, VERSION, Slot
from service.oip.state import OipState
from service.sessions.lifetime.lease import DEFAULT_TTL_S

S = TypeVar("S", types.TraceSettings, types.LogSettings)

ReadBody = Callable[[], Mapping[str, Any]]
"""Return the parsed body of a request, or raise the error that refuses the body."""

EXTENSIONS = (
    *("model_repository", "schedule_policy", "model_configuration"),
    *("binary_tensor_data", "parameters", "statistics"),
)

TRACE_SETTINGS: types.TraceSettings = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""Settings of Triton's tracing: always off, because the service has no such tracing."""


class RefusedOperation:
    """Refuse an operation that this service does not offer."""

    def __init__(self, error: type[ServiceError], text: str = "") -> None:
        self.error = error
        self._text = text

    def __call__(self, *_: object, **arguments: object) -> NoReturn:
        raise self.error(self._text) if self._text else self.error()


_NO_CUDA_MEMORY = "this service has no CUDA shared memory"
_FIXED_SETTINGS = "the operator sets tracing and logging; requests cannot change the settings"

REFUSALS: Mapping[str, RefusedOperation] = {
    "load_model": RefusedOperation(NotLoadable),
    "unload_model": RefusedOperation(NotLoadable),
    "cuda_memory_region": RefusedOperation(UnknownRegion, _NO_CUDA_MEMORY),
    "register_cuda_memory": RefusedOperation(NotServed, _NO_CUDA_MEMORY),
    "change_settings": RefusedOperation(NotServed, _FIXED_SETTINGS),
}
"""What HTTP and gRPC refuse, by operation."""


class Control:
    """Answers the calls that do not infer."""

    def __init__(self, oip_state: OipState) -> None:
        self._state = oip_state
        self._repository = oip_state.repository

    def server_live(self) -> types.ServerLive:
        """Return whether the process can recover."""
        return {"live": self._state.lifecycle.phase not in (Phase.LOST, Phase.STUCK)}

    def server_ready(self) -> types.ServerReady:
        """Return whether the service accepts requests."""
        return {"ready": self._state.lifecycle.phase is Phase.READY}

    def server_metadata(self) -> types.ServerMetadata:
        """Return the name, version and protocol extensions of the service."""
        extensions = [*EXTENSIONS]
        if ROPE_SESSION.name in self._repository.models:
            extensions.append("sequence")
        if self._state.regions.enabled:
            extensions.append("system_shared_memory")
        return {"name": "rope-service", "version": __version__, "extensions": extensions}

    def model_ready(self, name: str, version: str = "") -> types.ModelReady:
        """Return whether a model accepts requests."""
        return {"name": self._repository.find(name, version).name, **self.server_ready()}

    def model_metadata(self, name: str, version: str = "") -> types.ModelMetadata:
        """Return the inputs and outputs of a model."""
        model = self._repository.find(name, version)
        return {
            "name": model.name,
            "versions": [VERSION],
            "platform": "rope-service",
            "inputs": [_tensor_metadata(slot) for slot in model.inputs],
            "outputs": [_tensor_metadata(slot) for slot in model.outputs],
        }

    def model_config(self, name: str, version: str = "") -> types.ModelConfiguration:
        """Return the configuration of a model in Triton's terms."""
        model = self._repository.find(name, version)
        on_gpu = self._state.handler.engine.device.name != "cpu"
        config: types.ModelConfiguration = {
            "name": model.name,
            "platform": "",
            "backend": "rope-service",
            "max_batch_size": 0,  # a batch is a dimension of the tensors
            "version_policy": {"latest": {"num_versions": 1}},
            "input": [{**_output_config(s), "optional": s.optional} for s in model.inputs],
            "output": [_output_config(slot) for slot in model.outputs],
            "instance_group": [
                {
                    "name": f"{model.name}_0",
                    "count": 1,
                    "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
                    "gpus": [0] if on_gpu else [],
                }
            ],
            "parameters": {},
            "model_transaction_policy": {"decoupled": False},
            "response_cache": {"enable": False},
        }
        if model is ROPE_SESSION:
            config["sequence_batching"] = self._sequence_batching()
        else:
            batching: types.DynamicBatching = {
                "preferred_batch_size": [],
                "max_queue_delay_microseconds": 0,
            }
            config["dynamic_batching"] = batching
        return config

    def _sequence_batching(self) -> types.SequenceBatching:
        settings = self._state.handler.settings
        idle_s = min(DEFAULT_TTL_S, settings.session_ttl_s)
        return {
            "max_sequence_idle_microseconds": int(idle_s * 1e6),
            "oldest": {
                "max_candidate_sequences": settings.max_sessions,
                "preferred_batch_size": [],
                "max_queue_delay_microseconds": 0,
                "preserve_ordering": False,
            },
        }

    def model_statistics(self, name: str = "", version: str = "") -> types.Statistics:
        """Return the statistics of a model, or of all models."""
        statistics = self._state.statistics
        names = [self._repository.find(name, version).name] if name else statistics
        return {"model_stats": [statistics[model].describe() for model in names]}

    def repository_index(self, read_body: ReadBody) -> list[types.IndexEntry]:
        """Return the models and their states."""
        only_ready = validate.instance("ready", read_body().get("ready", False), bool)
        phase = self._state.lifecycle.phase
        if phase is Phase.READY:
            return [
                {"name": name, "version": VERSION, "state": "READY"}
                for name in self._repository.models
            ]
        return [
            {"name": name, "version": VERSION, "state": "UNAVAILABLE", "reason": phase.value}
            for name in (() if only_ready else self._repository.models)
        ]

    def system_memory(self, region: str = "") -> list[types.Region]:
        """Return one region of system shared memory, or all regions."""
        return [
            {"name": r.name, "key": r.key, "offset": r.offset, "byte_size": r.byte_size}
            for r in self._state.regions.status(region)
        ]

    def register_system_memory(self, region: str, read_body: ReadBody) -> None:
        """Register a region of system shared memory."""
        regions = self._state.regions
        regions.check_enabled()
        body = read_body()
        regions.register(region, body.get("key"), body.get("offset", 0), body.get("byte_size"))

    def unregister_system_memory(self, region: str = "") -> None:
        """Unregister one region of system shared memory, or all regions."""
        self._state.regions.unregister(region)

    def cuda_memory(self) -> Annotated[list[Any], Field(max_length=0)]:
        """Return the regions of CUDA shared memory: always none."""
        return []

    def unregister_cuda_memory(self, region: str = "") -> None:
        """Do nothing: there are no regions of CUDA shared memory."""

    def trace_settings(self, name: str = "", read_body: ReadBody = dict) -> types.TraceSettings:
        """Return the settings of tracing, for all models or one; refuse to change a setting."""
        if name:
            self._repository.find(name)
        return _unchanged(TRACE_SETTINGS, read_body)

    def log_settings(self, read_body: ReadBody = dict) -> types.LogSettings:
        """Return the settings of logging; refuse to change a setting."""
        return _unchanged(log_settings(self._state.handler.settings.log_level), read_body)


def log_settings(log_level: str) -> types.LogSettings:
    """Return the settings of logging: everything goes to standard output."""
    rank = ("error", "warning", "info", "debug").index(log_level)
    return {
        "log_file": "",
        "log_info": rank >= 2,
        "log_warning": rank >= 1,
        "log_error": True,
        "log_verbose_level": int(rank >= 3),
        "log_format": "default",
    }


def _tensor_metadata(slot: Slot) -> types.TensorMetadata:
    return {"name": slot.name, "datatype": slot.datatype, "shape": [*slot.dims]}


def _output_config(slot: Slot) -> types.OutputConfig:
    return {"name": slot.name, "data_type": f"TYPE_{slot.datatype}", "dims": [*slot.dims]}


def _unchanged(settings: S, read_body: ReadBody) -> S:
    """Return the settings, unless the body would change one."""
    return REFUSALS["change_settings"]() if read_body() else settings
