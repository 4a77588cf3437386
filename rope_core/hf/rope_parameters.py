"""Which block of rope parameters counts for a layer.

Precedence is that of transformers 5: the block, then the config's own keys, then the class.
transformers 4.57 reads rope_scaling alone, and the base and the share from the config's own keys.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rope_core.errors import ConfigError
from rope_core.frequencies import VARIANTS
from rope_core.hf.config_reader import Reader, brief, is_number
from rope_core.hf.layers import layer_types

OWN_KEYS = ("rope_theta", "partial_rotary_factor")
"""What 4.57 reads outside of the block."""

OTHER_KEYS = frozenset(
    (
        *("rope_type", "type", "rope_theta", "partial_rotary_factor", "alpha"),
        *("mrope_section", "mrope_interleaved", "xdrope_section", "llama_4_scaling_beta"),
    )
)
"""Keys of a block that are no parameters of a variant."""

PLAIN = OTHER_KEYS.union(*(variant.parameters for variant in VARIANTS.values()))
"""Keys of a block that are no layer types."""

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Block:
    """The rope parameters of one layer."""

    name: str
    """The key it is under, for errors."""
    values: Values
    given: frozenset[str]
    """Those that the file says; the class has the others."""
    nested: bool
    """Whether it is one of several, by layer type."""
    outer: Values
    """What it lies in, where it is nested; itself otherwise."""


def find(reader: Reader) -> Block | None:
    """Return the block for the layer asked for, None where that layer rotates nothing.

    Raises:
        ConfigError: blocks differ by layer type and none, or an unknown one, is asked for.
    """
    name, raw, in_file = _raw(reader)
    labels = _labels(reader)
    nested = [
        key
        for key, value in raw.items()
        if key in labels or (isinstance(value, Mapping) and key not in PLAIN)
    ]
    if nested:
        return _nested(reader, name, raw, nested)
    if not reader.family.types:
        return Block(name, _unscaled(reader, raw), frozenset(raw if in_file else ()), False, raw)
    return _typed(reader, name, raw if in_file else {})


def _raw(reader: Reader) -> tuple[str, Values, bool]:
    """Return the key of a block, the block, and whether it is the file's."""
    for key in ("rope_scaling", "rope_parameters"):
        value = reader.given(key)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(key, "an object or null", brief(value))
        if reader.legacy and key == "rope_parameters":
            reader.warn("rope_parameters is ignored: transformers 4.57 reads rope_scaling alone")
            continue
        if key == "rope_scaling" and not value:
            continue
        for own in OWN_KEYS if reader.legacy else ():
            if own in value:
                reader.warn(f"{key}.{own} is ignored: transformers 4.57 reads {own} outside of it")
        return key, _kept(reader, value), True
    return "rope_parameters", _kept(reader, reader.family.block), False


def _kept(reader: Reader, values: Values) -> Values:
    """Return what this version of transformers reads in a block."""
    if not reader.legacy:
        return values
    return {key: value for key, value in values.items() if key not in OWN_KEYS}


def _nested(reader: Reader, name: str, raw: Values, nested: list[str]) -> Block | None:
    """Return one of the blocks that the file has by layer type."""
    family = reader.family
    chosen = _choose(reader, [*nested, *(family.types if family.fills else ())], name)
    default = family.types.get(chosen, {}).get("default") or {}
    values = raw.get(chosen, {} if family.fills else None)
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name}.{chosen}", "an object or null", brief(values))
    filled, given = dict(values), set(values)
    if "rope_theta" not in values:
        base = _own_theta(reader, chosen)
        given |= set() if base is None else {"rope_theta"}
        base = default.get("rope_theta") if base is None else base
        filled |= {} if base is None else {"rope_theta": base}
    if family.fills and "partial_rotary_factor" in default:
        filled.setdefault("partial_rotary_factor", default["partial_rotary_factor"])
    return Block(f"{name}.{chosen}", filled, frozenset(given), True, raw)


def _typed(reader: Reader, name: str, raw: Values) -> Block | None:
    """Return the class's block for a layer type, with what the file's one block changes in it."""
    rules = reader.family.types
    chosen = _choose(reader, [*rules], "rope parameters")
    rule = rules[chosen]
    if rule["default"] is None:
        return None
    wins = rule.get("theta_wins", False)  # the type's own base, over that of the block
    any_scaled = any(each.get("scaling") for each in rules.values())
    if raw and (not any_scaled or (name == "rope_parameters" and not wins)):
        reader.warn(f"{name} is ignored: {reader.family.name} has rope parameters by layer type")
        raw = {}
    scaled = raw if rule.get("scaling") else {}
    values, given = dict(rule["default"]), set(scaled)
    if scaled and (wins or reader.legacy):
        del values["rope_type"]
        given -= {"rope_theta"}
    elif scaled and "type" in scaled:
        given -= {"type"}
        if "rope_type" not in scaled:
            reader.warn(f"{name}.type is ignored: {reader.family.name}'s class reads rope_type")
    values |= {key: scaled[key] for key in scaled if key in given}
    base = None if "rope_theta" in given else _own_theta(reader, chosen)
    if base is not None:
        values["rope_theta"] = base
        given.add("rope_theta")
    share = _of_type(reader, reader.family.shares, chosen) if reader.family.shares else None
    if share is not None and "partial_rotary_factor" not in given:
        values["partial_rotary_factor"] = share
        given.add("partial_rotary_factor")
    for key, forced in rule.get("force", {}).items():
        if values.get("rope_type", values.get("type")) not in (None, "default"):
            values.setdefault(key, forced)
    return Block(f"{name}.{chosen}", values, frozenset(given), True, raw or values)


def _unscaled(reader: Reader, raw: Values) -> Values:
    """Return what is left of a block in the layers that are not to be scaled."""
    key = reader.family.scaled_layers
    scaled = reader.given(key) if key else None
    if scaled is None:
        return raw
    if not isinstance(scaled, list) or not all(type(layer) is int for layer in scaled):
        raise ConfigError(key or "", "a list of whole numbers", brief(scaled))
    if reader.layer is None:
        reader.warn(f"{key}: this is for the layers listed, others have default frequencies")
    if reader.layer is None or reader.layer in scaled:
        return raw
    return {key: raw[key] for key in raw if key in OWN_KEYS}


def _own_theta(reader: Reader, chosen: str) -> Any:
    """Return the base that the config has for a layer type outside of the block."""
    key = reader.family.types.get(chosen, {}).get("theta")
    return None if key is None else _of_type(reader, key, chosen)


def _of_type(reader: Reader, key: str, chosen: str) -> Any:
    """Return the value of a key; of a list with one for each layer, that of the type's layer."""
    value = reader.given(key)
    if not isinstance(value, list):
        return value
    types = layer_types(reader) or []
    found = [one for one, kind in zip(value, types, strict=False) if kind == chosen]
    if not found or not all(is_number(one) for one in found):
        expected = f"a list with a number for each layer of type {chosen}"
        raise ConfigError(reader.name(key), expected, brief(value))
    return found[0 if reader.family.each == "first" else -1]


def _labels(reader: Reader) -> tuple[str, ...]:
    """Return the names under which rope parameters may be nested."""
    if reader.family.types:
        return tuple(reader.family.types)
    return tuple(dict.fromkeys(layer_types(reader) or ())) if "layer_types" in reader.config else ()


def _choose(reader: Reader, names: Iterable[str], where: str) -> str:
    """Return the one of `names` that the layer's rope parameters are under."""
    known = list(dict.fromkeys(names))
    labels, asked = reader.family.labels, reader.layer_type
    if asked is not None:
        label = labels.get(asked, labels.get("", asked))
        if label in known:
            return label
        raise ConfigError("layer_type", f"one of {sorted(known)}", brief(asked))
    used = {labels.get(kind, labels.get("", kind)) for kind in layer_types(reader) or ()}
    fits = [name for name in known if name in used] or known
    if len(fits) == 1:
        return fits[0]
    expected = f"one of {sorted(fits)} (or layer be an index), for {where} differ by it"
    raise ConfigError("layer_type", expected, "none")
