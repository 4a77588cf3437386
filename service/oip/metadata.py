"""What the protocol tells of the service and of its models, as JSON has it."""

from service import __version__
from service.lifecycle import Lifecycle, Phase
from service.oip.infer.models import MODELS, VERSION, Model, Slot
from service.oip.types import (
    IndexEntry,
    InputConfig,
    InstanceGroup,
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

NO_CUDA_MEMORY = "CUDA shared memory is not served here"
UNCHANGED = "tracing and logging are set by the operator, and not changed by requests"

TRACE: TraceSettings = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}
"""Settings of Triton's own tracing, which is not here."""


def describe_server(shares_memory: bool) -> ServerMetadata:
    """Return what the service is."""
    more = ["system_shared_memory"] if shares_memory else []
    return {"name": "rope-service", "version": __version__, "extensions": [*EXTENSIONS, *more]}


def describe_model(model: Model) -> ModelMetadata:
    """Return the metadata of a model."""
    return {
        "name": model.name,
        "versions": [VERSION],
        "platform": "rope-service",
        "inputs": [_described(slot) for slot in model.inputs],
        "outputs": [_described(slot) for slot in model.outputs],
    }


def configure(model: Model, on_gpu: bool) -> ModelConfiguration:
    """Return the configuration of a model: batches are a dimension that callers choose."""
    group: InstanceGroup = {
        "name": f"{model.name}_0",
        "count": 1,
        "kind": "KIND_GPU" if on_gpu else "KIND_CPU",
        "gpus": [0] if on_gpu else [],
    }
    return {
        "name": model.name,
        "platform": "",
        "backend": "rope-service",
        "max_batch_size": 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_input(slot) for slot in model.inputs],
        "output": [_output(slot) for slot in model.outputs],
        "instance_group": [group],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
        "parameters": {},
        "model_transaction_policy": {"decoupled": False},
        "response_cache": {"enable": False},
    }


def describe_log(log_level: str) -> LogSettings:
    """Return what is logged: all goes to standard output, at the operator's level."""
    rank = ("error", "warning", "info", "debug").index(log_level)
    return {
        "log_file": "",
        "log_info": rank >= 2,
        "log_warning": rank >= 1,
        "log_error": True,
        "log_verbose_level": int(rank >= 3),
        "log_format": "default",
    }


def list_models(lifecycle: Lifecycle, only_ready: bool) -> list[IndexEntry]:
    """Return the index of the repository."""
    if lifecycle.phase is Phase.READY:
        return [{"name": name, "version": VERSION, "state": "READY"} for name in MODELS]
    if only_ready:
        return []
    why = lifecycle.phase.value
    return [
        {"name": name, "version": VERSION, "state": "UNAVAILABLE", "reason": why} for name in MODELS
    ]


def _described(slot: Slot) -> TensorMetadata:
    return {"name": slot.name, "datatype": slot.datatype, "shape": [*slot.dims]}


def _output(slot: Slot) -> OutputConfig:
    return {"name": slot.name, "data_type": f"TYPE_{slot.datatype}", "dims": [*slot.dims]}


def _input(slot: Slot) -> InputConfig:
    return {**_output(slot), "optional": slot.optional}
