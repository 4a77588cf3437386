"""The family of a config, and the nested config of the part to resolve."""

from collections.abc import Mapping
from typing import Any

from rope_core.checks import check_choice
from rope_core.errors import ConfigError, brief
from rope_core.hf.families import diffusers_classes, families, model_type_aliases, parts
from rope_core.hf.family import UNKNOWN, Family

NESTED = {
    "text": ("text_config", "llm_config", "language_config", "thinker_config"),
    "vision": ("vision_config",),
    "audio": ("audio_config",),
}
"""Keys of composite configs with the configs of their parts."""

VISION_KEYS = frozenset(
    ("patch_size", "image_size", "spatial_merge_size", "in_channels", "num_channels", "in_chans")
)
"""Keys that only the config of a vision tower has."""

Lookup = tuple[Family, Mapping[str, Any], str, str | None]


def find(
    config: Mapping[str, Any], model_type: str | None, part: str | None, num_axes: int | None
) -> Lookup:
    """Return the family, the config of the part, the path to that config, and its model_type."""
    if part is not None:
        check_choice("part", part, NESTED)
    name = model_type or _text(config, "model_type")
    name = name or diffusers_classes().get(_text(config, "_class_name") or "")
    config, prefix, name = _descend(config, part or "text", name)
    return _family(name, config, part, num_axes), config, prefix, name


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(key, "a text", brief(value))
    return value


def _descend(
    config: Mapping[str, Any], part: str, name: str | None
) -> tuple[Mapping[str, Any], str, str | None]:
    """Return the config of a part, the path to it, and its model_type."""
    prefix = ""
    for key in NESTED[part] * 2:  # a thinker_config has a text_config inside
        inner = config.get(key)
        if isinstance(inner, Mapping):
            inner_name = _text(inner, "model_type")
            name = inner_name if inner_name and (_module(inner_name) or not name) else name
            config, prefix = inner, f"{prefix}{key}."
    return config, prefix, name


def _module(model_type: str | None) -> tuple[Family | None, str] | None:
    """Return a model type's family and module, the module alone if each part has a family."""
    for name in (model_type or "", (model_type or "").replace("-", "_")):
        name = model_type_aliases().get(name, name)
        if family := families().get(name):
            return family, family.module
        if parts(name):
            return None, name
    return None


def _family(
    model_type: str | None, config: Mapping[str, Any], part: str | None, num_axes: int | None
) -> Family:
    """Return the family of the part: the named one, or the one that the config looks like."""
    match = _module(model_type)
    if match is None:
        return UNKNOWN
    family, module = match
    if family and part in (None, family.part) and family.name != module:
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
