"""Functions by name, with their parameters and the parts of their docstrings."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from rope_core.checks import is_number, is_whole
from rope_core.errors import ConfigError, brief

F = TypeVar("F", bound=Callable[..., Any])
Value = bool | int | float | str | tuple[int | float | str, ...] | None
Parameters = tuple[tuple[str, Value], ...]
"""Parameters by name, sorted: hashable, so that a configuration as a whole is a key."""

TYPE_NAMES: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list of numbers",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A keyword argument of a registered function."""

    name: str
    kinds: tuple[type, ...]
    required: bool
    default: Value
    item: type = float
    """Type of the items of a list."""

    def check(self, value: Any) -> Value:
        """Return `value` as the type that the function takes.

        Raises:
            ConfigError: the value is of another type.
        """
        if value is None and type(None) in self.kinds:
            return None
        if tuple in self.kinds and hasattr(value, "tolist"):  # an array, or a tensor
            value = value.tolist()
        if isinstance(value, list | tuple) and tuple in self.kinds:
            expected = f"a list of {'whole' if self.item is int else 'finite'} numbers"
            return tuple(self._cast(item, (self.item,), expected) for item in value)
        return self._cast(value, self.kinds, " or ".join(TYPE_NAMES[kind] for kind in self.kinds))

    def _cast(
        self, value: object, kinds: tuple[type, ...], expected: str
    ) -> bool | int | float | str:
        """Return `value` as one of `kinds`: 2.0 is an int, NaN is no float."""
        if type(value) in kinds and isinstance(value, bool | str):
            return value
        if float in kinds and is_number(value):
            return value
        if int in kinds and is_whole(value):
            return int(value)
        raise ConfigError(self.name, expected, brief(value))


@dataclass(frozen=True, slots=True)
class Entry(Generic[F]):
    """A registered function."""

    name: str
    function: F
    summary: str
    """The first paragraph of the docstring."""
    source: str
    models: str
    parameters: Mapping[str, Parameter]

    def bind(self, values: Mapping[str, Any]) -> Parameters:
        """Return `values` checked, sorted by name, and without those that equal a default.

        Raises:
            ConfigError: a parameter is unknown, missing or of another type.
        """
        for name in values:
            if name not in self.parameters:
                expected = f"one of {sorted(self.parameters)} for {self.name}"
                raise ConfigError("a parameter", expected, repr(name))
        for parameter in self.parameters.values():
            if parameter.required and parameter.name not in values:
                raise ConfigError(parameter.name, f"given for {self.name}", "none")
        checked = {name: self.parameters[name].check(value) for name, value in values.items()}
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
    arguments = inspect.signature(function).parameters.values()
    parameters = {
        argument.name: _parameter(argument, hints[argument.name])
        for argument in arguments
        if argument.kind is argument.KEYWORD_ONLY
    }
    summary = " ".join(inspect.cleandoc(function.__doc__ or "").split("\n\n", 1)[0].split())
    source, models = _docstring_part(function, "Source"), _docstring_part(function, "Models")
    return Entry(function.__name__, function, summary, source, models, MappingProxyType(parameters))


def _parameter(argument: inspect.Parameter, hint: Any) -> Parameter:
    kinds = get_args(hint) if type(None) in get_args(hint) else (hint,)
    required = argument.default is argument.empty
    return Parameter(
        argument.name,
        tuple(get_origin(kind) or kind for kind in kinds),
        required,
        None if required else argument.default,
        int if "tuple[int" in str(hint) else float,
    )


def _docstring_part(function: Callable[..., Any], key: str) -> str:
    """Return the text after `key:` in a docstring, up to the next key or empty line."""
    _, _, rest = inspect.cleandoc(function.__doc__ or "").partition(f"{key}: ")
    rest = rest.split("\n\n", 1)[0].split("\nModels: ", 1)[0]
    return " ".join(rest.split())
