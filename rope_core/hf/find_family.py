"""Find the family of a config, or of a part of a composite config, in the tables of families.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from rope_core.checks import check_choice
from rope_core.errors import ConfigError, brief
from rope_core.hf.config_forms import PARAMS_FORMS, find_form
from rope_core.hf.families import (
    Part,
    composites,
    diffusers_classes,
    families,
    families_without_rope,
    model_type_aliases,
    parts,
)
from rope_core.hf.family import UNKNOWN, Family

TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config", "atom_encoder")

NESTED = {
    "text": TEXT_CONFIGS,
    "vision": ("vision_config", "vision_encoder"),
    "audio": ("audio_config",),
    "indexer": TEXT_CONFIGS,
}
"""Keys of composite configs with the configs of their parts."""

VISION_KEYS = frozenset(
    ("patch_size", "image_size", "spatial_merge_size", "in_channels", "num_channels", "in_chans")
)
"""Keys that only the config of a vision tower has."""

WITHOUT_RULE = frozenset(("bailing_moe_v2_5", "codeshell", "step3", "telechat", "yuan"))
"""Model types of remote code that is known, and whose rule no table has."""

MAX_DEPTH = 4
"""Largest number of nested configs from a composite config to that of its part."""


class Lookup(NamedTuple):
    """The family of a config."""

    family: Family

    config: Mapping[str, Any]
    """The config of the part: that of the file, or one nested in it."""

    prefix: str
    """The path to that config, with a dot at its end; "" for that of the file."""

    model_type: str | None
    """The model type that the request or the file names, also of an unknown family."""


def find(
    config: Mapping[str, Any], model_type: str | None, part: str | None, num_axes: int | None
) -> Lookup:
    """Return the family of a config, or of a part of it."""
    if part is not None:
        check_choice("part", part, NESTED)
    name = model_type or _text(config, "model_type")
    name = name or diffusers_classes().get(_text(config, "_class_name") or "")
    name = find_form(config, name) or name
    inner, prefix, name, values = _descend(config, part or "text", name, num_axes)
    name = find_form(inner, name) or name
    if part in ("vision", "audio") and not prefix:
        if name in PARAMS_FORMS:
            raise ConfigError(f"{part}_encoder", f"given for part {brief(part)}", "none")
        if _is_of_text(config, name):
            inner = {}
    is_nested = bool(prefix) and inner.get("model_type") == name
    family = _family(name, inner, part, num_axes, is_nested=is_nested)
    return Lookup(_with_defaults(family, values), inner, prefix, name)


def refuse(model_type: str | None, part: str | None) -> None:
    """Refuse a model_type without a row that must not be read as a Llama.

    Raises:
        ConfigError: its code is known not to be Llama's, or the part is not text.
    """
    remedy = "send the rope itself, or assume: 'llama' to read the file as a Llama's"
    if model_type in WITHOUT_RULE:
        got = f"{brief(model_type)}, whose own code has rules that are not here"
        raise ConfigError("model_type", f"one with known rules ({remedy})", got)
    if part not in (None, "text"):
        got = f"{brief(part)} of the unknown model_type {brief(model_type)}"
        raise ConfigError("part", f"one of a known model_type ({remedy})", got)


def _with_defaults(family: Family, values: Mapping[str, Any]) -> Family:
    """Return the family with the values that a composite class has for its part by default."""
    if not values:
        return family
    block = values.get("rope_parameters", family.rope_parameters)
    return replace(family, rope_parameters=block, defaults={**family.defaults, **values})


def _is_of_text(config: Mapping[str, Any], name: str | None) -> bool:
    """Return whether a config without one of its other part describes text."""
    _, module = _module(name) or (None, "")
    has_text = any(family.part == "text" for family in parts(module))
    return has_text and ("vocab_size" in config or any(key in config for key in NESTED["text"]))


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(key, "a text", brief(value))
    return value


def _descend(
    config: Mapping[str, Any], part: str, name: str | None, num_axes: int | None
) -> tuple[Mapping[str, Any], str, str | None, Mapping[str, Any]]:
    """Return the config of a part, the path to it, its model_type, and defaults of its own."""
    prefix, values = "", Part().values
    for _ in range(MAX_DEPTH):
        of_class = _part_of_class(name, part, is_nested=bool(prefix))
        main_key, default = of_class.key, of_class.model_type
        keys = (*NESTED[part], main_key)
        key = next((key for key in keys if key and isinstance(config.get(key), Mapping)), None)
        if key is None and (default is None or _has_family(name, part, config, num_axes)):
            return config, prefix, name, values
        if key is None:
            name, values = default, of_class.values
            continue
        config, prefix = config[key], f"{prefix}{key}."
        if _has_fixed_class(name, part):
            continue
        inner_name = _text(config, "model_type") or (default if key == main_key else None)
        is_class = is_known(inner_name) or inner_name in composites()
        if inner_name and (is_class or not is_known(name)):
            name = inner_name
    return config, prefix, name, values


def _part_of_class(name: str | None, part: str, *, is_nested: bool) -> Part:
    """Return the part of a composite; of a nested config that wraps another, that other one."""
    members = composites().get(name or "", {})
    return members.get(part) or (is_nested and members.get("text")) or Part()


def _has_family(
    name: str | None, part: str, config: Mapping[str, Any], num_axes: int | None
) -> bool:
    """Return whether a model type has a family of its own that can describe a flat config."""
    match = _module(name)
    if match is None:
        return False
    family, module = match
    members = () if family else parts(module)
    is_other = part != "text" or not VISION_KEYS.isdisjoint(config)
    is_other = is_other or num_axes in {member.num_axes for member in members} - {1}
    return not members or is_other or any(member.part == part for member in members)


def _has_fixed_class(name: str | None, part: str) -> bool:
    """Return whether the class of a composite model reads a part, whatever model_type it has.

    The vision part of MiniMax-M3's released file says that it is CLIP's, which has no rotation.
    """
    _, module = _module(name) or (None, "")
    return part == "vision" and any(
        family.part == part and family.name != module for family in parts(module)
    )


def is_known(model_type: str | None) -> bool:
    """Return whether a model type, or its parts, have families."""
    return _module(model_type) is not None


def _module(model_type: str | None) -> tuple[Family | None, str] | None:
    """Return a model type's family and module; only the module if each of its parts has a family.

    None: the model type is unknown.
    """
    name = model_type or ""
    if match := module_with_rope(name):
        return match
    for spelling in (name, name.replace("-", "_"), name.replace("_", "-")):
        if family := families_without_rope().get(spelling):
            return family, family.module
    return None


def module_with_rope(model_type: str) -> tuple[Family | None, str] | None:
    """Return the same as `_module`, None for families without rotary embedding."""
    for name in (model_type, model_type.replace("-", "_")):
        name = model_type_aliases().get(name, name)
        if family := families().get(name):
            return family, family.module
        if parts(name):
            return None, name
    return None


def _family(
    model_type: str | None,
    config: Mapping[str, Any],
    part: str | None,
    num_axes: int | None,
    *,
    is_nested: bool,
) -> Family:
    """Return the family of the part: the named one, or the one that the config looks like.

    The class that a nested config names is that of its part.
    """
    match = _module(model_type)
    if match is None:
        return UNKNOWN
    family, module = match
    is_of_part = is_nested or part in (None, family.part if family else None)
    if family and (family.no_rope or (is_of_part and family.name != module)):
        return family
    members = parts(module)
    chosen = part or _guess_part(members, config, num_axes)
    for member in members:
        if member.part == chosen:
            return member
    if part is not None:
        raise ConfigError("part", f"one of {sorted({f.part for f in members})}", brief(part))
    return members[0]


def _guess_part(
    members: tuple[Family, ...], config: Mapping[str, Any], num_axes: int | None
) -> str:
    if VISION_KEYS & config.keys():
        return "vision"
    if num_axes is not None and num_axes not in (1, members[0].num_axes):
        parts_with_axes = [family.part for family in members if family.num_axes == num_axes]
        return parts_with_axes[0] if parts_with_axes else members[0].part
    return members[0].part
