"""Check the types of the values of a request."""

from types import NoneType
from typing import TypeVar

from service.errors import BadMessage, printable

T = TypeVar("T")

_TYPE_NAMES = {
    dict: "an object",
    list: "a list",
    str: "text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    NoneType: "null",
}

MAX_NATURAL = 2**64 - 1

MAX_NAME_LENGTH = 256
"""Most characters of a request's text that its answer repeats."""


def instance(what: str, value: object, expected: type[T]) -> T:
    """Return `value` if it is exactly of the type `expected`: a dict, list, str or bool.

    Raises:
        BadMessage: it is of another type.
    """
    if type(value) is expected and isinstance(value, expected):
        return value
    raise BadMessage(f"{printable(what)} must be {_TYPE_NAMES[expected]}, got {type_name(value)}")


def type_name(value: object) -> str:
    """Return what JSON calls the type of a value."""
    return _TYPE_NAMES.get(type(value), type(value).__name__)


def name(what: str, text: str) -> str:
    """Return a name that the client chose and the answer repeats, if it is short enough.

    Raises:
        BadMessage: it has too many characters.
    """
    if len(text) <= MAX_NAME_LENGTH:
        return text
    raise BadMessage(f"{what} may have at most {MAX_NAME_LENGTH} characters, got {len(text):,}")


def natural(what: str, value: object) -> int:
    """Return `value` if it is a natural number of 64 bits.

    Raises:
        BadMessage: it is another number, or no number.
    """
    if type(value) is int and 0 <= value <= MAX_NATURAL:
        return value
    expected = "a natural number of 64 bits"
    raise BadMessage(f"{printable(what)} must be {expected}, got {printable(value)}")
