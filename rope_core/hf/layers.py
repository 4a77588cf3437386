"""The layers of a model, by type, and the type of the layer to resolve."""

from dataclasses import dataclass

from rope_core.errors import ConfigError, brief
from rope_core.hf import nope
from rope_core.hf.config_reader import ConfigReader
from rope_core.hf.family import FULL, SLIDING
from rope_core.hf.layer_types import layer_types


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of one type that all rotate, or that all do not."""

    layer_type: str | None
    layers: tuple[int, ...]
    """Their indices."""

    nope: str | None
    """Why the first of them does not rotate; None if they rotate."""


def all_layers(reader: ConfigReader) -> tuple[Layers, ...]:
    """Return every layer of the model, by type and by whether it rotates; () if unknown."""
    types = layer_types(reader)
    total = len(types) if types else reader.num_layers()
    groups: dict[tuple[str | None, bool], tuple[str | None, list[int]]] = {}
    for layer in range(total or 0):
        layer_type = types[layer] if types else None
        reason = nope.reason(reader, layer, layer_type)
        groups.setdefault((layer_type, reason is None), (reason, []))[1].append(layer)
    return tuple(Layers(key[0], tuple(layers), why) for key, (why, layers) in groups.items())


def resolve_layer_type(reader: ConfigReader, name: str | None) -> str | None:
    """Return the type of the reader's layer; without a layer, `name`, which can be None.

    Raises:
        ConfigError: the index is outside of the model, the layer is not of the type `name`, or
            the model has no such type.
    """
    layer = reader.layer
    if layer is None and name is None:
        return None
    types = layer_types(reader)
    if layer is None:
        if name not in (names := _all_types(reader, types)):
            raise ConfigError("layer_type", f"one of {sorted(names)}", brief(name))
        return name
    total = len(types) if types else reader.num_layers()
    if layer < 0 or (total is not None and layer >= total):
        expected = "0 or more" if total is None else f"in [0, {total - 1}]"
        raise ConfigError("layer", expected, layer)
    if types is None:
        return name
    if name is not None and name != types[layer]:
        raise ConfigError("layer_type", f"{types[layer]!r}, as layer {layer} is", brief(name))
    return types[layer]


def _all_types(reader: ConfigReader, types: list[str] | None) -> set[str]:
    """Return the layer types that this model, or its family, can have."""
    family = reader.family
    names = {*family.rope_parameters_by_type, *family.layer_cycle, *(types or ())}
    names |= {name for name in (family.first_layer, family.last_layer) if name}
    return names or {FULL, SLIDING}
