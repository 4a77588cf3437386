"""The files of the library's presets, read without the import of `rope_core`, which needs torch."""

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PRESETS_DIR = "ROPE_PRESETS_DIR"
"""Variable with the folder of the operator's presets."""

SUFFIX = ".json"


def preset_names() -> Sequence[str]:
    """Return the names of the library's presets."""
    return sorted(file.name.removesuffix(SUFFIX) for file in _folder().glob(f"*{SUFFIX}"))


def read_presets() -> Sequence[Mapping[str, Any]]:
    """Return the library's presets as `/v1/presets` lists them."""
    return [_read(name) for name in preset_names()]


def _read(name: str) -> Mapping[str, Any]:
    content = json.loads((_folder() / f"{name}{SUFFIX}").read_text("utf-8"))
    return {"name": name, "config": content["config"], "source": content["source"]}


def _folder() -> Path:
    spec = find_spec("rope_core")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package rope_core is not installed")
    return Path(spec.origin).parent / "presets"
