"""Types of the bodies of `/v1`, without parameters; OpenAPI describes them by pydantic's schemas.

A default marks a field that some answers do not have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, RootModel, create_model
from typing_extensions import TypedDict

from rope_core.presets import Preset
from service.asgi import problems
from service.endpoints.params import MODEL_PARAMS, AttentionParams
from service.lifecycle import Phase
from service.wire.elements import DTYPES, MAX_RANK


class Schema(BaseModel):
    """Base of the models that only describe."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class FlatTensor(Schema):
    """A tensor with its shape and dtype."""

    model_config = ConfigDict(extra="forbid")

    shape: Annotated[list[NonNegativeInt], Field(max_length=MAX_RANK)]
    dtype: Literal[*DTYPES]  # type: ignore[valid-type]
    data: (
        list[float | bool] | Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
    )
    """Elements in row-major order, or their little-endian bytes in base64."""
    encoding: Annotated[str, Field(json_schema_extra={"enum": ["base64"]})] = "base64"


class Tensor(RootModel[list[Any] | FlatTensor]):
    """Nested lists of numbers or booleans, or a flat tensor."""


@dataclass(frozen=True)
class Problem(problems.Problem):
    """Why a request failed: a problem document of RFC 9457."""

    type: Annotated[str, Field(json_schema_extra={"format": "uri"})]
    code: Literal[*sorted({code for _, code in problems.PROBLEMS.values()})]  # type: ignore[valid-type]


class Answer(Schema):
    """Tensors and warnings."""

    warnings: list[str] = []
    """Warnings for the caller."""


class CosSinAnswer(Answer):
    """Cosine and sine of every pair."""

    attention_scaling: float = 1.0
    """Factor that cos and sin contain."""
    scale: FlatTensor = Field(None)  # type: ignore[assignment]


Attention = create_model(  # type: ignore[call-overload]
    "Attention",
    **{
        name: (f.annotation, f)
        for name, f in AttentionParams.model_fields.items()
        if name in MODEL_PARAMS
    },
)


class ResolveAnswer(Answer):
    """What a model's config says about rotation."""

    rotates: bool = True
    nope: str | None = None
    """Why the layer does not rotate."""
    model_type: str = ""
    layer_type: str | None = None
    parameters: dict[str, Any] = {}
    """All parameters, in the spelling of transformers 5."""
    provenance: dict[str, Literal["given", "class default", "default", "derived"]] = {}
    attention: Attention = Attention()
    layers: list[dict[str, Any]] = []
    """All layers, by type."""
    keys_read: list[str] = []
    keys_ignored: list[str] = []
    rope: dict[str, Any] = {}
    """The value of `rope_core.RopeConfig` that rotates."""
    attention_scaling: float = 1.0
    num_axes: int = 1
    """Numbers in one position."""
    softmax_scale: float = 1.0


class PositionsAnswer(Answer):
    """Positions, and other tensors of the builder."""

    model_config = ConfigDict(extra="allow")

    __pydantic_extra__: dict[str, FlatTensor]
    """Each builder names its tensors."""


ANSWERS: Mapping[str, type[Answer]] = {
    "/v1/cos_sin": CosSinAnswer,
    "/v1/resolve": ResolveAnswer,
    "/v1/positions": PositionsAnswer,
}
"""Types of the answers that have more than tensors and warnings, by path."""


class Healthz(TypedDict):
    """Whether the process lives."""

    status: str


class Readyz(TypedDict):
    """Phase of the service."""

    status: Literal[*(phase.value for phase in Phase)]  # type: ignore[valid-type]


class Version(TypedDict):
    """Versions of the software, and the device."""

    version: str
    torch: str
    python: str
    device: str


class Presets(TypedDict):
    """All presets."""

    presets: list[Preset]


class Argument(TypedDict):
    """A parameter of a variant or scheme, or an argument of a builder."""

    name: str
    type: str
    required: bool
    default: Any


class Variant(TypedDict):
    """A RoPE variant, or a scheme of several axes."""

    name: str
    summary: str
    source: str
    models: str
    parameters: list[Argument]


class Builder(TypedDict):
    """A builder of positions."""

    name: str
    summary: str
    models: list[str]
    arguments: list[Argument]


class Variants(TypedDict):
    """Variants, schemes and builders; errors of cos by arithmetic and position."""

    variants: list[Variant]
    schemes: list[Variant]
    builders: list[Builder]
    largest_error_of_cos: dict[str, dict[str, float]]
