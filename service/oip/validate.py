"""Check the types of the values of a request."""

from typing import TypeVar

from service.errors import BadMessage, printable

T = TypeVar("T")

_TYPE_NAMES = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}

MAX_NATURAL = 2**64 - 1


def instance(what: str, value: object, expected: type[T]) -> T:
    """Return `value` if it is exactly of the type `expected`: a dict, list, str or bool.

    Raises:
        BadMessage: it is of another type.
    """
    if type(value) is expected and isinstance(value, expected):
        return value
    got = type(value).__name__
    raise BadMessage(f"{printable(what)} must be {_TYPE_NAMES[expected]}, got {got}")


def natural(what: str, value: object) -> int:
    """Return `value` if it is a natural number of 64 bits.

    Raises:
        BadMessage: it is another number, or no number.
    """
    if type(value) is int and 0 <= value <= MAX_NATURAL:
        return value
    expected = "a natural number of 64 bits"
    raise BadMessage(f"{printable(what)} must be {expected}, got {printable(value)}")
