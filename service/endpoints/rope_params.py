"""The forms of a rope in a request: parameters, a model's config, or the name of a preset."""

from collections.abc import Hashable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag

from rope_core import SCHEMES, VARIANTS, Arithmetic, Layout, Rounding


class Params(BaseModel):
    """Base of all parameters."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


class RopeForm(Params):
    """Base of the forms of a rope."""

    @cached_property
    def resolved(self) -> dict[Hashable, Any]:
        """Cache of `RopeResolver` for this rope, freed with it."""
        return {}


class Rope(RopeForm):
    """How to rotate, by parameters.

    The parameters of the variant and of the scheme are members as well, under their own names:
    `/v1/variants` lists them.
    """

    model_config = ConfigDict(extra="allow")

    head_dim: int | None = None
    """Width of one head; by default that of the tensor."""

    rotary_dim: int | None = None
    """Elements of a head that are rotated, an even number; by default twice the number of given
    frequencies or divisors (`inv_freq`, `freq_factors`), otherwise all."""

    theta: float = 10_000.0
    """Base of the geometric progression of wavelengths."""

    layout: Layout = "half"
    """Which elements of a head form a pair: `half` (i, i + rotary_dim / 2), or `interleaved`
    (2i, 2i + 1). The other two layouts belong to single models."""

    rope_type: Literal[*VARIANTS] = "default"  # type: ignore[valid-type]
    """Name of the variant. `inv_freq` and `freq_factors` name their variants themselves."""

    axes: Literal[*SCHEMES] | None = None  # type: ignore[valid-type]
    """Name of the scheme of several axes."""

    rounding: Rounding | None = None
    """Which results are rounded to float16 or bfloat16. `once`: only the last; the default with
    arithmetic float64. `activation`: that of each step; the default with hf. docs/variants.md has
    the others."""

    trailing: bool = False
    """Rotate the last rotary_dim elements of a head, and not the first."""

    negative: bool = False
    """Rotate by the negative angle."""

    arithmetic: Arithmetic = "float64"
    """`float64` for exact angles, or `hf` for the float32 operations of transformers."""


class _ModelRope(RopeForm):
    part: Literal["text", "vision", "audio", "indexer"] | None = None
    """Part of a composite model, or the indexer of sparse attention; by default text."""

    layer: int | None = None
    """Index of the layer, if layers differ."""

    layer_type: str | None = None
    """Type of the layer, such as sliding_attention."""

    compat: Literal["5.23", "4.57"] = "5.23"
    """Version of transformers to follow if versions differ."""

    arithmetic: Arithmetic = "hf"
    """`hf` for the operations of transformers, or `float64` for exact angles."""

    length: int | None = None
    """Length that decides the frequencies of dynamic and LongRoPE; by default that of the call."""

    assume: Literal["llama"] | None = None
    """`llama`: read a config of an unknown model_type as a Llama, although it has keys that bear
    on positions and that are not applied."""


class Model(_ModelRope):
    """How to rotate, by a model's own config.json."""

    config: dict[str, Any]
    """Contents of the file, in the spelling of transformers 4 or 5, or of diffusers."""

    model_type: str | None = None
    """Family of the model, if the config does not name it."""


class PresetModel(_ModelRope):
    """How to rotate, by a preset."""

    preset: str
    """Name of the preset; `/v1/presets` lists all."""


def _form_tag(value: Any) -> str:
    if isinstance(value, str):
        return "name"
    if isinstance(value, dict):
        return "config" if "config" in value else "preset" if "preset" in value else "parameters"
    return next((tag for tag, form in FORMS.items() if isinstance(value, form)), "parameters")


FORMS: Mapping[str, type[RopeForm]] = {"parameters": Rope, "config": Model, "preset": PresetModel}
"""The forms that are objects, by the tags of the union below."""

ROPES = ("rope", "to", "other")
"""Parameters that are ropes."""

ROPE_PARAMS = frozenset(
    [name for form in FORMS.values() for name in form.model_fields]
    + [name for scaling in (*VARIANTS.values(), *SCHEMES.values()) for name in scaling.parameters]
)
"""Members of a rope in any form."""

AnyRope = Annotated[
    Annotated[Rope, Tag("parameters")]
    | Annotated[Model, Tag("config")]
    | Annotated[PresetModel, Tag("preset")]
    | Annotated[str, Tag("name")],
    Discriminator(_form_tag),
]
"""A rope in any form; a string is the name of a preset."""
