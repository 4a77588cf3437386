"""`/v1/presets` and `/v1/variants`: lists of presets, variants, schemes, builders and models."""

import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import orjson

from rope_core import SCHEMES, VARIANTS
from rope_core.accuracy import angle_errors
from rope_core.hf.families import models_without_rope
from rope_core.positions import BUILDERS, Builder
from rope_core.presets import Preset
from rope_core.presets.folder import RefusedPreset
from rope_core.registry import Entry
from service.endpoints.position_builders import is_tensor
from service.endpoints.rope_resolver import RopeResolver


def list_presets(resolver: RopeResolver) -> bytes:
    """Return all presets as JSON, and those that are refused. Infinity in a config becomes null."""
    presets: list[Preset] = []
    refused: list[RefusedPreset] = []
    for preset in resolver.presets.values():
        if isinstance(preset, Preset):
            presets.append(preset)
        else:
            refused.append(preset)
    return orjson.dumps({"presets": presets, "refused": refused})


@lru_cache(maxsize=1)
def list_variants() -> dict[str, Any]:
    """Return variants, schemes, builders, models without rope, and errors of the arithmetics."""
    return {
        "variants": [_describe_entry(entry) for entry in VARIANTS.values()],
        "schemes": [_describe_entry(entry) for entry in SCHEMES.values()],
        "builders": [_describe_builder(builder) for builder in BUILDERS.values()],
        "models_without_rope": models_without_rope(),
        "largest_error_of_cos": angle_errors(),
    }


def _describe_entry(entry: Entry[Any]) -> dict[str, Any]:
    parameters = []
    for each in entry.parameters.values():
        type_name = " or ".join(map(_type_name, each.kinds))
        parameters.append(_argument(each.name, type_name, each.required, each.default))
    fields = {name: getattr(entry, name) for name in ("name", "summary", "source", "models")}
    return fields | {"parameters": parameters}


def _describe_builder(builder: Entry[Builder]) -> dict[str, Any]:
    hints = get_type_hints(builder.function)
    arguments = []
    for name, parameter in inspect.signature(builder.function).parameters.items():
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        arguments.append(_argument(name, _type_name(hints[name]), required, default))
    models = builder.models.rstrip(".").split(", ")
    fields = {"name": builder.name, "summary": builder.summary, "models": models}
    return fields | {"arguments": arguments}


def _argument(name: str, type_name: str, required: bool, default: object) -> dict[str, Any]:
    return {"name": name, "type": type_name, "required": required, "default": default}


_TYPE_NAMES: Mapping[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    tuple: "array",
    Sequence: "array",
    NoneType: "null",
}


def _type_name(hint: Any) -> str:
    """Return the name that JSON, or this API, has for a type hint."""
    name = "tensor" if is_tensor(hint) else _TYPE_NAMES.get(get_origin(hint) or hint)
    return name or " or ".join(map(_type_name, get_args(hint)))
