"""Types of the protocol's documents, for mypy and for the OpenAPI description of `/v2`."""

from typing import Annotated, Literal, NotRequired

from pydantic import ConfigDict, Field

# before Python 3.12 pydantic needs the TypedDict of typing_extensions
from typing_extensions import TypedDict

from service.v1.schemas import described


@described
class ServerMetadata(TypedDict):
    """Name, version and protocol extensions of the service."""

    name: str
    """Name of the service."""
    version: str
    """Version of the service."""
    extensions: list[str]
    """Parts of Triton's protocol that the service has."""


@described
class ServerLive(TypedDict):
    """Whether the process can recover."""

    live: bool
    """False after the device is lost or stuck."""


@described
class ServerReady(TypedDict):
    """Whether the service accepts requests."""

    ready: bool
    """False during the warm-up and the drain."""


@described
class ModelReady(TypedDict):
    """Whether a model accepts requests."""

    name: str
    """Name of the model."""
    ready: bool
    """False during the warm-up and the drain."""


@described
class TensorMetadata(TypedDict):
    """An input or output of a model; -1 in the shape is any size."""

    name: str
    """Name of the input or output."""
    datatype: str
    """Datatype of the protocol, such as FP32. For heads, FP16 and BF16 are accepted as well."""
    shape: list[int]
    """Size of each axis; -1 is any size."""


@described
class ModelMetadata(TypedDict):
    """Inputs and outputs of a model."""

    name: str
    """Name of the model."""
    versions: list[str]
    """Versions of the model."""
    platform: str
    """Always rope-service."""
    inputs: list[TensorMetadata]
    """Inputs of the model, also the optional ones."""
    outputs: list[TensorMetadata]
    """Outputs of the model."""


class OutputConfig(TypedDict):
    """An output of a model, in Triton's terms."""

    name: Annotated[str, Field(description="Name of the tensor.")]
    data_type: Annotated[
        str, Field(description="Datatype in Triton's spelling, such as TYPE_FP32.")
    ]
    dims: Annotated[list[int], Field(description="Size of each axis; -1 is any size.")]


@described
class InputConfig(OutputConfig):
    """An input of a model, in Triton's terms."""

    optional: bool
    """Whether requests may leave the input out."""


@described
class InstanceGroup(TypedDict):
    """Where a model runs."""

    name: str
    """Name of the group."""
    count: int
    """Number of instances."""
    kind: Literal["KIND_CPU", "KIND_GPU"]
    """Whether the model runs on a CPU or on a GPU."""
    gpus: list[int]
    """Numbers of the GPUs."""


@described
class LatestVersions(TypedDict):
    """How many versions are served."""

    num_versions: int
    """Number of versions that are served."""


@described
class VersionPolicy(TypedDict):
    """Which versions are served."""

    latest: LatestVersions
    """The newest versions are served."""


@described
class DynamicBatching(TypedDict):
    """How requests are batched, in Triton's terms."""

    preferred_batch_size: list[int]
    """Always empty: no size is preferred."""
    max_queue_delay_microseconds: int
    """Always 0: a call does not wait for others while the device is idle."""


@described
class OldestSequences(TypedDict):
    """How requests of sequences are batched, in Triton's terms."""

    max_candidate_sequences: int
    """Most live sequences of a tenant that has no limit of its own."""
    preferred_batch_size: list[int]
    """Always empty: no size is preferred."""
    max_queue_delay_microseconds: int
    """Always 0: a call does not wait for others while the device is idle."""
    preserve_ordering: bool
    """Always false: only the requests of one sequence are answered in their order."""


@described
class SequenceBatching(TypedDict):
    """How long sequences live, and how their requests are batched, in Triton's terms."""

    max_sequence_idle_microseconds: int
    """Time without a request after which a sequence ends that does not ask for another time."""
    oldest: OldestSequences
    """The oldest waiting requests run first."""


@described
class TransactionPolicy(TypedDict):
    """Whether a request may have several responses."""

    decoupled: bool
    """Always false: each request has one response."""


@described
class ResponseCache(TypedDict):
    """Whether responses are cached."""

    enable: bool
    """Always false."""


@described
class ModelConfiguration(TypedDict):
    """Configuration of a model, in Triton's terms."""

    name: str
    """Name of the model."""
    platform: str
    """Always empty."""
    backend: str
    """Always rope-service."""
    max_batch_size: int
    """Always 0: the batch is an axis of the tensors."""
    version_policy: VersionPolicy
    """Which versions are served."""
    input: list[InputConfig]
    """Inputs of the model, also the optional ones."""
    output: list[OutputConfig]
    """Outputs of the model."""
    instance_group: list[InstanceGroup]
    """Where the model runs."""
    dynamic_batching: NotRequired[DynamicBatching]
    """How requests are batched; absent from a model of sequences."""
    sequence_batching: NotRequired[SequenceBatching]
    """How requests of sequences are batched; absent from other models."""
    parameters: dict[str, str]
    """Always empty."""
    model_transaction_policy: TransactionPolicy
    """Whether a request may have several responses."""
    response_cache: ResponseCache
    """Whether responses are cached."""


@described
class Duration(TypedDict):
    """How often a step ran, and its total time."""

    count: int
    """How often the step ran."""
    ns: int
    """Total time in nanoseconds."""


class ComputeStatistics(TypedDict):
    """Durations of the steps of a computation."""

    compute_input: Annotated[Duration, Field(description="Reading of the inputs.")]
    compute_infer: Annotated[Duration, Field(description="Computation on the device.")]
    compute_output: Annotated[Duration, Field(description="Writing of the outputs.")]


@described
class BatchStatistics(ComputeStatistics):
    """Batches of one size."""

    batch_size: int
    """Number of requests in one batch."""


@described
class InferStatistics(ComputeStatistics):
    """Durations of the requests of a model."""

    success: Duration
    """Successful requests, from their arrival to their answer."""
    fail: Duration
    """Failed requests."""
    queue: Duration
    """Time in the queue."""
    cache_hit: Duration
    """Always 0: responses are not cached."""
    cache_miss: Duration
    """Always 0: responses are not cached."""


@described
class ModelStatistics(TypedDict):
    """Statistics of a model; `last_inference` is in milliseconds since 1970."""

    name: str
    """Name of the model."""
    version: str
    """Version of the model."""
    last_inference: int
    """Time of the last request, in milliseconds since 1970."""
    inference_count: int
    """Number of successful requests."""
    execution_count: int
    """Number of batches."""
    inference_stats: InferStatistics
    """Durations of requests and of their steps."""
    response_stats: dict[str, Duration]
    """Always empty: each request has one response."""
    batch_stats: list[BatchStatistics]
    """Durations by number of requests in a batch."""
    memory_usage: list[str]
    """Always empty."""


@described
class Statistics(TypedDict):
    """Statistics of models."""

    model_stats: list[ModelStatistics]
    """One entry for each model."""


@described
class IndexEntry(TypedDict):
    """State of a model."""

    name: str
    """Name of the model."""
    version: str
    """Version of the model."""
    state: Literal["READY", "UNAVAILABLE"]
    """Whether the model accepts requests."""
    reason: NotRequired[str]
    """Phase of the service, if the model is unavailable."""


@described
class TraceSettings(TypedDict):
    """Settings of Triton's tracing."""

    trace_level: list[str]
    """Always OFF."""
    trace_rate: str
    """Without effect."""
    trace_count: str
    """Without effect."""
    log_frequency: str
    """Without effect."""
    trace_file: str
    """Without effect."""
    trace_mode: str
    """Without effect."""


@described
class LogSettings(TypedDict):
    """Settings of logging."""

    log_file: str
    """Always empty: the log is standard output."""
    log_info: bool
    """Whether lines of level info are written."""
    log_warning: bool
    """Whether warnings are written."""
    log_error: bool
    """Always true."""
    log_verbose_level: int
    """1 if lines of level debug are written, otherwise 0."""
    log_format: str
    """Always default; lines are JSON objects."""


@described
class Refusal(TypedDict):
    """The answer to a failed request."""

    error: str
    """Why the request failed."""


class IndexRequest(TypedDict, total=False):
    """Which models to list."""

    ready: Annotated[bool, Field(description="List only models that are ready.")]


@described
class Region(TypedDict):
    """A region: a part of a shared memory object."""

    name: str
    """Name of the region."""
    key: str
    """Name of the POSIX shared memory object."""
    offset: int
    """Where the region begins in the object, in bytes."""
    byte_size: int
    """Bytes of the region."""


class RegisterRequest(TypedDict):
    """A region of a POSIX shared memory object."""

    key: Annotated[str, Field(description="Name of the POSIX shared memory object.")]
    offset: NotRequired[Annotated[int, Field(ge=0, description="In bytes; 0 if missing.")]]
    byte_size: Annotated[int, Field(ge=1, description="Bytes of the region.")]


class NoSettings(TypedDict):
    """No settings: requests cannot change settings."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
