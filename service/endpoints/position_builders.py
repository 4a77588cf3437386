"""`/v1/positions`: positions of images, videos, packs and groups, made by the library."""

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

from rope_core import ConfigError, ShapeError
from rope_core.positions import BUILDERS
from service.endpoints.params import PositionsParams
from service.endpoints.rope_resolver import RopeResolver
from service.errors import BadTensor, MissingTensor, UnknownName, printable
from service.wire import Message


def is_tensor(hint: Any) -> bool:
    """Tell whether a type hint is a tensor, or a tensor or None."""
    return hint is Tensor or Tensor in get_args(hint)


TENSOR_ARGUMENTS = tuple(
    dict.fromkeys(
        name
        for builder in BUILDERS.values()
        for name, hint in get_type_hints(builder.function).items()
        if name != "return" and is_tensor(hint)
    )
)
"""Names of the tensors that the builders take."""


def answer_positions(
    tensors: Mapping[str, Tensor], params: PositionsParams, resolver: RopeResolver
) -> Message:
    """Return what a builder makes of its arguments and tensors.

    Raises:
        UnknownName: the builder has no such argument.
        BadTensor, ConfigError, ShapeError: an argument is missing or not valid.
    """
    function, arguments = BUILDERS[params.builder].function, params.arguments
    signature = inspect.signature(function).parameters
    if unknown := sorted({*arguments, *tensors} - set(signature)):
        raise UnknownName("argument", unknown[0], list(signature))
    for name in arguments:
        if name in TENSOR_ARGUMENTS:
            expected = "a tensor of the message, not one of arguments"
            raise BadTensor(name, expected, printable(arguments[name]))
    for name, parameter in signature.items():
        if parameter.default is parameter.empty and name not in {*arguments, *tensors}:
            if name in TENSOR_ARGUMENTS:
                raise MissingTensor(name)
            raise ShapeError(name, f"given for {params.builder}", "none")
    positions = function(**_validate(params.builder, arguments), **tensors)
    if isinstance(positions, Tensor):
        return Message({"positions": positions})
    return Message({name: t for name, t in vars(positions).items() if t is not None})


def _validate(builder: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are not tensors, with the types of the builder's signature."""
    try:
        model = _arguments_model(builder).model_validate(arguments)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False, include_context=False)[0]
        name = "arguments." + ".".join(map(str, error["loc"]))
        expected = error["msg"].removeprefix("Input should be ")
        expected = "a list" if "Sequence" in expected else expected
        raise ConfigError(name, expected, printable(error["input"])) from None
    return {name: getattr(model, name) for name in model.model_fields_set}


@lru_cache(maxsize=64)
def _arguments_model(builder: str) -> type[BaseModel]:
    function = BUILDERS[builder].function
    hints = get_type_hints(function)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if not is_tensor(hints[name])
    }
    config = ConfigDict(strict=True, extra="forbid")
    return create_model(builder, __config__=config, **fields)
