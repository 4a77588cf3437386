"""The presets of the service: those of the library, and those in the operator's folder."""

import logging
from collections.abc import Mapping
from pathlib import Path

import orjson

from rope_core.presets import Preset, built_in
from rope_core.presets.folder import RefusedPreset, read_folder

log = logging.getLogger("rope.app")


def load_presets(folder: Path | None) -> Mapping[str, Preset | RefusedPreset]:
    """Return all presets by name; each refused one is logged.

    A refused preset replaces a built-in one of its name: the operator wants other numbers.

    Raises:
        ConfigError: the folder cannot be read.
    """
    presets = {} if folder is None else read_folder(folder)
    for name, preset in presets.items():
        checked = presets[name] = _check(preset)
        if isinstance(checked, RefusedPreset):
            fields = {"preset": checked.name, "source": checked.source, "reason": checked.reason}
            log.warning("a preset is refused", extra={"fields": fields})
    return {**built_in(), **presets}


def _check(preset: Preset | RefusedPreset) -> Preset | RefusedPreset:
    """Return the preset, refused if `/v1/presets` cannot list its config."""
    if isinstance(preset, Preset):
        try:
            orjson.dumps(preset)
        except orjson.JSONEncodeError as error:  # too deep, or half of a surrogate pair
            reason = f"{preset.source} must be writable as JSON, got: {error}"
            return RefusedPreset(preset.name, preset.source, reason)
    return preset
