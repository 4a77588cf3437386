"""Lists of presets, variants and builders."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import orjson

from rope_core import SCHEMES, VARIANTS
from rope_core.accuracy import angle_errors
from rope_core.positions import BUILDERS, Builder
from rope_core.registry import Entry
from service.endpoints.position_builders import is_tensor
from service.endpoints.rope_resolver import RopeResolver


def list_presets(rope_resolver: RopeResolver) -> bytes:
    """Return every preset as JSON: name, config and source; a file's Infinity becomes null."""
    return orjson.dumps(
        {"presets": [dataclasses.asdict(p) for p in rope_resolver.presets.values()]}
    )


@lru_cache(maxsize=1)
def list_variants() -> dict[str, Any]:
    """Return variants, schemes and builders, and how far each arithmetic is from the truth."""
    return {
        "variants": [_describe(entry) for entry in VARIANTS.values()],
        "schemes": [_describe(entry) for entry in SCHEMES.values()],
        "builders": [_describe_builder(builder) for builder in BUILDERS.values()],
        "largest_error_of_cos": angle_errors(),
    }


def _describe(entry: Entry[Any]) -> dict[str, Any]:
    told = {key: getattr(entry, key) for key in ("name", "summary", "source", "models")}
    parameters = [
        {
            "name": parameter.name,
            "type": " or ".join(map(_type_name, parameter.kinds)),
            "required": parameter.required,
            "default": parameter.default,
        }
        for parameter in entry.parameters.values()
    ]
    return told | {"parameters": parameters}


def _describe_builder(builder: Builder) -> dict[str, Any]:
    hints = get_type_hints(builder.function)
    arguments = [
        {
            "name": name,
            "type": _type_name(hints[name]),
            "required": given.default is inspect.Parameter.empty,
            "default": None if given.default is inspect.Parameter.empty else given.default,
        }
        for name, given in inspect.signature(builder.function).parameters.items()
    ]
    told = {key: getattr(builder, key) for key in ("name", "summary", "models")}
    return told | {"arguments": arguments}


_TYPE_NAMES: Mapping[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    tuple: "array",
    Sequence: "array",
    NoneType: "null",
}


def _type_name(kind: Any) -> str:
    """Return what JSON, or this API, calls a type."""
    name = "tensor" if is_tensor(kind) else _TYPE_NAMES.get(get_origin(kind) or kind)
    return name or " or ".join(map(_type_name, get_args(kind)))
