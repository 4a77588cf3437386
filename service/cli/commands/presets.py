"""`rope-service presets`: the released models that have a name. It does not import torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.text import Text

from service.cli.output import console, new_table
from service.cli.preset_files import PRESETS_DIR, read_presets

SCALING_KEYS = ("rope_scaling", "rope_parameters")
TYPE_KEYS = ("rope_type", "type")


def list_all() -> bytes:
    """Return what `GET /v1/presets` answers: the presets of the library, and of the operator."""
    folder = os.environ.get(PRESETS_DIR)
    if not folder:
        return orjson.dumps({"presets": read_presets(), "refused": []})
    # these modules import torch
    from service.endpoints.catalog import list_presets
    from service.endpoints.presets import load_presets
    from service.endpoints.rope_resolver import RopeResolver

    return list_presets(RopeResolver(load_presets(Path(folder))))


def matching(answer: Mapping[str, Any], word: str) -> Mapping[str, Any]:
    """Return the presets with `word` in their name, source or family; case does not matter."""
    key = word.lower()
    presets = [
        preset
        for preset in answer["presets"]
        if any(key in text.lower() for text in (preset["name"], preset["source"], _family(preset)))
    ]
    refused = [preset for preset in answer["refused"] if key in preset["name"].lower()]
    return {"presets": presets, "refused": refused}


def print_presets(answer: Mapping[str, Any]) -> None:
    """Print a line for each preset: name, family, variant, source; and why files are refused."""
    headings = ("preset", "family", "rope_type", "source")
    table = new_table(*headings, left=headings)
    for preset in answer["presets"]:
        table.add_row(preset["name"], _family(preset), _rope_type(preset), preset["source"])
    if answer["presets"]:
        console().print(table)
    for refused in answer["refused"]:
        console().print(
            Text.assemble(("refused: ", "bad"), refused["name"], ": ", refused["reason"])
        )


def _family(preset: Mapping[str, Any]) -> str:
    config = preset["config"]
    return str(config.get("model_type") or config.get("_class_name") or "")


def _rope_type(preset: Mapping[str, Any]) -> str:
    """Return the rope_type that the config names, of all layers or of the text part."""
    config = preset["config"]
    for part in (config, config.get("text_config")):
        for key in SCALING_KEYS:
            scaling = part.get(key) if isinstance(part, dict) else None
            for name in TYPE_KEYS:
                if isinstance(scaling, dict) and isinstance(scaling.get(name), str):
                    return str(scaling[name])
    return ""
