"""Types of the protocol's documents, for mypy and for the OpenAPI description of `/v2`."""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field

# before Python 3.12 pydantic needs the TypedDict of typing_extensions
from typing_extensions import TypedDict


class ServerMetadata(TypedDict):
    """Name, version and protocol extensions of the service."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(TypedDict):
    """Whether the process can recover."""

    live: bool


class ServerReady(TypedDict):
    """Whether the service accepts requests."""

    ready: bool


class ModelReady(TypedDict):
    """Whether a model accepts requests."""

    name: str
    ready: bool


class TensorMetadata(TypedDict):
    """An input or output of a model; -1 in the shape is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """Inputs and outputs of a model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputConfig(TypedDict):
    """An output of a model, in Triton's terms."""

    name: str
    data_type: str
    dims: list[int]


class InputConfig(OutputConfig):
    """An input of a model, in Triton's terms."""

    optional: bool


class InstanceGroup(TypedDict):
    """Where a model runs."""

    name: str
    count: int
    kind: Literal["KIND_CPU", "KIND_GPU"]
    gpus: list[int]


class LatestVersions(TypedDict):
    """How many versions are served."""

    num_versions: int


class VersionPolicy(TypedDict):
    """Which versions are served."""

    latest: LatestVersions


class DynamicBatching(TypedDict):
    """How requests are batched, in Triton's terms."""

    preferred_batch_size: list[int]
    max_queue_delay_microseconds: int


class TransactionPolicy(TypedDict):
    """Whether a request may have several responses."""

    decoupled: bool


class ResponseCache(TypedDict):
    """Whether responses are cached."""

    enable: bool


class ModelConfiguration(TypedDict):
    """Configuration of a model, in Triton's terms."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    version_policy: VersionPolicy
    input: list[InputConfig]
    output: list[OutputConfig]
    instance_group: list[InstanceGroup]
    dynamic_batching: DynamicBatching
    parameters: dict[str, str]
    model_transaction_policy: TransactionPolicy
    response_cache: ResponseCache


class Duration(TypedDict):
    """How often a step ran, and its total time."""

    count: int
    ns: int


class ComputeStatistics(TypedDict):
    """Durations of the steps of a computation."""

    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class BatchStatistics(ComputeStatistics):
    """Batches of one size."""

    batch_size: int


class InferStatistics(ComputeStatistics):
    """Durations of the requests of a model."""

    success: Duration
    fail: Duration
    queue: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(TypedDict):
    """Statistics of a model; `last_inference` is in milliseconds since 1970."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferStatistics
    response_stats: dict[str, Duration]
    batch_stats: list[BatchStatistics]
    memory_usage: list[str]


class Statistics(TypedDict):
    """Statistics of models."""

    model_stats: list[ModelStatistics]


class IndexEntry(TypedDict):
    """State of a model."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: NotRequired[str]


class TraceSettings(TypedDict):
    """Settings of Triton's tracing."""

    trace_level: list[str]
    trace_rate: str
    trace_count: str
    log_frequency: str
    trace_file: str
    trace_mode: str


class LogSettings(TypedDict):
    """Settings of logging."""

    log_file: str
    log_info: bool
    log_warning: bool
    log_error: bool
    log_verbose_level: int
    log_format: str


class Refusal(TypedDict):
    """The answer to a failed request."""

    error: str


class IndexRequest(TypedDict, total=False):
    """Which models to list."""

    ready: Annotated[bool, Field(description="List only models that are ready.")]


class RegisterRequest(TypedDict):
    """A region of a POSIX shared memory object."""

    key: Annotated[str, Field(description="Name of the POSIX shared memory object.")]
    offset: NotRequired[Annotated[int, Field(ge=0, description="In bytes; 0 if missing.")]]
    byte_size: Annotated[int, Field(ge=1)]


class NoSettings(TypedDict):
    """No settings: requests cannot change settings."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
