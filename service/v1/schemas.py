"""Types of the bodies of `/v1`, without parameters; OpenAPI describes them by pydantic's schemas.

A default marks a field that some answers do not have.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    RootModel,
    create_model,
    with_config,
)
from typing_extensions import TypedDict

from service.asgi import problems
from service.endpoints.params import MODEL_PARAMS, AttentionParams
from service.lifecycle import Phase
from service.wire.elements import DTYPES, MAX_RANK

DESCRIBED = ConfigDict(use_attribute_docstrings=True, defer_build=True)
"""Docstrings of fields become descriptions of the schema, which is built when it is asked for."""

described = with_config(DESCRIBED)
"""Decorator of a TypedDict or dataclass that only describes."""


class Schema(BaseModel):
    """Base of the models that only describe."""

    model_config = DESCRIBED


class FlatTensor(Schema):
    """A tensor with its shape and dtype."""

    model_config = ConfigDict(extra="forbid")

    shape: Annotated[list[NonNegativeInt], Field(max_length=MAX_RANK)]
    """Size of each axis."""
    dtype: Literal[*DTYPES]  # type: ignore[valid-type]
    """Type of the elements."""
    data: (
        list[float | bool] | Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
    )
    """Elements in row-major order, or their little-endian bytes in base64."""
    encoding: Annotated[str, Field(json_schema_extra={"enum": ["base64"]})] = "base64"
    """base64 if `data` is text."""


class Tensor(RootModel[list[Any] | FlatTensor]):
    """Nested lists of numbers or booleans, or a flat tensor."""


@described
@dataclass(frozen=True)
class Problem(problems.Problem):
    """Why a request failed: a problem document of RFC 9457."""

    type: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    """Name of the kind of problem; ends with `code`."""
    title: str
    """The kind of problem in words."""
    status: int
    """Status of the answer."""
    code: Literal[*sorted({code for _, code in problems.PROBLEMS.values()})]  # type: ignore[valid-type]
    """The kind of problem, for programs: a code never changes."""
    detail: str
    """What is wrong with this request, for people."""
    error: str
    """The same as `detail`, where clients of the Open Inference Protocol read it."""


class Answer(Schema):
    """Tensors and warnings."""

    warnings: list[str] = []
    """Warnings for the caller."""


class LengthAnswer(Answer):
    """Tensors, warnings, and the length that decided the frequencies."""

    length: int = 0
    """The length that decided the frequencies; absent if they do not depend on one."""
    length_source: str = ""
    """What decided the length: positions or tokens of the call, rope.length, or a parameter."""


class ShiftAnswer(LengthAnswer):
    """Moved keys."""

    to_length: int = 0
    """The length that decided the frequencies of `to`."""
    to_length_source: str = ""
    """What decided it."""


class CosSinAnswer(LengthAnswer):
    """Cosine and sine of every pair."""

    attention_scaling: float = 1.0
    """Factor that cos and sin contain."""
    scale: FlatTensor = Field(None)  # type: ignore[assignment]
    """Only for xPos: multiply q by it, and divide k by it."""


Attention = create_model(  # type: ignore[call-overload]
    "Attention",
    **{
        name: (f.annotation, f)
        for name, f in AttentionParams.model_fields.items()
        if name in MODEL_PARAMS
    },
    __doc__="Parameters of attention that a model's config has.",
)


class LengthDependence(Schema):
    """From which length of a call on a rotation changes, and how."""

    above: int
    """Calls of up to this length rotate alike."""
    parameter: str | None
    """The parameter that has this length."""
    change: str
    """What changes for longer calls."""


class Lengths(Schema):
    """Numbers of positions."""

    trained: int | None
    """The length that the frequencies are scaled from; else as `allowed`."""
    allowed: int | None
    """`max_position_embeddings`."""


class Scaling(Schema):
    """How many pairs the variant keeps, blends and divides. Pairs that do not turn are in none."""

    kept: int
    """Pairs with their plain frequency."""
    blended: int
    """Pairs divided by another number than `factor`."""
    divided: int
    """Pairs divided by `factor`."""
    factor: float
    """Divisor of the slow pairs; 1 if no pair is divided."""


class ResolveAnswer(LengthAnswer):
    """What a model's config says about rotation."""

    summary: str = ""
    """Sentences about the rotation of the layer."""
    rotates: bool = True
    """Whether the layer rotates q and k."""
    nope: str | None = None
    """Why the layer does not rotate."""
    model_type: str = ""
    """Family of the model."""
    layer_type: str | None = None
    """Type of the layer, if layers differ."""
    parameters: dict[str, Any] = {}
    """All parameters, in the spelling of transformers 5."""
    provenance: dict[str, Literal["given", "class default", "default", "derived"]] = {}
    """Where each value comes from."""
    why: dict[str, str] = {}
    """For the same names the key of the config, or the formula."""
    lengths: Lengths = Lengths(trained=None, allowed=None)
    """How many positions the model was trained on, and how many it is allowed."""
    scaling: Scaling = Scaling(kept=0, blended=0, divided=0, factor=1.0)
    """What the variant does to the frequencies."""
    attention: Attention = Attention()
    """Parameters of attention of the layer."""
    layers: list[dict[str, Any]] = []
    """All layers, by type."""
    keys_read: list[str] = []
    """Keys of the config that were read."""
    keys_ignored: list[str] = []
    """Keys of the config that were not read."""
    position_keys_not_applied: list[str] = []
    """Keys that say how queries and keys get their positions, and that no layer follows."""
    rope: dict[str, Any] = {}
    """The value of `rope_core.RopeConfig` that rotates."""
    attention_scaling: float = 1.0
    """Factor that cos and sin contain."""
    num_axes: int = 1
    """Numbers in one position."""
    softmax_scale: float = 1.0
    """Multiplier of the scores."""
    length_dependence: LengthDependence = LengthDependence(above=0, parameter=None, change="")
    """How the frequencies depend on the length of a call; absent if they do not."""


class PositionsAnswer(Answer):
    """Positions, and other tensors of the builder."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, FlatTensor]
    """Each builder names its tensors."""


@described
class Healthz(TypedDict):
    """Whether the process lives."""

    status: str
    """Always alive."""


@described
class Readyz(TypedDict):
    """Phase of the service."""

    status: Literal[*(phase.value for phase in Phase)]  # type: ignore[valid-type]
    """The service is ready for requests only if this is ready."""


@described
class Limits(TypedDict):
    """What the service accepts."""

    max_body_bytes: int
    """Largest body of a request or an answer."""
    max_json_bytes: int
    """Largest JSON body."""
    max_header_bytes: int
    """Largest header of a request."""
    max_target_bytes: int
    """Longest path and query of a request."""
    memory_budget_bytes: int
    """Memory that all requests together may take."""
    max_call_s: float
    """Longest estimated compute time of a call."""
    max_queue_calls: int
    """Most calls that wait."""
    max_queue_s: float
    """Longest predicted wait of a call."""
    default_timeout_s: float
    """Timeout of a request that sets none."""
    max_timeout_s: float
    """Longest timeout that a request may set."""
    max_sessions: int
    """Most sessions of a tenant."""


@described
class Version(TypedDict):
    """Versions of the software, the device, and the limits."""

    version: str
    """Version of the service."""
    torch: str
    """Version of PyTorch."""
    python: str
    """Version of Python."""
    device: str
    """cpu, or the name of the GPU."""
    limits: Limits
    """Bodies, calls and waits that the service accepts."""


@described
class Preset(TypedDict):
    """A model's configuration by name."""

    name: str
    """Name of the preset."""
    config: dict[str, Any]
    """Contents of config.json, in the spelling of transformers 4 or 5."""
    source: str
    """URL, or path in the folder of the operator."""


@described
class RefusedPreset(TypedDict):
    """A file in the operator's folder that is no preset. A request that names it gets 422."""

    name: str
    """Name that the preset would have."""
    source: str
    """Path in the folder of the operator."""
    reason: str
    """Why the file is refused."""


@described
class Presets(TypedDict):
    """All presets."""

    presets: list[Preset]
    """Built-in presets, and those of the operator."""
    refused: list[RefusedPreset]
    """Files of the operator that are no presets."""


@described
class Argument(TypedDict):
    """A parameter of a variant or scheme, or an argument of a builder."""

    name: str
    """Name of the parameter."""
    type: str
    """A type of JSON, or tensor."""
    required: bool
    """Whether the parameter must be given."""
    default: Any
    """The value if the parameter is missing."""


@described
class Variant(TypedDict):
    """A RoPE variant, or a scheme of several axes."""

    name: str
    """Value of `rope_type` or `axes`."""
    summary: str
    """What the variant or scheme does."""
    source: str
    """Paper or code that defines the variant or scheme."""
    models: str
    """Models that use the variant or scheme."""
    parameters: list[Argument]
    """Parameters of the variant or scheme: members of `rope`."""


@described
class Builder(TypedDict):
    """A builder of positions."""

    name: str
    """Value of `builder`."""
    summary: str
    """What the builder returns."""
    models: list[str]
    """Models whose positions the builder makes."""
    arguments: list[Argument]
    """Tensors and plain arguments of the builder."""


@described
class Variants(TypedDict):
    """Variants, schemes, builders, models without rotary embedding; errors of cos."""

    variants: list[Variant]
    """Values of `rope_type`."""
    schemes: list[Variant]
    """Values of `axes`."""
    builders: list[Builder]
    """Values of `builder` of `/v1/positions`."""
    models_without_rope: dict[str, list[str]]
    """Model types without rotary embedding, by what tells their attention where a token is."""
    largest_error_of_cos: dict[str, dict[str, float]]
    """Largest error of a cosine, by `arithmetic` and by position."""
