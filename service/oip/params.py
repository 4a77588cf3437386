"""Parameters of the protocol, one by one or in JSON text, as those of the endpoints."""

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from rope_core import SCHEMES, VARIANTS, ConfigError
from service.errors import BadMessage, UnknownName, printable
from service.ropes import FORMS

IGNORED = frozenset(
    (
        *("priority", "timeout", "sequence_id", "sequence_start", "sequence_end"),
        *("binary_data_output", "content_type", "headers"),
    )
)
"""What clients and their proxies add, and what is read elsewhere."""

OTHER_NAMES = {"lse": "return_lse"}

OF_ROPE = frozenset(
    [name for form in FORMS.values() for name in form.model_fields]
    + [name for each in (*VARIANTS.values(), *SCHEMES.values()) for name in each.parameters]
)
"""Parameters that the endpoints have within `rope`."""


def translate(given: Mapping[str, Any], known: type[BaseModel]) -> bytes:
    """Return the JSON text of an endpoint's parameters.

    Raises:
        BadMessage: a value is not of a kind that the protocol has.
        UnknownName: the model has no such parameter.
        ConfigError: `rope` is not what it may be.
    """
    own: dict[str, Any] = {}
    of_rope: dict[str, Any] = {}
    for name, value in given.items():
        if name in IGNORED:
            continue
        if not isinstance(value, str | bool | int | float):
            raise BadMessage(f"parameter {printable(name)} must be text, a boolean or a number")
        called = OTHER_NAMES.get(name, name)
        if called in known.model_fields:
            own[called] = _read(called, value)
        elif called in OF_ROPE and "rope" in known.model_fields:
            of_rope[called] = _read(called, value)
        else:
            legal = {*known.model_fields, *OTHER_NAMES} | OF_ROPE
            raise UnknownName("parameter", name, sorted(legal))
    if of_rope:
        own["rope"] = _within(own.get("rope", {}), of_rope)
    return orjson.dumps(own)


def _read(name: str, value: str | float) -> Any:
    """Return what a text stands for: JSON, where it begins as an object or a list, or null."""
    if not isinstance(value, str) or not (value.lstrip()[:1] in ("{", "[") or value == "null"):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as broken:
        raise ConfigError(name, "JSON", str(broken)) from None


def _within(rope: Any, more: dict[str, Any]) -> dict[str, Any]:
    if rope is None:
        raise ConfigError("rope", f"not null beside {min(more)}", "null")
    return (rope if isinstance(rope, dict) else {"preset": rope}) | more
