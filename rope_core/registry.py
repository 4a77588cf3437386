"""Functions by name, with what their signature and docstring say of them."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from rope_core.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])
Value = bool | int | float | str | tuple[int | float | str, ...] | None
Parameters = tuple[tuple[str, Value], ...]
"""Parameters by name, sorted: hashable, so that a configuration as a whole is a key."""

MOST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class Parameter:
    """A keyword of a registered function."""

    name: str
    kinds: tuple[type, ...]
    required: bool
    default: Value
    item: type = float
    """That of a list's items."""

    def check(self, value: Any) -> Value:
        """Return `value` as the function takes it.

        Raises:
            ConfigError: it is of another type.
        """
        if value is None and type(None) in self.kinds:
            return None
        if isinstance(value, list | tuple) and tuple in self.kinds:
            return tuple(self._item(item) for item in value)
        if isinstance(value, bool | str):
            if type(value) in self.kinds:
                return value
        elif float in self.kinds and _is_number(value):
            return value  # type: ignore[no-any-return]
        elif int in self.kinds and _is_whole(value):
            return int(value)
        names = " or ".join(_NAMES[kind] for kind in self.kinds)
        raise ConfigError(self.name, names, repr(value))

    def _item(self, value: Any) -> int | float:
        if self.item is int and _is_whole(value):
            return int(value)
        if self.item is float and _is_number(value):
            return value  # type: ignore[no-any-return]
        kind = "whole" if self.item is int else "finite"
        raise ConfigError(self.name, f"a list of {kind} numbers", repr(value))


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_NAMES |= {tuple: "a list of numbers", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Entry(Generic[F]):
    """A registered function."""

    name: str
    function: F
    summary: str
    """First paragraph of its docstring."""
    source: str
    models: str
    parameters: Mapping[str, Parameter]

    def bind(self, given: Mapping[str, Any]) -> Parameters:
        """Return `given` checked, sorted and without what equals a default.

        Raises:
            ConfigError: a parameter is unknown, missing or of another type.
        """
        for name in given:
            if name not in self.parameters:
                expected = f"one of {sorted(self.parameters)} for {self.name}"
                raise ConfigError("a parameter", expected, repr(name))
        for parameter in self.parameters.values():
            if parameter.required and parameter.name not in given:
                raise ConfigError(parameter.name, f"given for {self.name}", "none")
        checked = {name: self.parameters[name].check(value) for name, value in given.items()}
        return tuple(
            (name, value)
            for name, value in sorted(checked.items())
            if self.parameters[name].required or value != self.parameters[name].default
        )


def register(functions: Iterable[F]) -> Mapping[str, Entry[F]]:
    """Return `functions` by name. Their keyword-only arguments are the parameters."""
    return MappingProxyType({function.__name__: _entry(function) for function in functions})


def _entry(function: F) -> Entry[F]:
    hints = get_type_hints(function)
    parameters = {
        name: Parameter(
            name,
            tuple(getattr(kind, "__origin__", kind) for kind in get_args(hints[name]))
            if type(None) in get_args(hints[name])
            else (getattr(hints[name], "__origin__", hints[name]),),
            argument.default is inspect.Parameter.empty,
            None if argument.default is inspect.Parameter.empty else argument.default,
            int if "tuple[int" in str(hints[name]) else float,
        )
        for name, argument in inspect.signature(function).parameters.items()
        if argument.kind is inspect.Parameter.KEYWORD_ONLY
    }
    summary = " ".join(inspect.cleandoc(function.__doc__ or "").split("\n\n", 1)[0].split())
    source, models = docstring_part(function, "Source"), docstring_part(function, "Models")
    return Entry(function.__name__, function, summary, source, models, MappingProxyType(parameters))


def docstring_part(function: Callable[..., Any], key: str) -> str:
    """Return the text after `key:` in a docstring, up to the next key or empty line."""
    _, _, rest = inspect.cleandoc(function.__doc__ or "").partition(f"{key}: ")
    rest = rest.split("\n\n", 1)[0].split("\nModels: ", 1)[0]
    return " ".join(rest.split())


def _is_number(value: Any) -> bool:
    """Return whether `value` is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -MOST <= value <= MOST  # false for NaN


def _is_whole(value: Any) -> bool:
    """Return whether `value` is a whole number that 64 bits can hold."""
    return _is_number(value) and -(2**63) <= value < 2**63 and value == int(value)
