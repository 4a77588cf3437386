"""The keys of a config that bear on positions and that the result does not apply."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from rope_core.config import RopeConfig
from rope_core.errors import ConfigError, brief
from rope_core.frequencies import VARIANTS
from rope_core.hf.config_reader import GIVEN, ConfigReader
from rope_core.hf.families import families
from rope_core.hf.position_key_names import (
    DICTIONARIES,
    HEAD_WIDTHS,
    ORIGINAL,
    TRAINED_LENGTHS,
    bears_on_positions,
    snake_case,
)
from rope_core.hf.rope_parameters import COMMON_KEYS

LLAMA_KEYS = frozenset((*DICTIONARIES, "rope_theta", "partial_rotary_factor", "head_dim", ORIGINAL))
"""Position keys that are read of a config with an unknown model_type."""

PARAMETERS = COMMON_KEYS.union(*(variant.parameters for variant in VARIANTS.values()))
"""Keys of a dictionary of rope parameters."""

MAX_NAMED = 16
"""Largest number of keys that a warning or an error names."""

_ATTENTION = re.compile(r"(?:self_)?att(?:entio)?n_(?:config|cfg|args|params)")
"""Names of nested configs of attention."""

_BASE = re.compile(r"\w*(?:theta|base|base_freq(?:uency)?|freq_base|wavelength)")
_SHARE = re.compile(r"\w*(?:pct|percent|percentage|fraction|rotary_factor|rotary_ratio)")
_ROTATED_WIDTH = re.compile(r"\w*(?:rotary|rope)_(?:emb_|embedding_|head_)?dim")
_INTERLEAVED = re.compile(r"(?:rope|rotary)_(?:\w+_)?interleaved?")
_RATIO = re.compile(r"\w*(?:factor|ratio|pct|percent|percentage|fraction|scale|scaling|alpha)")
"""Names of what multiplies or divides: 1 changes nothing."""

_VARIANT = re.compile(r"(?:rope|rotary)_(?:scaling_)?type")
_ENCODING = re.compile(r"(?:pos|position|positional)_\w*type")

_ROTATES = re.compile(
    r"(?:(?:use|apply|enable|with|add)_)?(?:rope|rotary)(?:_(?:pos|position))?"
    r"(?:_(?:emb|embed|embedding|embeddings))?"
)
"""Names of switches that turn rotation on."""

_ROTATION = frozenset(("rope", "rotary", "rotary_embedding", "rotary_position_embedding"))
"""Names of rotation as a type of position encoding."""


Found = tuple[str, Any]
"""The path of a key, and its value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What the layers of a model apply, those that rotate and those that do not."""

    ropes: tuple[RopeConfig, ...] = ()
    parameters: tuple[Mapping[str, Any], ...] = ()
    """Their rope parameters, in transformers 5's spelling; () before layers are read."""

    head_widths: frozenset[float] = frozenset()
    """Widths of a head: of MLA the part that rotates, and the whole."""

    keys_read: frozenset[str] = LLAMA_KEYS
    keys_without_effect: frozenset[str] = frozenset()
    """Keys that were read and that no layer follows."""

    reasons: tuple[str, ...] = ()
    """Why layers do not rotate."""

    is_known: bool = False
    """Whether the family is known: a name has its usual meaning only then."""

    @property
    def interleaved(self) -> bool:
        """Whether neighbours are a pair."""
        return any(rope.layout.startswith("interleaved") for rope in self.ropes)

    @property
    def rotates(self) -> bool:
        """Whether there are layers that rotate, as in a Llama."""
        return bool(self.ropes) or not self.is_known


def not_applied(config: Mapping[str, Any], prefix: str, applied: Applied) -> dict[str, Any]:
    """Return the paths and values of the position keys that have a value and are not applied.

    Args:
        config: the contents of the file.
        prefix: the path to the config that was read, with a dot at its end; "" for the whole.
        applied: what the layers of the model apply.
    """
    levels = [config]
    for part in prefix.split(".")[:-1]:
        levels.append(levels[-1][part])
    found = [(prefix + key, value) for key, value in _of_config(levels[-1], applied)]
    unread = replace(applied, keys_read=frozenset()) if applied.parameters else applied
    for depth, around in enumerate(levels[:-1]):
        path = "".join(f"{part}." for part in prefix.split(".")[:depth])
        inside = set(chain(*levels[depth + 1 :]))
        lacking = {key: value for key, value in around.items() if key not in inside}
        if str(around.get("model_type")) not in families():  # whose keys are of its own part
            found += [(path + key, value) for key, value in _of_config(lacking, unread)]
    return dict(sorted(found))


def refuse(model_type: str | None, keys: Mapping[str, Any]) -> None:
    """Raise ConfigError if a config of an unknown family has such keys."""
    if not keys:
        return
    (first, value), *others = keys.items()
    cause = "without a model_type"
    if model_type is not None:
        cause = f"of the unknown model_type {brief(model_type)}"
    also = f", as do {_names([key for key, _ in others])}" if others else ""
    expected = (
        f"absent from a config {cause}, because it bears on positions{also}"
        ' (name a known model_type; or send "assume": "llama" to read the config as a Llama'
        " without this key)"
    )
    raise ConfigError(first[:64], expected, brief(value))


def warn(reader: ConfigReader, prefix: str, keys: Iterable[str]) -> None:
    """Warn of such keys, unless a warning names them already."""
    told = {prefix + key for key in reader.keys_without_effect}
    if untold := [key for key in keys if key not in told]:
        reader.warn(f"keys that bear on positions are not applied: {_names(untold)}")


def record_provenance(reader: ConfigReader) -> None:
    """Record that the position keys that were read are given."""
    names = {name: key for key, name in reader.family.key_names.items()}
    for name in sorted(reader.keys_read - reader.keys_without_effect - set(DICTIONARIES)):
        if bears_on_positions(name) and reader.config.get(name) is not None:
            reader.provenance.setdefault(names.get(name, name), GIVEN)


def _names(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return ", ".join(key[:64] for key in keys[:MAX_NAMED]) + more


def _of_config(config: Mapping[str, Any], applied: Applied) -> Iterator[Found]:
    for key, value in config.items():
        name = str(key)
        is_read = key in applied.keys_read and key not in applied.keys_without_effect
        if key in DICTIONARIES and isinstance(value, Mapping):
            within = [*_of_dictionary(name, value, applied)] if applied.parameters else []
            yield from _without_type(within) if is_read else within and [(name, value)]
        elif isinstance(value, Mapping) and _ATTENTION.fullmatch(name):
            nested = {f"{name}.{inner}" for inner in value}
            if key not in applied.keys_read or nested & applied.keys_read:
                yield from _of_nested(name, value, applied)
        elif isinstance(value, Mapping) and key == "per_layer_config":
            for layer, of_layer in value.items() if key not in applied.keys_read else ():
                if isinstance(of_layer, Mapping):
                    yield from _of_nested(f"{name}.{layer}", of_layer, applied)
        elif not is_read and bears_on_positions(name):
            is_parameter = applied.is_known and _is_parameter(name, value, applied)
            if not is_parameter and not _is_inert(name, value, applied):
                yield name, value


def _of_nested(name: str, values: Mapping[str, Any], applied: Applied) -> Iterator[Found]:
    for key, value in values.items():
        path = f"{name}.{key}"
        is_read = path in applied.keys_read
        if not is_read and bears_on_positions(str(key)) and not _is_inert(str(key), value, applied):
            yield path, value


def _of_dictionary(path: str, values: Mapping[str, Any], applied: Applied) -> Iterator[Found]:
    """Return the paths of the values in a dictionary of rope parameters that no layer has."""
    for key, value in values.items():
        inner, name = f"{path}.{key}", str(key)
        if isinstance(value, Mapping):
            yield from _of_dictionary(inner, value, applied)
        elif name in PARAMETERS or bears_on_positions(name):
            followed = inner not in applied.keys_without_effect
            followed = followed and _is_parameter(name, value, applied)
            if not followed and not _is_inert(name, value, applied):
                yield inner, value


def _without_type(found: list[Found]) -> list[Found]:
    """Return all but the name of the variant, which is read with its dictionary."""
    return [item for item in found if item[0].rpartition(".")[2] not in ("type", "rope_type")]


def _is_parameter(key: str, value: Any, applied: Applied) -> bool:
    """Return whether a layer has this rope parameter."""
    if key == "max_position_embeddings":
        lengths = [dict(rope.parameters).get(key, value) for rope in applied.ropes]
        return value in lengths
    name = {"type": "rope_type", "xdrope_section": "mrope_section"}.get(key, key)
    value = [*value] if isinstance(value, tuple) else value
    return any(name in of_layer and of_layer[name] == value for of_layer in applied.parameters)


def _is_inert(name: str, value: Any, applied: Applied) -> bool:
    """Return whether a value changes nothing: it is the usual one, or the applied one."""
    name = snake_case(name)
    if value is None or value in ("", [], {}):
        return True
    if isinstance(value, bool):
        return _is_inert_switch(name, value, applied)
    if isinstance(value, str):
        return _is_inert_type(name, value.lower(), applied)
    if name == "no_rope_layer_interval" and "no_rope_layers" in applied.keys_read:
        return True
    if isinstance(value, list):
        if name == "no_rope_layers":
            return all(value)
        return applied.is_known and all(_is_applied(name, item, applied) for item in value)
    if name in TRAINED_LENGTHS:
        takes_it = [
            rope for rope in applied.ropes if ORIGINAL in VARIANTS[rope.rope_type].parameters
        ]
        lengths = [dict(rope.parameters).get(ORIGINAL) for rope in takes_it]
        has_its_meaning = applied.is_known or name in LLAMA_KEYS
        return has_its_meaning and (not lengths or value in lengths)
    if (value == 1 and _RATIO.fullmatch(name)) or (value in (0, 1) and name == "mscale"):
        return True
    return (applied.is_known or name in LLAMA_KEYS) and _is_applied(name, value, applied)


def _is_inert_switch(name: str, value: bool, applied: Applied) -> bool:
    if _ROTATES.fullmatch(name):
        return value is applied.rotates
    if name == "mrope_interleaved":
        return value is any(rope.axes == name for rope in applied.ropes)
    if _INTERLEAVED.fullmatch(name):
        return value is applied.interleaved
    return not value


def _is_inert_type(name: str, value: str, applied: Applied) -> bool:
    if _VARIANT.fullmatch(name):
        return value in ("none", "default", *(rope.rope_type for rope in applied.ropes))
    if not _ENCODING.fullmatch(name):
        return False
    if value == "rope_gptj":
        return applied.interleaved
    if value in _ROTATION:
        return applied.rotates
    words = set(re.findall(r"[a-z]+", " ".join(applied.reasons).lower()))
    return not applied.ropes and bool(words.intersection(re.split(r"[^a-z]+", value)))


def _is_applied(name: str, value: Any, applied: Applied) -> bool:
    """Return whether a layer has this value under another name."""
    ropes = applied.ropes
    if name in HEAD_WIDTHS:
        return not ropes or any(value == width for width in applied.head_widths)
    if _BASE.fullmatch(name):
        return any(value == rope.theta for rope in ropes)
    if _SHARE.fullmatch(name) and isinstance(value, int | float) and 0 <= value <= 4:
        widths = {int(width * value) for width in applied.head_widths}
        return any(rope.rotary_dim - width in (0, 1) for rope in ropes for width in widths)
    if _ROTATED_WIDTH.fullmatch(name):
        return any(value == rope.rotary_dim for rope in ropes)
    return False
