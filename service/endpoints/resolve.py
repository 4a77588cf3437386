"""What is answered without the device: what a config says, positions, and what there is."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from rope_core import SCHEMES, VARIANTS, ConfigError, ShapeError
from rope_core.accuracy import angle_errors
from rope_core.positions import BUILDERS, Builder
from rope_core.registry import Entry
from service.endpoints.rope_resolver import ResolvedRope, RopeResolver
from service.errors import UnknownName, printable
from service.wire import Message, Parameters

_TOLD: tuple[str, ...] = ("nope", "model_type", "layer_type", "parameters")
_TOLD += ("keys_read", "keys_ignored", "warnings")


def _is_tensor(kind: Any) -> bool:
    return kind is Tensor or Tensor in get_args(kind)


TENSOR_ARGUMENTS = tuple(
    dict.fromkeys(
        name
        for builder in BUILDERS.values()
        for name, kind in get_type_hints(builder.function).items()
        if name != "return" and _is_tensor(kind)
    )
)
"""Names of the tensors that some builder takes."""


def resolve_rope(found: ResolvedRope) -> Message:
    """Return what is known of a rope: its frequencies as a tensor, the rest as parameters."""
    rope, resolved = found.config, found.resolved
    told: dict[str, Any] = {"rotates": rope is not None, "provenance": dict(found.provenance)}
    if resolved is not None:
        attention = dataclasses.asdict(resolved.attention)
        layers = [dataclasses.asdict(each) for each in resolved.layers]
        told |= {name: getattr(resolved, name) for name in _TOLD}
        told |= {"attention": attention, "layers": layers}
    tensors = {}
    if rope is not None:
        described = {
            field.name: getattr(rope, field.name)
            for field in dataclasses.fields(rope)
            if field.init and field.name not in ("parameters", "axes_parameters")
        }
        told |= {
            "rope": described | dict(rope.parameters) | dict(rope.axes_parameters),
            "attention_scaling": rope.attention_scaling,
            "num_axes": rope.num_axes,
        }
        tensors["inv_freq"] = rope.columns.inv_freq
        scale = resolved.attention.scale if resolved is not None else None
        told["softmax_scale"] = rope.head_dim**-0.5 if scale is None else scale
    return Message(tensors, Parameters.of(told))


def build_positions(
    name: str, arguments: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Message:
    """Return what a builder makes of its arguments.

    Raises:
        UnknownName: it has no such argument.
        ConfigError, ShapeError: an argument is missing, or has a value that it cannot have.
    """
    builder = BUILDERS[name]
    expected = inspect.signature(builder.function).parameters
    if unknown := sorted({*arguments, *tensors} - set(expected)):
        raise UnknownName("argument", unknown[0], list(expected))
    for argument in arguments:
        if argument in TENSOR_ARGUMENTS:
            where = "a tensor of the message, not one of arguments"
            raise ShapeError(argument, where, printable(arguments[argument]))
    for argument, parameter in expected.items():
        missing = parameter.default is inspect.Parameter.empty
        if missing and argument not in arguments and argument not in tensors:
            wanted = "a tensor of the message" if argument in TENSOR_ARGUMENTS else "given"
            raise ShapeError(argument, f"{wanted} for {name}", "none")
    built = builder.function(**_plain(name, arguments), **tensors)
    if isinstance(built, Tensor):
        return Message({"positions": built})
    named = {field.name: getattr(built, field.name) for field in dataclasses.fields(built)}
    return Message({key: value for key, value in named.items() if value is not None})


def _plain(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        checked = _model(name).model_validate(arguments)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False, include_context=False)[0]
        where = "arguments." + ".".join(map(str, first["loc"]))
        expected = first["msg"].removeprefix("Input should be ")
        expected = "a list" if "Sequence" in expected else expected
        raise ConfigError(where, expected, printable(first["input"])) from None
    return {key: getattr(checked, key) for key in checked.model_fields_set}


@lru_cache(maxsize=64)
def _model(name: str) -> type[BaseModel]:
    function = BUILDERS[name].function
    hints = get_type_hints(function)
    fields: dict[str, Any] = {
        key: (hints[key], ... if given.default is inspect.Parameter.empty else given.default)
        for key, given in inspect.signature(function).parameters.items()
        if not _is_tensor(hints[key])
    }
    config = ConfigDict(strict=True, extra="forbid")
    return create_model(name, __config__=config, **fields)


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
    name = "tensor" if _is_tensor(kind) else _TYPE_NAMES.get(get_origin(kind) or kind)
    return name or " or ".join(map(_type_name, get_args(kind)))
