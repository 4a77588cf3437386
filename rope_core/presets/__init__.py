"""Configurations of released models: each model's own config.json, less what has no part here."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rope_core.errors import ConfigError

MAX_BYTES = 2**20
"""Longest config.json read; a longer one is some other file."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Preset:
    """A model's configuration by name."""

    name: str

    config: Mapping[str, Any]
    """In the spelling of the file, transformers 4.x or 5.x; shared by all, not to be changed."""

    source: str
    """Where the numbers come from: a URL, or a file relative to the operator's folder."""


@cache
def built_in() -> Mapping[str, Preset]:
    """Return the presets that come with the library, by name."""
    found = {}
    for file in files(__name__).iterdir():
        name, _, kind = file.name.rpartition(".")
        if kind == "json":
            found[name] = Preset(name, **json.loads(file.read_text("utf-8")))
    return MappingProxyType(dict(sorted(found.items())))


def from_folder(folder: Path) -> dict[str, Preset]:
    """Read an operator's presets: `<name>.json` files and `<name>/config.json`, by name.

    Hidden entries, and files and folders of another form, are left alone.

    Raises:
        ConfigError: a file is no configuration, or has a name that no preset has.
    """
    found: dict[str, Preset] = {}
    for name, file in _files(folder):
        source = file.relative_to(folder).as_posix()
        if not NAME.fullmatch(name):
            raise ConfigError(source, f"named like {NAME.pattern}", repr(name))
        if name in found:
            raise ConfigError(source, "the only preset of its name", f"also {found[name].source}")
        found[name] = Preset(name, _read(file, source), source)
    return found


def _files(folder: Path) -> list[tuple[str, Path]]:
    """List the files of presets, each with the preset's name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError("the folder of presets", "readable", error.strerror) from None
    seen = [entry for entry in entries if not entry.name.startswith(".")]
    plain = [(file.stem, file) for file in seen if file.suffix == ".json"]
    nested = [(path.name, path / "config.json") for path in seen]
    return [(name, file) for name, file in plain + nested if _is_there(name, file)]


def _is_there(name: str, file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # in a folder that is closed to us: lost+found, or one that reading will name
        return NAME.fullmatch(name) is not None


def _read(file: Path, source: str) -> Mapping[str, Any]:
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(source, "readable", error.strerror) from None
    if len(text) > MAX_BYTES:
        raise ConfigError(source, f"of at most {MAX_BYTES} bytes", "more")
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(source, "a JSON object", f"none: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(source, "a JSON object", f"a {type(config).__name__}")
    return config
