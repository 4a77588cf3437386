"""Documents of the protocol about the service and its models, in JSON's terms."""

from service import __version__
from service.lifecycle import Lifecycle, Phase
from service.oip.infer.models import MODELS, VERSION, Model, Slot
from service.oip.types import (
    IndexEntry,
    InputConfig,
    LogSettings,
    ModelConfiguration,
    ModelMetadata,
    OutputConfig,
    ServerMetadata,
    TensorMetadata,
    TraceSettings,
)

EXTENSIONS = (
    *("model_repository", "schedule_policy", "model_configuration"),
    *("binary_tensor_data", "parameters", "statistics"),
)

TRACE_SETTINGS: TraceSettings = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""Settings of Triton's tracing: always off, because the service has no such tracing."""


def server_metadata(shared_memory: bool) -> ServerMetadata:
    """Return the metadata of the service; `shared_memory` adds the extension."""
    extensions = [*EXTENSIONS, *(["system_shared_memory"] if shared_memory else [])]
    return {"name": "rope-service", "version": __version__, "extensions": extensions}


def model_metadata(model: Model) -> ModelMetadata:
    """Return the metadata of a model."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "rope-service",
        "inputs": [_tensor_metadata(slot) for slot in model.inputs],
        "outputs": [_tensor_metadata(slot) for slot in model.outputs],
    }


def model_config(model: Model, on_gpu: bool) -> ModelConfiguration:
    """Return the configuration of a model; max_batch_size is 0, as batches are a dimension."""
    return {
        "name": model.name,
        "platform": "",
        "backend": "rope-service",
        "max_batch_size": 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_input_config(slot) for slot in model.inputs],
        "output": [_output_config(slot) for slot in model.outputs],
        "instance_group": [
            {
                "name": f"{model.name}_0",
                "count": 1,
                "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
                "gpus": [0] if on_gpu else [],
            }
        ],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
        "parameters": {},
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
    }


def log_settings(log_level: str) -> LogSettings:
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


def repository_index(lifecycle: Lifecycle, only_ready: bool) -> list[IndexEntry]:
    """Return the models and their states; `only_ready` leaves out models that are not ready."""
    if lifecycle.phase is Phase.READY:
        return [{"name": name, "version": VERSION, "state": "READY"} for name in MODELS]
    if only_ready:
        return []
    reason = lifecycle.phase.value
    return [
        {"name": name, "version": VERSION, "state": "UNAVAILABLE", "reason": reason}
        for name in MODELS
    ]


def _tensor_metadata(slot: Slot) -> TensorMetadata:
    return {"name": slot.name, "datatype": slot.datatype, "shape": [*slot.dims]}


def _output_config(slot: Slot) -> OutputConfig:
    return {"name": slot.name, "data_type": f"TYPE_{slot.datatype}", "dims": [*slot.dims]}


def _input_config(slot: Slot) -> InputConfig:
    return {**_output_config(slot), "optional": slot.optional}
