"""Model families: what transformers' classes say where a config.json is silent, a row each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from rope_core.config import Layout, Learned, Rounding


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """One configuration class of transformers 5.23, or a model of diffusers: a row of the table."""

    name: str
    """Its model_type."""

    module: str = ""
    """The folder its code is in; the name where that is the same."""

    part: str = "text"
    """`text`, `vision` or `audio`, where a module has several."""

    new: bool = False
    """transformers 4.57 has no such class."""

    layout: Layout = "half"
    negative: bool = False
    trailing: bool = False
    blocks: int = 1
    rounding: Rounding = "activation"
    angles: str = "float32"
    """`float64` where the model itself computes angles so."""

    axes: str | None = None
    """Its scheme of several axes."""
    axes_order: tuple[int, ...] | None = None
    num_axes: int | None = None
    thirds: bool = False
    """Each of three axes has an even third of the head; what is left over does not rotate."""

    learned: Learned | None = None
    special: str | None = None
    """Read by a function of its own, a name of `rope_core.hf.custom_rotations`."""

    first_head: bool = False
    """Only the first head is rotated."""
    by_head: bool = False
    """The place of the head is the position, for all tokens."""
    ignores: tuple[str, ...] = ()
    """Keys that its class does not read."""

    head_dim: Any = None
    """The key that holds it, one for each layer type, or a rule of `rope_core.hf.head_dim`."""

    null_head_dim: bool = False
    """Its class has a head_dim of null, which YaRN, dynamic and LongRoPE fail on."""

    whole_head_by_default: bool = False
    """partial_rotary_factor counts for scaled types alone."""
    default_share: float | None = None
    """What partial_rotary_factor is for default frequencies where nothing says any."""
    absolute: str | None = None
    """The key of an absolute rotary width."""
    shares: str | None = None
    """The key of a list with a partial_rotary_factor for each layer."""
    alpha: bool = False
    """`dynamic` with `alpha` means ntk_alpha (HunYuan)."""
    phimoe: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of rope types."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Other names of keys."""

    block: Mapping[str, Any] = field(default_factory=dict)
    """rope_parameters where the file has none."""
    types: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By layer type: the `default` block (null: no rotation), which key has its `theta`,
    whether legacy `scaling` applies, and what is set by `force`."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """The name in `types` of each layer type, under "" that of all others."""
    fills: bool = False
    """What nested blocks leave out, the class's own have."""
    each: str = "first"
    """Of a list with a number for each layer, which counts for a type: that of its `first` layer,
    or its `last`."""
    scaled_layers: str | None = None
    """The key of a list of the layers that are scaled; others have default frequencies."""

    cycle: tuple[str, ...] = ()
    """Layer types, repeated over the layers."""
    period: str | None = None
    """The key that holds the length of the cycle."""
    first: str | None = None
    last: str | None = None
    stack: str | None = None
    """Layer types by a rule, a name of `rope_core.hf.layers`."""
    nope: str | None = None
    """Which layers do not rotate, a name of `rope_core.hf.layers`."""

    scale: Any = None
    """Multiplier of the scores: a number, or the name of a rule."""
    causal: bool = True
    two_sided: str | None = None
    """How a window to both sides is given, a name of `rope_core.hf.attention`."""
    bidirectional: str | None = None
    """The key that makes it not causal."""

    legacy: Mapping[str, Any] = field(default_factory=dict)
    """What the row has otherwise in transformers 4.57."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Keys of config.json and what the class has for them."""

    @property
    def has_axes(self) -> int:
        """Numbers that make up a position."""
        return {"mrope": 3, "mrope_interleaved": 3, "mrope_hw_t": 3, "xdrope": 4}.get(
            self.axes or "", self.num_axes or (2 if self.axes else 1)
        )

    def as_of(self, compat: str) -> "Family":
        """Return the row for a version of transformers."""
        if compat == "5.23" or not self.legacy:
            return self
        merged = {**self.legacy, "defaults": {**self.defaults, **self.legacy.get("defaults", {})}}
        return replace(self, **merged)


UNKNOWN = Family(name="unknown", module="unknown")
"""What a model_type without a row is read as: Llama's rules."""

SAME = {
    "exaone": "llama",
    "internlm2": "llama",
    "kimi_k2": "deepseek_v3",
    "minicpm": "llama",
    "phi3_v": "phi3",
    "phi4mm": "phi4_multimodal",
}
"""Names of model types that transformers has no class for, whose own code reads a config alike."""

DIFFUSERS = {
    "FluxTransformer2DModel": "flux",
    "Flux2Transformer2DModel": "flux2",
    "Lumina2Transformer2DModel": "lumina2",
    "WanTransformer3DModel": "wan",
    "SkyReelsV2Transformer3DModel": "wan",
    "HunyuanVideoTransformer3DModel": "hunyuan_video",
    "CogVideoXTransformer3DModel": "cogvideox",
    "CosmosTransformer3DModel": "cosmos",
    "LTXVideoTransformer3DModel": "ltx",
    "QwenImageTransformer2DModel": "qwenimage",
    "CogView4Transformer2DModel": "cogview4",
    "LuminaNextDiT2DModel": "lumina2d",
    "MochiTransformer3DModel": "mochi",
}
"""Classes of diffusers (`_class_name` of a config.json) and the family they belong to."""


@cache
def families() -> Mapping[str, Family]:
    """Return all families by model_type."""
    rows = json.loads((files("rope_core.hf") / "families.json").read_text())
    lists = {f.name for f in fields(Family) if "tuple" in str(f.type)}
    return MappingProxyType(
        {
            name: Family(
                name=name,
                **{"module": name, **row}
                | {key: tuple(row[key]) for key in lists if row.get(key) is not None},
            )
            for name, row in rows.items()
        }
    )


@cache
def parts(module: str) -> tuple[Family, ...]:
    """Return the families of a module, text first."""
    found = [family for family in families().values() if family.module == module]
    usual = (module, f"{module}_text")
    return tuple(sorted(found, key=lambda each: (each.part != "text", each.name not in usual)))
