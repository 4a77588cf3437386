"""Check the types of the values of a request."""

from typing import Any, TypeVar

from service.errors import BadMessage, printable

T = TypeVar("T")

_TYPE_NAMES = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}

MAX_NATURAL = 2**64 - 1


def mapping(what: str, value: object) -> dict[str, Any]:
    """Return `value` if it is a JSON object.

    Raises:
        BadMessage: it is of another type. So do all functions of this file.
    """
    return _check_type(what, value, dict)


def sequence(what: str, value: object) -> list[Any]:
    """Return `value` if it is a JSON list."""
    return _check_type(what, value, list)


def text(what: str, value: object) -> str:
    """Return `value` if it is text."""
    return _check_type(what, value, str)


def boolean(what: str, value: object) -> bool:
    """Return `value` if it is a boolean."""
    return _check_type(what, value, bool)


def natural(what: str, value: object) -> int:
    """Return `value` if it is a natural number of 64 bits."""
    if type(value) is int and 0 <= value <= MAX_NATURAL:
        return value
    expected = "a natural number of 64 bits"
    raise BadMessage(f"{printable(what)} must be {expected}, got {printable(value)}")


def _check_type(what: str, value: object, expected: type[T]) -> T:
    if type(value) is expected and isinstance(value, expected):
        return value
    got = type(value).__name__
    raise BadMessage(f"{printable(what)} must be {_TYPE_NAMES[expected]}, got {got}")
