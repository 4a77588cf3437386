"""From a model's own config.json to the rotation, and the attention, of one of its layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args

from rope_core.config import Arithmetic, AttentionConfig, RopeConfig
from rope_core.errors import ConfigError
from rope_core.hf import family_lookup, layers, rope_parameters
from rope_core.hf.attention import attention
from rope_core.hf.config_reader import Reader, brief
from rope_core.hf.families import UNKNOWN
from rope_core.hf.layers import Layers
from rope_core.hf.rope_config import special, standard

COMPATS = ("5.23", "4.57")
"""Versions of transformers that can be followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What a config says of one layer."""

    rope: RopeConfig | None
    """None for a layer that rotates nothing."""

    nope: str | None
    """Why it does not."""

    model_type: str
    layer_type: str | None
    parameters: Mapping[str, Any]
    """Rope parameters in transformers 5's spelling, complete."""

    provenance: Mapping[str, str]
    """Where each value came from: `given`, `class default` or `derived`."""

    attention: AttentionConfig

    layers: tuple[Layers, ...]
    """All layers of the model, by type and by whether they rotate; () where nothing tells."""

    differ: bool
    """Whether layers differ, and none was asked for: rotation and attention are of those that
    rotate and see all."""

    keys_read: tuple[str, ...]
    keys_ignored: tuple[str, ...]
    warnings: tuple[str, ...]


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
) -> Resolved:
    """Read a config.json as transformers does.

    Args:
        config: its contents, in the spelling of transformers 4 or 5, or of diffusers.
        model_type: the family, where the file does not say it.
        part: "text", "vision" or "audio" of a composite model; text where nothing tells.
        layer: index of the layer, where layers differ.
        layer_type: its type, such as "sliding_attention".
        compat: the version to follow where they differ, "5.23" or "4.57".
        arithmetic: "hf", transformers' own operations, or "float64", the truth.
        head_dim: width of the tensors to rotate, where it is not the config's: MLA heads with
            their unrotated part, hidden states that are rotated as a whole.
        num_axes: numbers that make up a position, which tell text from vision where nothing does.

    Raises:
        ConfigError: something is missing, unknown or contradictory; it names the key.
    """
    if not isinstance(config, Mapping):
        raise ConfigError("config", "an object", type(config).__name__)
    _check("compat", compat, COMPATS)
    _check("arithmetic", arithmetic, get_args(Arithmetic))
    for name, value, kind in (
        *(("model_type", model_type, str), ("layer_type", layer_type, str)),
        *(("layer", layer, int), ("head_dim", head_dim, int), ("num_axes", num_axes, int)),
    ):
        if value is not None and type(value) is not kind:
            raise ConfigError(name, "a text" if kind is str else "a whole number", brief(value))
    family, inner, prefix, named = family_lookup.find(config, model_type, part, num_axes)
    reader = Reader(inner, family, compat, layer)
    reader.given("model_type")
    if family is UNKNOWN:
        reader.warn(f"model_type {brief(named)} is unknown: read as a Llama, without defaults")
    if compat == "4.57" and family.new:
        reader.warn(f"{family.name}: transformers 4.57 has no such class, it is read as by 5.23")
    reader.layer_type = layers.layer_type(reader, layer_type)
    nope = layers.nope(reader, layer, reader.layer_type)
    rope, parameters = None, dict[str, Any]()
    if nope is None and family.special:
        rope, parameters = special(reader, head_dim, arithmetic)
    elif nope is None:
        block = rope_parameters.find(reader)
        if block is None:
            nope = f"rope parameters of {reader.layer_type} are null"
        else:
            rope, parameters = standard(reader, block, head_dim, arithmetic)
    every = layers.all_layers(reader)
    differ = layer is None and reader.layer_type is None and len(every) > 1
    if differ:
        reader.warn(
            "layers differ, in what they see or in whether they rotate: ask for one of them"
        )
    seen = attention(reader, parameters, rope)
    return Resolved(
        rope=rope,
        nope=nope,
        model_type=family.name,
        layer_type=reader.layer_type,
        parameters=MappingProxyType(parameters),
        provenance=MappingProxyType(reader.provenance),
        attention=seen,
        layers=every,
        differ=differ,
        keys_read=tuple(sorted(prefix + key for key in reader.keys)),
        keys_ignored=tuple(prefix + key for key in reader.ignored),
        warnings=tuple(reader.warnings),
    )


def _check(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(name, " or ".join(f'"{choice}"' for choice in choices), brief(value))
