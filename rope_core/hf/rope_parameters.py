"""The dictionary of rope parameters of a layer: the file's `rope_scaling` or `rope_parameters`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rope_core.errors import ConfigError, brief
from rope_core.frequencies import VARIANTS
from rope_core.hf.config_reader import DICTIONARIES, MAX_NAMED, ConfigReader, is_number
from rope_core.hf.layer_types import layer_types

OUTSIDE_IN_4_57 = ("rope_theta", "partial_rotary_factor")
"""Keys that transformers 4.57 reads outside of the dictionary only."""

COMMON_KEYS = frozenset(
    (
        *("rope_type", "type", "rope_theta", "partial_rotary_factor", "alpha"),
        *("mrope_section", "mrope_interleaved", "xdrope_section", "llama_4_scaling_beta"),
    )
)
"""Keys of the dictionary that are not parameters of a variant."""

PARAMETERS = COMMON_KEYS.union(*(variant.parameters for variant in VARIANTS.values()))
"""All keys of the dictionary. Other keys with an object are layer types."""

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RopeParameters:
    """The rope parameters of one layer."""

    name: str
    """The key of the dictionary, for errors."""
    values: Values
    from_file: frozenset[str]
    """The parameters that the file has; the others are the class's."""
    label: str | None
    """The layer type of a nested dictionary; None if all layers have one dictionary."""
    outer: Values
    """The dictionary around a nested one; otherwise the dictionary itself."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Paths in the file of parameters that it has elsewhere, or under other names."""

    @property
    def nested(self) -> bool:
        """Whether other layer types have dictionaries of their own."""
        return self.label is not None

    def path(self, parameter: str) -> str:
        """Return the path of a parameter in the file."""
        return self.keys.get(parameter, f"{self.name}.{parameter}")


def find(reader: ConfigReader) -> RopeParameters | None:
    """Return the rope parameters of the reader's layer, None if they are null.

    Raises:
        ConfigError: parameters are nested by layer type, and the layer's type is missing or
            unknown.
    """
    name, raw, in_file = _raw(reader)
    labels = _labels(reader)
    scaling = raw
    raw = _scaled_by_type(reader, raw) if name == "rope_scaling" else raw
    is_flat = not PARAMETERS.isdisjoint(raw)
    nested = [
        key
        for key, value in raw.items()
        if key in labels or (isinstance(value, Mapping) and not is_flat)
    ]
    if nested and reader.family.nested_complete and not raw.keys() >= set(labels):
        reader.ignore(f"{name}.{nested[0]}", f"the class reads {' and '.join(labels)} together")
        raw, nested = {key: value for key, value in raw.items() if key not in nested}, []
    if nested:
        block = _nested(reader, name, raw, nested)
        if block is not None and raw is not scaling:
            block = replace(block, keys=_paths_of_both(block, scaling))
    elif reader.family.rope_parameters_by_type:
        block = reader.family.step("typed_parameters", typed)(reader, name, raw if in_file else {})
    else:
        block = RopeParameters(name, raw, frozenset(raw if in_file else ()), None, raw)
    if block is not None:
        block = reader.family.step("rope_parameters", lambda _, block: block)(reader, block)
    return block


def _raw(reader: ConfigReader) -> tuple[str, Values, bool]:
    """Return the key of the dictionary, the dictionary, and whether the file has it."""
    for key in DICTIONARIES:
        value = reader.from_file(key)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(key, "an object or null", brief(value))
        if reader.is_4_57 and key == "rope_parameters":
            reader.ignore(key, "transformers 4.57 reads rope_scaling alone")
            continue
        if key == "rope_scaling" and not value:
            continue
        for outside in OUTSIDE_IN_4_57 if reader.is_4_57 else ():
            if outside in value:
                reader.ignore(
                    f"{key}.{outside}", f"transformers 4.57 reads {outside} outside of it"
                )
        return key, _read_by_version(reader, value), True
    return "rope_parameters", _read_by_version(reader, reader.family.rope_parameters), False


def _scaled_by_type(reader: ConfigReader, scaling: Values) -> Values:
    """Return nested `rope_parameters` with the values of a `rope_scaling` beside them.

    Without nested ones, return `scaling`.
    """
    rules, nested = reader.family.rope_parameters_by_type, reader.config.get("rope_parameters")
    labels = [label for label, rule in rules.items() if rule.get("scaling")]
    if not isinstance(nested, Mapping) or nested.keys().isdisjoint(labels):
        return scaling
    has_own_step = "typed_parameters" in reader.family.oddities
    if reader.is_4_57 or has_own_step or not scaling.keys().isdisjoint(rules):
        return scaling
    reader.from_file("rope_parameters")
    merged = {**nested}
    for label in labels:
        block = nested.get(label)
        if isinstance(block, Mapping):
            of_type = {k: v for k, v in scaling.items() if k != "type" or "rope_type" not in block}
            merged[label] = {**block, **of_type}
    return merged


def _paths_of_both(block: RopeParameters, scaling: Values) -> Mapping[str, str]:
    """Return the paths of parameters that `_scaled_by_type` has put together."""
    nested = f"rope_parameters.{block.label}"
    paths = {
        parameter: f"rope_scaling.{parameter}" if parameter in scaling else f"{nested}.{parameter}"
        for parameter in block.from_file
    }
    return {**paths, **block.keys}


def _read_by_version(reader: ConfigReader, values: Values) -> Values:
    """Return the values that this version of transformers reads in the dictionary."""
    if not reader.is_4_57:
        return values
    return {key: value for key, value in values.items() if key not in OUTSIDE_IN_4_57}


def _nested(
    reader: ConfigReader, name: str, raw: Values, nested: list[str]
) -> RopeParameters | None:
    """Return the dictionary of a layer type out of those that the file has."""
    by_type, fills = reader.family.rope_parameters_by_type, reader.family.nested_defaults
    label = choose(reader, [*nested, *(by_type if fills else ())], name)
    values = raw.get(label, {} if fills else None)
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name}.{label}", "an object or null", brief(values))
    rule, by_class = by_type.get(label, {}), reader.family.nested_theta
    defaults = rule.get("default") or {}
    kept = OUTSIDE_IN_4_57 if fills else ("rope_theta",)
    defaults = {key: defaults[key] for key in kept if key in defaults}
    if by_class is not None:
        defaults["rope_theta"] = reader.family.defaults["rope_theta"]
    if by_class == "outside" or (by_class is None and "keys" not in rule):
        theta = reader.from_file("rope_theta")
        if "rope_theta" not in values and is_number(theta):
            values = {**values, "rope_theta": theta}
    keys = () if by_class else ("rope_theta",)
    return complete(reader, name, label, values, defaults, raw, keys)


def typed(reader: ConfigReader, name: str, flat: Values) -> RopeParameters | None:
    """Return the class's parameters for a layer type, changed by the file's one dictionary."""
    rules = reader.family.rope_parameters_by_type
    label = choose(reader, rules, "rope parameters")
    if rules[label]["default"] is None:
        return None
    if flat and (name == "rope_parameters" or not any(r.get("scaling") for r in rules.values())):
        reader.ignore(name, f"{reader.family.name} has rope parameters by layer type")
        flat = {}
    unread: tuple[str, ...] = ()
    defaults, scaled = dict(rules[label]["default"]), flat if rules[label].get("scaling") else {}
    if scaled and reader.is_4_57:
        del defaults["rope_type"]
        unread = ("rope_theta",)
    elif "type" in scaled:
        unread = ("type",)
        if "rope_type" not in scaled:
            reader.ignore(f"{name}.type", f"the class of {reader.family.name} reads rope_type")
    values = {key: value for key, value in scaled.items() if key not in unread}
    return complete(reader, name, label, values, defaults, flat, OUTSIDE_IN_4_57)


def complete(
    reader: ConfigReader,
    name: str,
    label: str,
    values: Values,
    defaults: Values,
    outer: Values,
    outside: Iterable[str],
) -> RopeParameters:
    """Return a layer type's parameters: `values`, those `outside` of the dictionary, `defaults`."""
    filled = dict(values)
    inner = outer.get(label)
    paths = {
        parameter: f"{name}.{parameter}" if parameter in outer else reader.key_name(parameter)
        for parameter in values
        if not (isinstance(inner, Mapping) and parameter in inner)
    }
    keys = reader.family.rope_parameters_by_type.get(label, {}).get("keys", {})
    for parameter in outside:
        if parameter in keys and parameter not in values:
            value = reader.from_file(keys[parameter])
            if isinstance(value, list):
                value = values_of_type(reader, keys[parameter], value, label)[0]
            elif value is not None and not is_number(value):
                raise ConfigError(keys[parameter], "a number", brief(value))
            if value is not None:
                filled[parameter] = value
                paths[parameter] = reader.key_name(keys[parameter])
    everything = {**defaults, **filled}
    return RopeParameters(
        f"{name}.{label}", everything, frozenset(filled), label, outer or everything, paths
    )


def values_of_type(reader: ConfigReader, key: str, values: list[Any], label: str) -> list[Any]:
    """Return the values of the layers of one type out of a list with one for each layer."""
    pairs = zip(values, layer_types(reader) or [], strict=False)
    of_type = [value for value, layer_type in pairs if layer_type == label]
    if not of_type or not all(map(is_number, of_type)):
        expected = f"a list with a number for each layer of type {label}"
        raise ConfigError(reader.key_name(key), expected, brief(values))
    return of_type


def _labels(reader: ConfigReader) -> tuple[str, ...]:
    """Return the names under which rope parameters may be nested."""
    if reader.family.rope_parameters_by_type:
        return tuple(reader.family.rope_parameters_by_type)
    return tuple(dict.fromkeys(layer_types(reader) or ())) if "layer_types" in reader.config else ()


def choose(reader: ConfigReader, names: Iterable[str], where: str) -> str:
    """Return the one of `names` under which the layer's rope parameters are."""
    names, label_of = list(dict.fromkeys(names)), reader.family.parameters_label
    if reader.layer_type is not None:
        label = label_of(reader.layer_type)
        if label in names:
            return label
        raise ConfigError(
            "layer_type", f"one of {sorted(names)[:MAX_NAMED]}", brief(reader.layer_type)
        )
    used = {label_of(layer_type) for layer_type in layer_types(reader) or ()}
    candidates = [name for name in names if name in used] or names
    if len(candidates) == 1:
        return candidates[0]
    an_index = '(or layer an index, as in {"preset": ..., "layer": 0})'
    expected = f"one of {sorted(candidates)[:MAX_NAMED]} {an_index}, because {where} differ by it"
    raise ConfigError("layer_type", expected, "none")
