"""A model family: how to read its config.json, and the defaults of its class."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rope_core.config import Layout, Rounding

Rule = Callable[..., Any]

FULL, SLIDING = "full_attention", "sliding_attention"
"""The layer types of most families."""

NUM_AXES = {"mrope": 3, "mrope_interleaved": 3, "mrope_hw_t": 3, "xdrope": 4, "axial_thirds": 3}
"""Axes of the schemes that do not have two."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Family:
    """A row of a table: a configuration class of transformers 5.23, or other published code.

    A field of type `Rule` is a function: the row has its name, and families.py says which module
    it is in.
    """

    name: str
    """The model_type."""

    module: str = ""
    """The folder of the model's code; the same as `name` if missing in the table."""

    part: str = "text"
    """`text`, `vision` or `audio`: the part of a composite model. `indexer`: the part of sparse
    attention that chooses keys."""

    source: str | None = None
    """The published code that the row follows, if that is not transformers or diffusers."""

    model_type_aliases: tuple[str, ...] = ()
    """Other model types whose code reads a config alike: transformers has no class for them, or
    a class that inherits everything."""

    class_names: tuple[str, ...] = ()
    """Classes of diffusers: `_class_name` of a config.json."""

    new_in_5: bool = False
    """transformers 4.57 has no such class."""

    layout: Layout = "half"
    rounding: Rounding = "activation"

    rope_config: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of a `RopeConfig` that do not have their default."""

    axes: str | None = None
    """The scheme of several axes; `axial_thirds` is `axial` with three axes of equal width."""

    axes_order: tuple[int, ...] | None = None

    key_names: Mapping[str, str] = field(default_factory=dict)
    """Names of keys that differ from Llama's."""

    other_names: Mapping[str, str] = field(default_factory=dict)
    """Names under which the class reads a key that a config lacks."""

    ignored_keys: tuple[str, ...] = ()
    """Keys that the class does not read."""

    rope_type_aliases: Mapping[str, str] = field(default_factory=dict)

    rope_parameters: Mapping[str, Any] = field(default_factory=dict)
    """`rope_parameters` where the file has none."""

    rope_parameters_by_type: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For each layer type: `default`, its rope parameters (null: the layers do not rotate);
    `keys`, the keys of config.json that replace single parameters; `scaling`, whether one
    dictionary for all layers counts for this type."""

    nested_defaults: bool = False
    """A layer type that is missing in the file's nested parameters has those of the class."""

    nested_complete: bool = False
    """Nested parameters do not count if they lack one of the class's layer types."""

    nested_theta: Literal["outside", "class"] | None = None
    """The base of nested parameters without one: `rope_theta` outside of them, then the class's;
    or the class's alone; None: by the type's `keys`, then `rope_theta` outside, then the type's."""

    whole_head_by_default: bool = False
    """`rope_type` "default" ignores partial_rotary_factor."""

    layer_cycle: tuple[str, ...] = ()
    """Layer types, repeated over the layers."""

    cycle_length_key: str | None = None
    """The key of config.json with the length of the cycle."""

    first_layer: str | None = None
    """The type of the first layer, where it is not that of the cycle."""

    last_layer: str | None = None
    """The type of the last layer, where it is not that of the cycle."""

    causal: bool = True

    causal_key: str | None = None
    """The key of config.json that makes a model causal that is not by default."""

    encoder_decoder: bool = False
    """Whether the model has an encoder as well, whose layers are not causal."""

    no_rope: str | None = None
    """The position encoding of a model without any rotary embedding, such as `ALiBi`."""

    relative_bias: bool = False
    """Whether the biases of a model with relative positions depend on positions only."""

    alibi_of_root: bool = False
    """Whether ALiBi biases are of the root of the distance."""

    layer_types: Rule | None = None
    """The type of each layer, if the types are not a cycle."""

    nope: Rule | None = None
    """Which layers do not rotate; None: all do, or none does where `no_rope` is set."""

    head_dim: Rule | None = None
    softmax_scale: Rule | None = None

    two_sided_window: Rule | None = None
    """How many keys before and after a query a window shows, in a model that is not causal."""

    rotation: Rule | None = None
    """Reads a config whose keys are not those of the other families."""

    oddities: Mapping[str, Rule] = field(default_factory=dict)
    """The steps of reading a config that this family does in its own way."""

    in_4_57: Mapping[str, Any] = field(default_factory=dict)
    """Fields with another value in transformers 4.57."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Keys of config.json and the value that the class has for them."""

    @property
    def num_axes(self) -> int:
        """Number of coordinates in a position."""
        return NUM_AXES.get(self.axes, 2) if self.axes else 1

    def step(self, name: str, usual: Rule) -> Rule:
        """Return the function that does a step of reading a config: `usual`, or the family's."""
        return self.oddities.get(name, usual)

    def parameters_label(self, layer_type: str) -> str:
        """Return the name of a layer type in nested rope parameters."""
        label: str = self.step("parameters_label", str)(layer_type)
        return label

    def for_version(self, compat: str) -> "Family":
        """Return the row as it is in a version of transformers."""
        if compat == "5.23" or not self.in_4_57:
            return self
        defaults = {**self.defaults, **self.in_4_57.get("defaults", {})}
        return replace(self, **{**self.in_4_57, "defaults": defaults})


UNKNOWN = Family(name="unknown", module="unknown")
"""Llama's rules, for a model_type that the table does not have."""
