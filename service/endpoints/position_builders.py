"""Positions, made by the library's builders."""

import dataclasses
import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from rope_core import ConfigError, ShapeError
from rope_core.positions import BUILDERS
from service.errors import UnknownName, printable
from service.wire import Message


def is_tensor(kind: Any) -> bool:
    """Tell whether a type hint is a tensor, or a tensor or None."""
    return kind is Tensor or Tensor in get_args(kind)


TENSOR_ARGUMENTS = tuple(
    dict.fromkeys(
        name
        for builder in BUILDERS.values()
        for name, kind in get_type_hints(builder.function).items()
        if name != "return" and is_tensor(kind)
    )
)
"""Names of the tensors that some builder takes."""


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
        if not is_tensor(hints[key])
    }
    config = ConfigDict(strict=True, extra="forbid")
    return create_model(name, __config__=config, **fields)
