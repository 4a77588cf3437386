"""Kinds of what a request has where, each with the line that says what came instead."""

from typing import Any, TypeVar

from service.errors import BadMessage, printable

K = TypeVar("K")

_CALLED = {dict: "an object", list: "a list", str: "text", bool: "a boolean"}

MAX_NATURAL = 2**64 - 1


def mapping(what: str, given: object) -> dict[str, Any]:
    """Return an object of JSON."""
    return _of_kind(what, given, dict)


def sequence(what: str, given: object) -> list[Any]:
    """Return a list of JSON."""
    return _of_kind(what, given, list)


def text(what: str, given: object) -> str:
    """Return a text."""
    return _of_kind(what, given, str)


def boolean(what: str, given: object) -> bool:
    """Return a boolean."""
    return _of_kind(what, given, bool)


def natural(what: str, given: object) -> int:
    """Return a number that is whole and not negative, of 64 bits."""
    if type(given) is int and 0 <= given <= MAX_NATURAL:
        return given
    expected = "a natural number of 64 bits"
    raise BadMessage(f"{printable(what)} must be {expected}, got {printable(given)}")


def _of_kind(what: str, given: object, kind: type[K]) -> K:
    if type(given) is kind and isinstance(given, kind):
        return given
    raise BadMessage(f"{printable(what)} must be {_CALLED[kind]}, got {type(given).__name__}")
