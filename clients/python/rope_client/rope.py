"""The argument `rope`: parameters, a preset's name, or a model's config in any form."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol


class ModelConfig(Protocol):
    """A config object of Hugging Face's transformers."""

    def to_dict(self) -> dict[str, Any]:
        """Return the members of config.json."""


Config = ModelConfig | os.PathLike[str]
"""A config object, or the path of a config.json or of the folder that has one."""

Rope = Mapping[str, Any] | str | Config
"""How to rotate.

One of: parameters; `{"config": config, "layer": 3}`, where the config is a mapping, a config object
of transformers, or a path; `{"preset": name}`; the name alone; a config object; a path, which as
text ends with `.json`. `"assume": "llama"` beside a config reads one of an unknown model_type as a
Llama, although it has keys that bear on positions and that are not applied.
"""

DEFAULT_ROPE: Rope = MappingProxyType({})


def rope_json(rope: Rope) -> dict[str, Any] | str:
    """Return `rope` in the form that the service reads.

    Raises:
        OSError: a file cannot be read.
        TypeError: `rope` or its config is of another type.
        ValueError: a file is not JSON.
    """
    if isinstance(rope, str) and not rope.endswith(".json"):
        return rope
    if not isinstance(rope, Mapping):
        return {"config": config_json("rope", rope)}
    if rope.get("config") is None:
        return dict(rope)
    return {**rope, "config": config_json("rope['config']", rope["config"])}


def config_json(name: str, config: Any) -> dict[str, Any]:
    """Return the members of a config."""
    if isinstance(config, Mapping):
        return dict(config)
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    if isinstance(config, str | os.PathLike):
        return _read(Path(config))
    raise TypeError(
        f"{name} must be a mapping, a config with to_dict(), or the path of a config.json, "
        f"got {type(config).__name__}"
    )


def _read(path: Path) -> dict[str, Any]:
    file = path / "config.json" if path.is_dir() else path
    try:
        return dict(json.loads(file.read_bytes()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} must have one JSON object: {error}") from None
