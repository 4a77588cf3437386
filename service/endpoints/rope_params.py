"""How a request says what to rotate by: parameters, a model's config, or a preset's name."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from rope_core import SCHEMES, VARIANTS, Arithmetic, Layout, Rounding

if TYPE_CHECKING:
    from service.endpoints.rope_resolver import ResolvedRope, RopeResolver


class Params(BaseModel):
    """Base of all parameters."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class _Rope(Params):
    @cached_property
    def known(self) -> "dict[tuple[RopeResolver, int | None, int | None], ResolvedRope]":
        """What these very parameters have come to: it lives as long as they do."""
        return {}


class Rope(_Rope):
    """How to rotate, by parameters.

    Those of the variant and of the scheme go by their own names beside these; `/v1/variants` lists
    them.
    """

    model_config = ConfigDict(extra="allow")

    head_dim: int | None = None
    """Width of one head; that of the tensor where missing."""

    rotary_dim: int | None = None
    """Elements of a head that are rotated, even; all of them where missing."""

    theta: float = 10_000.0
    """Base of the geometric progression of wavelengths."""

    layout: Layout = "half"
    """Pairs are (i, i + rotary_dim/2), or (2i, 2i + 1); two more are of single models."""

    rope_type: Literal[*VARIANTS] = "default"  # type: ignore[valid-type]
    """Name of the variant."""

    axes: Literal[*SCHEMES] | None = None  # type: ignore[valid-type]
    """Name of the scheme of several axes."""

    rounding: Rounding | None = None
    """Where float16 and bfloat16 are rounded: `once`, at the end, is the default of float64;
    `activation`, after each step, that of hf; other families of transformers: docs/variants.md."""

    trailing: bool = False
    """Rotate the last rotary_dim elements of a head."""

    negative: bool = False
    """Rotate by minus the angle."""

    arithmetic: Arithmetic = "float64"
    """`float64`, the truth, or `hf`, transformers' own operations in float32."""


class _Chosen(_Rope):
    part: Literal["text", "vision", "audio"] | None = None
    """Part of a composite model; text where nothing tells."""

    layer: int | None = None
    """Index of the layer, where layers differ."""

    layer_type: str | None = None
    """Its type, such as sliding_attention."""

    compat: Literal["5.23", "4.57"] = "5.23"
    """Version of transformers to follow where they differ."""

    arithmetic: Arithmetic = "hf"
    """`hf`, transformers' own operations, or `float64`, the truth."""

    length: int | None = None
    """Length that dynamic and LongRoPE frequencies are for; that of the call where missing."""


class Model(_Chosen):
    """How to rotate, by a model's own config.json."""

    config: dict[str, Any]
    """Its contents, in the spelling of transformers 4 or 5, or of diffusers."""

    model_type: str | None = None
    """The family, where the config does not say it."""


class PresetModel(_Chosen):
    """How to rotate, by a preset."""

    preset: str
    """Its name: `/v1/presets` lists all."""


def _kind(given: Any) -> str:
    if isinstance(given, str):
        return "name"
    if isinstance(given, dict):
        return "config" if "config" in given else "preset" if "preset" in given else "parameters"
    if isinstance(given, Model):
        return "config"
    return "preset" if isinstance(given, PresetModel) else "parameters"


FORMS: Mapping[str, type[_Rope]] = {"parameters": Rope, "config": Model, "preset": PresetModel}
"""What an object may be, by the tags of the union below."""

AnyRope = Annotated[
    Annotated[Rope, Tag("parameters")]
    | Annotated[Model, Tag("config")]
    | Annotated[PresetModel, Tag("preset")]
    | Annotated[str, Tag("name")],
    Discriminator(_kind),
]
"""What `rope` may be; a bare text is a preset's name."""
