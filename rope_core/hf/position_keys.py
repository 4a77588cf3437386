"""The keys of a config that bear on positions and that the result does not apply."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from operator import itemgetter
from typing import Any

from rope_core.config import DEFAULT_THETA, RopeConfig
from rope_core.errors import ConfigError, brief
from rope_core.hf.config_forms import find_form
from rope_core.hf.config_reader import (
    DICTIONARIES,
    GIVEN,
    MAX_NAMED,
    PER_LAYER,
    ConfigReader,
    is_int,
)
from rope_core.hf.families import families
from rope_core.hf.position_key_names import bears_on_positions, is_relative_size, snake_case
from rope_core.hf.position_key_values import Applied, is_inert, is_parameter
from rope_core.hf.rope_parameters import PARAMETERS

_ATTENTION = re.compile(r"(?:self_)?att(?:entio)?n(?:_(?:config|cfg|args|params))?")
"""Names of nested configs of attention."""

_NOT_OF_TEXT = re.compile(
    r"(?<![a-z])(?:vision|visual|vit|image|img|video|audio|speech|sound|talker|token2wav|codec|vae"
    r"|projector|quant[a-z]*|compression|generation|lora|peft|adapters?|training|optimizer"
    r"|scheduler|auto_map|task_specific|id2label|label2id|tokenizer|processor|draft|eagle|mtp"
    r"|speculat[a-z]*)(?![a-z])"
)
"""Words of nested objects that say nothing of the layers of a text model."""

MAX_DEPTH, MAX_OBJECTS = 6, 1000
"""Limits of what is looked into: levels of objects, and objects of a config."""

Found = tuple[str, Any]
"""The path of a key, and its value."""


def not_applied(
    config: Mapping[str, Any], prefix: str, applied: Applied, part: str = "text"
) -> dict[str, Any]:
    """Return the paths and values of the position keys that have a value and are not applied.

    Args:
        config: the contents of the file.
        prefix: the path to the config that was read, with a dot at its end; "" for the whole.
        applied: what the layers of the model apply.
        part: the part that was read. Keys around its config are of the text.
    """
    levels: list[Mapping[str, Any]] = [config]
    for name in prefix.split(".")[:-1]:
        levels.append(levels[-1][name])
    applied = replace(applied, num_layers=levels[-1].get("num_hidden_layers"))
    if not applied.is_known and not applied.ropes:
        applied = _expected(levels[-1], applied)
    found = [(prefix + key, value) for key, value in _of_config(levels[-1], applied)]
    if not applied.is_known:
        objects = islice(_objects(prefix, levels[-1], 0), MAX_OBJECTS)
        found += [item for path, inner in objects for item in _of_nested(path, inner, applied)]
    unread = replace(applied, keys_read=frozenset()) if applied.parameters else applied
    if part in ("vision", "audio"):
        levels = levels[-1:]
    for depth, around in enumerate(levels[:-1]):
        path = "".join(f"{name}." for name in prefix.split(".")[:depth])
        inside = set(chain(*levels[depth + 1 :]))
        lacking = {key: value for key, value in around.items() if key not in inside}
        model_type = around.get("model_type")
        is_known = str(model_type) in families() or find_form(around, model_type) is not None
        if not is_known:  # the keys of a known one are of its own part
            found += [(path + key, value) for key, value in _of_config(lacking, unread)]
    return dict(sorted(found, key=itemgetter(0)))


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
    named = {prefix + key for key in reader.keys_without_effect}
    if others := [key for key in keys if key not in named]:
        reader.warn(f"keys that bear on positions are not applied: {_names(others)}")


def record_provenance(reader: ConfigReader) -> None:
    """Record that the position keys that were read are given."""
    names = {name: key for key, name in reader.family.key_names.items()}
    for name in sorted(reader.keys_read - reader.keys_without_effect - set(DICTIONARIES)):
        is_given = bears_on_positions(name) and reader.config.get(name) is not None
        if is_given and (known := names.get(name, name)) not in reader.provenance:
            reader.record(known, GIVEN, name)


def _names(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
    return ", ".join(key[:64] for key in keys[:MAX_NAMED]) + more


def _expected(config: Mapping[str, Any], applied: Applied) -> Applied:
    """Return `applied` with the rotation of a Llama, if the config has what this needs."""
    head_dim: Any = config.get("head_dim")
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    if head_dim is None and is_int(hidden) and is_int(heads) and hidden and heads:
        head_dim = hidden // heads
    theta = config.get("rope_theta")
    with suppress(ConfigError):
        rope = RopeConfig.of(head_dim, theta=DEFAULT_THETA if theta is None else theta)
        return replace(applied, ropes=(rope,), head_widths=frozenset((head_dim,)))
    return applied


def _objects(
    path: str, config: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the objects in the config of an unknown family, and in each other, by their paths."""
    for key, value in config.items():
        name = str(key)
        is_own = depth == 0 and (key in (*DICTIONARIES, PER_LAYER) or _ATTENTION.fullmatch(name))
        if is_own or bears_on_positions(name) or _NOT_OF_TEXT.search(snake_case(name)):
            continue
        items = enumerate(value) if isinstance(value, list) else ()
        named = [(name, value), *((f"{name}.{i}", item) for i, item in items)]
        for inner, found in named:
            if isinstance(found, Mapping) and depth < MAX_DEPTH:
                yield path + inner, found
                yield from _objects(f"{path}{inner}.", found, depth + 1)


def _bears(name: str, applied: Applied) -> bool:
    """Return whether a key of a known or unknown family bears on positions."""
    return bears_on_positions(name) or (not applied.is_known and is_relative_size(name))


def _of_config(config: Mapping[str, Any], applied: Applied) -> Iterator[Found]:
    """Return the keys of a config, and of the objects in it, that are not applied."""
    for key, value in config.items():
        name = str(key)
        is_read = key in applied.keys_read and key not in applied.keys_without_effect
        if key in DICTIONARIES and isinstance(value, Mapping):
            inner = [*_of_dictionary(name, value, applied)] if applied.parameters else []
            if is_read:
                yield from _without_type(inner)
            elif inner:
                yield name, value
        elif isinstance(value, Mapping) and _ATTENTION.fullmatch(name):
            nested = {f"{name}.{inner}" for inner in value}
            if key not in applied.keys_read or nested & applied.keys_read:
                yield from _of_nested(name, value, applied)
        elif isinstance(value, Mapping) and key == PER_LAYER:
            for layer, of_layer in value.items():
                if isinstance(of_layer, Mapping):
                    yield from _of_layer(f"{name}.{layer}", of_layer, applied)
        elif not is_read and _bears(name, applied):
            is_same = applied.is_known and is_parameter(name, value, applied)
            if not is_same and not is_inert(name, value, applied):
                yield name, value


def _of_nested(name: str, values: Mapping[str, Any], applied: Applied) -> Iterator[Found]:
    """Return such keys of an object that is under the key `name`."""
    for key, value in values.items():
        path = f"{name}.{key}"
        is_read = path in applied.keys_read
        if is_read or not _bears(str(key), applied):
            continue
        if not is_inert(str(key), value, applied):
            yield path, value


def _of_layer(path: str, values: Mapping[str, Any], applied: Applied) -> Iterator[Found]:
    """Return the values for a single layer of keys that no layer reads."""
    unread = {
        key: value
        for key, value in values.items()
        if not {key, f"{PER_LAYER}.{key}"} & applied.keys_read
    }
    return _of_nested(path, unread, applied)


def _of_dictionary(path: str, values: Mapping[str, Any], applied: Applied) -> Iterator[Found]:
    """Return the paths of the values in a dictionary of rope parameters that no layer has."""
    for key, value in values.items():
        inner, name = f"{path}.{key}", str(key)
        if isinstance(value, Mapping) and not bears_on_positions(name):
            yield from _of_dictionary(inner, value, applied)
        elif name in PARAMETERS or bears_on_positions(name):
            followed = inner not in applied.keys_without_effect
            followed = followed and is_parameter(name, value, applied)
            if not followed and not is_inert(name, value, applied):
                yield inner, value


def _without_type(found: list[Found]) -> list[Found]:
    """Return all but the name of the variant, which is read with its dictionary."""
    return [item for item in found if item[0].rpartition(".")[2] not in ("type", "rope_type")]
