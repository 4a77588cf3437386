"""What the protocol's documents look like, for the compiler and for the description of `/v2`."""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field

# below Python 3.12 pydantic cannot read that of typing
from typing_extensions import TypedDict


class ServerMetadata(TypedDict):
    """What the service is."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(TypedDict):
    """Whether the process can recover."""

    live: bool


class ServerReady(TypedDict):
    """Whether traffic is welcome."""

    ready: bool


class ModelReady(TypedDict):
    """Whether a model can be asked."""

    name: str
    ready: bool


class TensorMetadata(TypedDict):
    """A tensor that a model reads or answers; -1 in its shape is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(TypedDict):
    """What a model reads and answers."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class OutputConfig(TypedDict):
    """A tensor that a model answers, as Triton tells it."""

    name: str
    data_type: str
    dims: list[int]


class InputConfig(OutputConfig):
    """A tensor that a model reads, as Triton tells it."""

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
    """How requests are batched, as far as Triton has words for it."""

    preferred_batch_size: list[int]
    max_queue_delay_microseconds: int


class TransactionPolicy(TypedDict):
    """Whether a request may have several answers."""

    decoupled: bool


class ResponseCache(TypedDict):
    """Whether answers are kept."""

    enable: bool


class ModelConfiguration(TypedDict):
    """Configuration of a model, as Triton tells it."""

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
    """How often something was done, and how long it took in all."""

    count: int
    ns: int


class ComputeStatistics(TypedDict):
    """Steps of a computation."""

    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class BatchStatistics(ComputeStatistics):
    """Runs of one size."""

    batch_size: int


class InferStatistics(ComputeStatistics):
    """Requests of a model."""

    success: Duration
    fail: Duration
    queue: Duration
    cache_hit: Duration
    cache_miss: Duration


class ModelStatistics(TypedDict):
    """What a model has done; `last_inference` is in milliseconds since 1970."""

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
    """What models have done."""

    model_stats: list[ModelStatistics]


class IndexEntry(TypedDict):
    """A model of the repository."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: NotRequired[str]


class TraceSettings(TypedDict):
    """Settings of Triton's own tracing."""

    trace_level: list[str]
    trace_rate: str
    trace_count: str
    log_frequency: str
    trace_file: str
    trace_mode: str


class LogSettings(TypedDict):
    """What is logged."""

    log_file: str
    log_info: bool
    log_warning: bool
    log_error: bool
    log_verbose_level: int
    log_format: str


class Refusal(TypedDict):
    """Why not, in one line."""

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
