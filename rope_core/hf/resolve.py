"""From a model's config.json to the rotation, and the attention, of one of its layers.

Where each value comes from: the first of the sources that has it. The code below and
`rope_config.standard` follow this list in its order. Each step names the file that does it.

1. Family: argument `model_type`; `model_type` or diffusers' `_class_name` of the file; the form of
   the file, such as Mistral's params.json (config_forms.py); of a composite model, the nested
   config of the `part` (find_family.py, in the three tables of families.py). All keys below are
   those of the nested config, under the family's own names (`key_names` of its row). A file that is
   no config of a model, such as generation_config.json, is refused (other_files.py).
2. Type of the layer: `layer_types[layer]`; the class's types; argument `layer_type`
   (layer_types.py). `per_layer_config[layer]` replaces single keys below.
3. Whether the layer rotates: not if the model has no rotary embedding (no_rope.json), if the
   layer's type has no attention, or null as rope parameters; the family's rule (nope.py).
4. Rope parameters: `rope_scaling`, unless null or empty; `rope_parameters`; the class's. Of nested
   ones, those of the layer's type (rope_parameters.py).
5. Variant: `rope_type` in the rope parameters; `type` in them; "default" (variant.py, as 7 to 10).
6. Width of a head: `head_dim`; the class's; hidden_size / num_attention_heads. Of MLA families,
   `qk_rope_head_dim` (head_dim.py).
7. Base: `layer_rope_theta[layer]`; `rope_theta` in the rope parameters; of families with rope
   parameters by layer type, the key of the type outside and the default of the type; `rope_theta`
   outside; the class's; 10,000.
8. Rotated share: `partial_rotary_factor` in the rope parameters; outside; an absolute width, such
   as `rotary_dim`; the class's; the whole head.
9. Parameters of the variant: those in the rope parameters; the variant's defaults.
10. Trained length: `original_max_position_embeddings` outside; in the rope parameters;
    `max_position_embeddings`.
11. Several axes: `mrope_section` in the rope parameters; outside; the class's (rope_config.py).
12. Attention: the layer's type, the config's keys, the class's (attention.py).

At the end, the keys that bear on positions and that no layer follows are listed, with a warning; a
config of an unknown model_type that has one is refused (position_keys.py, which asks
position_key_names.py whether a key bears on positions, and position_key_values.py whether its value
changes nothing).

transformers 4.57 (`compat`) reads `rope_scaling` and not `rope_parameters` (4), base and share
outside of it only (7, 8), and the trained length of LongRoPE outside only, that of other variants
inside only (10). Families that do a step in their own way have a function in oddities.py, and those
with other keys and no rope parameters, for steps 4 to 11, one in custom_rotations.py. The same for
code that is not in transformers is in remote_code.py and remote_rotations.py.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args

from torch import Tensor

from rope_core.checks import check_choice
from rope_core.config import Arithmetic, AttentionConfig, RopeConfig
from rope_core.errors import ConfigError, brief
from rope_core.hf import find_family, other_files, position_keys, rope_config, rope_parameters
from rope_core.hf.attention import attention
from rope_core.hf.config_reader import GIVEN, ConfigReader, is_int
from rope_core.hf.family import UNKNOWN, Family
from rope_core.hf.layer_types import Layers, all_layers, layer_values, resolve_layer_type
from rope_core.hf.lengths import Lengths, lengths
from rope_core.hf.nope import has_attention, nope_reason
from rope_core.hf.position_key_values import Applied

COMPATS = ("5.23", "4.57")
"""Versions of transformers to follow."""

ASSUMED = ("llama",)
"""Families whose rules a config of an unknown model_type can be read by."""

MAX_GROUPS = 16
"""Largest number of groups of layers that are read for the keys that they apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a config says of one layer."""

    rope: RopeConfig | None
    """None for a layer that does not rotate."""

    nope: str | None
    """Why it does not."""

    model_type: str
    layer_type: str | None
    parameters: Mapping[str, Any]
    """All rope parameters in transformers 5's spelling."""

    provenance: Mapping[str, str]
    """Where each value comes from: `given`, `class default` or `derived`."""

    attention: AttentionConfig

    attends: bool
    """Whether the layer has an attention with softmax. One with a recurrence or a convolution has
    none."""

    layers: tuple[Layers, ...]
    """All layers of the model, by type and by whether they rotate; () if unknown."""

    differ: bool
    """Whether layers differ and the request names none. The rotation and the attention are then
    those of the layers that rotate and see all keys."""

    keys_read: tuple[str, ...]
    keys_ignored: tuple[str, ...]

    position_keys_not_applied: tuple[str, ...]
    """Keys with a value that says how queries and keys get their positions, and that neither the
    rotation nor the attention of any layer follows."""

    warnings: tuple[str, ...]

    lengths: Lengths
    """How many positions the model was trained on, and how many it is allowed."""

    why: Mapping[str, str]
    """For each name of `provenance` the key of the config, or the formula."""

    def require_rope(self) -> RopeConfig:
        """Return `rope`.

        Raises:
            ConfigError: the layer does not rotate.
        """
        if self.rope is None:
            got = f"one that does not: {self.nope} (model_type {self.model_type})"
            raise ConfigError("rope", "that of a layer that rotates", got)
        return self.rope

    def require_attention(self) -> AttentionConfig:
        """Return `attention`.

        Raises:
            ConfigError: the layer has no attention.
        """
        if not self.attends:
            why = self.nope or f"{self.layer_type} has no softmax"
            got = f"one that has none: {why} (model_type {self.model_type})"
            raise ConfigError("rope", "that of a layer with attention", got)
        return self.attention

    @property
    def inv_freq(self) -> Tensor | None:
        """As `RopeConfig.inv_freq`; None for a layer that does not rotate."""
        return None if self.rope is None else self.rope.inv_freq

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the sentences, a picture and a table."""
        from rope_core.notebook import resolved_html  # which imports this module

        return resolved_html(self)


@dataclass(frozen=True, slots=True)
class LayerKind:
    """Layers that rotate alike."""

    layers: tuple[int, ...]
    """Their indices; () if the number of layers is unknown."""

    resolved: Resolved
    """What the config says of the first of them."""


def resolve(
    config: Mapping[str, Any],
    *,
    model_type: str | None = None,
    part: str | None = None,
    layer: int | None = None,
    layer_type: str | None = None,
    compat: str = "5.23",
    arithmetic: Arithmetic = "hf",
    head_dim: int | None = None,
    num_axes: int | None = None,
    assume: str | None = None,
) -> Resolved:
    """Read a config.json as transformers does.

    Args:
        config: its contents, in the spelling of transformers 4 or 5, or of diffusers.
        model_type: the family, instead of the file's.
        part: "text", "vision" or "audio" of a composite model, or "indexer", which chooses keys
            in sparse attention (DeepSeek-V3.2); text by default.
        layer: index of the layer, if layers differ.
        layer_type: its type, such as "sliding_attention".
        compat: the version of transformers to follow, "5.23" or "4.57".
        arithmetic: "hf", transformers' own operations, or "float64", the exact ones.
        head_dim: width of the tensors to rotate, if the config's differs: MLA heads with the part
            that does not rotate, or hidden states that rotate as a whole.
        num_axes: number of coordinates in a position, which distinguishes text and vision.
        assume: "llama", to read a config of an unknown model_type as a Llama's although it has
            keys that bear on positions and that Llama's rules do not apply.

    Raises:
        ConfigError: a key is missing, unknown or contradicts another, or bears on positions and
            the model_type is unknown; the error names the key.
    """
    if not isinstance(config, Mapping):
        raise ConfigError("config", "an object", type(config).__name__)
    check_choice("compat", compat, COMPATS)
    check_choice("arithmetic", arithmetic, get_args(Arithmetic))
    if assume is not None:
        check_choice("assume", assume, ASSUMED)
    for name, text in (("model_type", model_type), ("layer_type", layer_type)):
        if text is not None and not isinstance(text, str):
            raise ConfigError(name, "a text", brief(text))
    for name, number in (("layer", layer), ("head_dim", head_dim), ("num_axes", num_axes)):
        if number is not None and not is_int(number):
            raise ConfigError(name, "a whole number", brief(number))

    # 1: the family, and the config of the part
    other_files.refuse(config)
    family, inner, prefix, named = find_family.find(config, model_type, part, num_axes)
    reader = ConfigReader(inner, family, compat, layer)
    reader.from_file("model_type")
    whole = config if inner or prefix else inner
    if config and not inner:
        reader.warn(f"the file has no config of its {family.part} part: class defaults")
    if family is UNKNOWN:
        if assume is None:
            find_family.refuse(named, part)
        other_files.refuse_names(inner, named)
        reader.warn(f"model_type {brief(named)} is unknown: read as a Llama, without defaults")
        if assume is None:  # before an error of another key, which may follow from such a key
            unapplied = position_keys.not_applied(whole, prefix, Applied(), part or family.part)
            position_keys.refuse(named, unapplied)
    elif assume is not None:
        reader.warn(f"assume is ignored: the model_type {family.name} is known")
    if compat == "4.57" and family.new_in_5:
        reader.warn(f"{family.name}: transformers 4.57 has no such class, it is read as by 5.23")

    # 2: the layer
    named_type = reader.layer_type = resolve_layer_type(reader, layer_type)
    if layer is None and named_type is None:
        reader.layer_type = _common_type(reader)
    this = _read_layer(reader, head_dim, arithmetic)
    layers = all_layers(reader)
    differ = layer is None and named_type is None and len(_meant(reader, layers)) > 1
    if differ:
        reader.warn("layers differ, in the keys they see or in whether they rotate: name one")

    # keys that bear on positions, and that no layer applies; rope parameters are compared only now
    layers_read = [this, *_read_other_layers(reader, layers, head_dim, arithmetic)]
    applied = _applied(layers_read, family)
    unapplied = position_keys.not_applied(whole, prefix, applied, part or family.part)
    if family is UNKNOWN and assume is None:
        position_keys.refuse(named, unapplied)
    position_keys.warn(reader, prefix, unapplied)
    position_keys.record_provenance(reader)
    return Resolved(
        rope=this.rope,
        nope=this.nope,
        model_type=family.name,
        layer_type=named_type,
        parameters=MappingProxyType(this.parameters),
        attention=this.attention,
        attends=has_attention(reader, reader.layer_type),
        provenance=MappingProxyType(reader.provenance),
        why=MappingProxyType(_paths(reader, prefix)),
        lengths=lengths(reader, this.rope),
        layers=layers,
        differ=differ,
        keys_read=tuple(sorted(prefix + key for key in reader.keys_read)),
        keys_ignored=tuple(prefix + key for key in reader.keys_ignored),
        position_keys_not_applied=tuple(unapplied),
        warnings=tuple(reader.warnings),
    )


def _paths(reader: ConfigReader, prefix: str) -> dict[str, str]:
    """Return the keys and formulas of the provenance; keys have the path of the part's config."""
    return {
        name: prefix + why if reader.provenance[name] == GIVEN else why
        for name, why in reader.why.items()
    }


def _common_type(reader: ConfigReader) -> str | None:
    """Return the type of all layers, None if they have several, or no attention."""
    other = ConfigReader(reader.config, reader.family, reader.compat)
    groups = _meant(other, all_layers(other))
    name = groups[0].layer_type if len(groups) == 1 else None
    return name if has_attention(reader, name) else None


def _meant(reader: ConfigReader, layers: tuple[Layers, ...]) -> tuple[Layers, ...]:
    """Return the groups of layers that may be meant where no layer is named.

    Of models without rotary embedding these are the layers with attention: no other needs a name.
    """
    if reader.family.no_rope is None:
        return layers
    return tuple(group for group in layers if has_attention(reader, group.layer_type)) or layers


@dataclass(frozen=True, slots=True)
class _Layer:
    """What a config says of a layer, and the reader that knows which keys that took."""

    reader: ConfigReader
    nope: str | None
    rope: RopeConfig | None
    parameters: dict[str, Any]
    attention: AttentionConfig


def _read_layer(reader: ConfigReader, head_dim: int | None, arithmetic: Arithmetic) -> _Layer:
    """Do steps 3 to 12 for the reader's layer."""
    # 3: whether the layer rotates
    reader.layer_values = layer_values(reader)
    reason = nope_reason(reader, reader.layer, reader.layer_type)

    # 4 to 11: the rotation
    rope, parameters = None, dict[str, Any]()
    if reason is None and reader.family.rotation:
        rope, parameters = rope_config.custom(reader, head_dim, arithmetic)
    elif reason is None:
        block = rope_parameters.find(reader)
        if block is None:
            reason = f"rope parameters of {reader.layer_type} are null"
        else:
            rope, parameters = rope_config.standard(reader, block, head_dim, arithmetic)

    # 12: the attention
    return _Layer(reader, reason, rope, parameters, attention(reader, parameters, rope))


def _read_other_layers(
    reader: ConfigReader, layers: tuple[Layers, ...], head_dim: int | None, arithmetic: Arithmetic
) -> Iterator[_Layer]:
    """Read one layer of each group other than the reader's; skip a layer that cannot be read.

    A type that the class has and no layer of this model has is a group also: keys for such a type
    are no mistake.
    """
    groups: list[tuple[int | None, str | None]] = [
        (group.layers[0], group.layer_type)
        for group in layers[:MAX_GROUPS]
        if reader.layer not in group.layers
    ]
    by_type, label_of = reader.family.rope_parameters_by_type, reader.family.parameters_label
    used = {label_of(group.layer_type) for group in layers if group.layer_type is not None}
    groups += [(None, label) for label in by_type if label not in used]
    for layer, layer_type in groups:
        other = ConfigReader(reader.config, reader.family, reader.compat, layer)
        other.layer_type = layer_type
        with suppress(ConfigError):
            yield _read_layer(other, head_dim, arithmetic)


def _applied(layers: list[_Layer], family: Family) -> Applied:
    """Return what the layers of a model apply."""
    rotating = [(layer.reader, layer.rope) for layer in layers if layer.rope is not None]
    without_effect = [reader.keys_without_effect for reader, _ in rotating]
    widths = {rope.head_dim for _, rope in rotating}
    for reader, rope in rotating:
        rest = reader.config.get("qk_nope_head_dim", family.defaults.get("qk_nope_head_dim"))
        widths |= {rope.head_dim + rest} if is_int(rest) else set()
    return Applied(
        ropes=tuple(rope for _, rope in rotating),
        parameters=tuple(layer.parameters for layer in layers),
        head_widths=frozenset(widths),
        keys_read=frozenset().union(*(layer.reader.keys_read for layer in layers)),
        keys_without_effect=frozenset(set.intersection(*without_effect) if rotating else ()),
        reasons=tuple(layer.nope for layer in layers if layer.nope is not None),
        is_known=family is not UNKNOWN,
    )
