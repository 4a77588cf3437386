"""Which family a config belongs to, and which part of it describes what is asked for."""

from collections.abc import Mapping
from typing import Any

from rope_core.errors import ConfigError
from rope_core.hf.config_reader import brief
from rope_core.hf.families import DIFFUSERS, SAME, UNKNOWN, Family, families, parts

NESTED = {
    "text": ("text_config", "llm_config", "language_config", "thinker_config"),
    "vision": ("vision_config",),
    "audio": ("audio_config",),
}
"""Where composite configs keep the configs of their parts."""

VISION_KEYS = frozenset(
    ("patch_size", "image_size", "spatial_merge_size", "in_channels", "num_channels", "in_chans")
)
"""Keys that only the config of a vision tower has."""

Found = tuple[Family, Mapping[str, Any], str, str | None]


def find(
    config: Mapping[str, Any], model_type: str | None, part: str | None, num_axes: int | None
) -> Found:
    """Return the family, the config of the part that is asked for, the path to it, and its name."""
    if part is not None and part not in NESTED:
        raise ConfigError("part", f"one of {[*NESTED]}", brief(part))
    named = model_type or _text(config, "model_type")
    named = named or DIFFUSERS.get(_text(config, "_class_name") or "")
    config, prefix, named = _descend(config, part or "text", named)
    family = _pick(_row(named), config, part, num_axes)
    return family, config, prefix, named


def _text(config: Mapping[str, Any], key: str) -> str | None:
    value = config.get(key)
    if value is not None and not isinstance(value, str):
        raise ConfigError(key, "a text", brief(value))
    return value


def _descend(
    config: Mapping[str, Any], part: str, named: str | None
) -> tuple[Mapping[str, Any], str, str | None]:
    """Return the config of a part, and what its model is called."""
    prefix = ""
    for key in (*NESTED[part], *NESTED[part]):  # a thinker's config has a text_config itself
        inner = config.get(key)
        if isinstance(inner, Mapping):
            own = _text(inner, "model_type")
            named = own if own and (_row(own) or not named) else named
            config, prefix = inner, f"{prefix}{key}."
    return config, prefix, named


def _row(named: str | None) -> Family | str | None:
    """Return a model type's row, or the module that has one for each part."""
    for name in (named or "", (named or "").replace("-", "_")):
        name = SAME.get(name, name)
        if name in families():
            return families()[name]
        if parts(name):
            return name
    return None


def _pick(
    row: Family | str | None, config: Mapping[str, Any], part: str | None, num_axes: int | None
) -> Family:
    """Return the row of the part that is asked for, or that the config must be of."""
    if row is None:
        return UNKNOWN
    module = row if isinstance(row, str) else row.module
    if isinstance(row, Family) and part in (None, row.part) and row.name != module:
        return row
    choices = parts(module)
    wanted = part or _guess(choices, config, num_axes)
    for family in choices:
        if family.part == wanted:
            return family
    if part is not None:
        raise ConfigError("part", f"one of {sorted({f.part for f in choices})}", brief(part))
    return choices[0]


def _guess(choices: tuple[Family, ...], config: Mapping[str, Any], num_axes: int | None) -> str:
    """Return the part that a config, or else the positions, must be of."""
    if VISION_KEYS & config.keys():
        return "vision"
    if num_axes is not None and num_axes not in (1, choices[0].has_axes):
        fits = [family.part for family in choices if family.has_axes == num_axes]
        return fits[0] if fits else choices[0].part
    return choices[0].part
