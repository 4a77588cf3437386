"""Read the parameters of an operation: plain values, checked one by one without a model.

A step has other parameters each time, so no cache helps, and a check must cost little.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rope_core import ConfigError
from service.errors import MissingTensor, UnknownName, printable
from service.wire import Message

TENSORS = frozenset(("q", "k", "v", "positions", "q_index", "tail_mask", "cu_seqlens"))
"""Tensors of session messages. In JSON every other member is a parameter, also a list."""

MAX_NUMBER = 2**62 - 1
"""Largest length, place or position."""

FIXED = frozenset(
    (
        *("groups", "heads", "kv_heads", "head_dim", "value_dim", "rope", "preset"),
        *("config", "attention", "causal", "window", "window_ahead", "chunk", "softcap", "scale"),
        *("sinks", "rollback", "dtype", "kv_dtype", "batch", "max_tokens", "rotate"),
        *("inverse", "tensor_layout", "theta", "q_offset", "k_offset"),
    )
)
"""Parameters of other routes that a session fixes when it is created."""

_MISSING: Any = object()


def check_names(
    message: Message,
    params: Collection[str],
    tensors: Collection[str] = (),
    required: Collection[str] = (),
) -> Mapping[str, Any]:
    """Return the parameters of a message, all of whose names are known.

    Args:
        message: of the operation.
        params: names of its parameters.
        tensors: names of the tensors it may have.
        required: names of the tensors it must have.

    Raises:
        UnknownName: it has another tensor or parameter.
        MissingTensor: it lacks a tensor.
    """
    for name in required:
        if name not in message.tensors:
            raise MissingTensor(name)
    for name in message.tensors:
        if name not in tensors:
            raise UnknownName("tensor", name, [*tensors], _tensor_hint(name, params))
    values = message.params.values
    for name in values:
        if name not in params:
            raise UnknownName("parameter", name, [*params], _parameter_hint(name, tensors))
    return values


def whole(
    values: Mapping[str, Any],
    name: str,
    default: Any = _MISSING,
    *,
    least: int = 0,
    most: int = MAX_NUMBER,
) -> Any:
    """Return a whole number; `default` if the parameter is missing or null.

    Raises:
        ConfigError: it is another value, or missing without a default.
    """
    value = values.get(name)
    if value is None and default is not _MISSING:
        return default
    if type(value) is not int or not least <= value <= most:
        raise ConfigError(name, _range(least, most), _shown(values, name))
    return value


def whole_or_list(
    values: Mapping[str, Any], name: str, default: Any = _MISSING, *, least: int = 0
) -> Any:
    """Return a whole number, or a list of them; `default` if it is missing or null."""
    value = values.get(name)
    if value is None and default is not _MISSING:
        return default
    if type(value) is int and least <= value <= MAX_NUMBER:
        return value
    if not isinstance(value, list):
        raise ConfigError(
            name, f"{_range(least, MAX_NUMBER)}, or a list of them", _shown(values, name)
        )
    return whole_list(values, name, least=least)


def whole_list(
    values: Mapping[str, Any], name: str, default: Any = _MISSING, *, least: int = 0
) -> Any:
    """Return a list of whole numbers; `default` if it is missing or null."""
    value = values.get(name)
    if value is None and default is not _MISSING:
        return default
    if not isinstance(value, list):
        raise ConfigError(name, "a list of whole numbers", _shown(values, name))
    for number in value:
        if type(number) is not int or not least <= number <= MAX_NUMBER:
            raise ConfigError(
                name, f"a list of numbers, each {_range(least, MAX_NUMBER)}", _brief(number)
            )
    return value


def flag(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """Return true or false."""
    value = values.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise ConfigError(name, "true or false", _shown(values, name))
    return value


def text(values: Mapping[str, Any], name: str, default: Any = _MISSING) -> Any:
    """Return a text; `default` if it is missing or null."""
    value = values.get(name)
    if value is None and default is not _MISSING:
        return default
    if type(value) is not str:
        raise ConfigError(name, "a text", _shown(values, name))
    return value


def rows_of(values: Mapping[str, Any]) -> list[int] | None:
    """Return the list `rows`, in which no row is twice; None if it is missing."""
    rows: list[int] | None = whole_list(values, "rows", None)
    if rows is not None and len(set(rows)) < len(rows):
        raise ConfigError("rows", "a list in which each row is once", _brief(rows))
    return rows


def check_rows_exist(rows: Sequence[int], batch: int, name: str = "rows") -> None:
    """Raise ConfigError if a session has no such row."""
    for row in rows:
        if row >= batch:
            raise ConfigError(name, f"below {batch}, the rows of the session", row)


def _range(least: int, most: int) -> str:
    if most >= MAX_NUMBER:
        return f"a whole number of at least {least}"
    return f"a whole number from {least} to {most}"


def _shown(values: Mapping[str, Any], name: str) -> str:
    return _brief(values[name]) if name in values else "none"


def _brief(value: object) -> str:
    names = {True: "true", False: "false", None: "null"}
    return names[value] if isinstance(value, bool | None) else printable(repr(value))


def _tensor_hint(name: str, params: Collection[str]) -> str:
    return "it is a parameter: send it in __metadata__.params" if name in params else ""


def _parameter_hint(name: str, tensors: Collection[str]) -> str:
    if name in FIXED:
        return "the session fixes it when it is created"
    return "it is a tensor" if name in tensors else ""
