"""Configurations of released models: their config.json without the keys that have no use here."""

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

MAX_BYTES = 2**23
"""Largest config.json to read, in bytes. The largest known one has 3.1 MB: its quantization names
each layer."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Preset:
    """A model's configuration by name."""

    name: str

    config: Mapping[str, Any]
    """Contents of the file, in the spelling of transformers 4 or 5. Shared: do not change it."""

    source: str
    """Where the numbers come from: a URL, or a path relative to the operator's folder."""


@cache
def built_in() -> Mapping[str, Preset]:
    """Return the presets of the library by name."""
    texts = {
        file.name.removesuffix(".json"): file.read_text("utf-8")
        for file in files(__name__).iterdir()
        if file.name.endswith(".json")
    }
    return MappingProxyType(
        {name: Preset(name, **json.loads(texts[name])) for name in sorted(texts)}
    )


def read_config(file: Path, source: str) -> Mapping[str, Any]:
    """Return the contents of a config.json, which errors call `source`.

    Raises:
        ConfigError: the file cannot be read, is too large, or is no JSON object.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(source, "readable", error.strerror) from None
    if len(text) > MAX_BYTES:
        raise ConfigError(source, f"of at most {MAX_BYTES} bytes", "more")
    try:
        config = json.loads(text, parse_int=_read_int)
    except (ValueError, RecursionError) as error:
        raise ConfigError(source, "a JSON object", f"none: {error}") from None
    if not isinstance(config, dict):
        got = "null" if config is None else f"a {type(config).__name__}"
        raise ConfigError(source, "a JSON object", got)
    return config


def _read_int(digits: str) -> float:
    """Return a number as other readers of JSON do: a float if 64 bits do not hold it."""
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)
