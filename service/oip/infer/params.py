"""Parameters of the protocol, one by one or in JSON text, as those of the endpoints."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from rope_core import SCHEMES, VARIANTS, ConfigError
from service.endpoints.rope_resolver import FORMS
from service.errors import BadMessage, UnknownName, printable
from service.oip import validate
from service.wire import Parameters

OTHER_NAMES = {"lse": "return_lse", "base": "theta"}

FINAL = "triton_enable_empty_final_response"

OF_ROPE = frozenset(
    [name for form in FORMS.values() for name in form.model_fields]
    + [name for each in (*VARIANTS.values(), *SCHEMES.values()) for name in each.parameters]
)
"""Parameters that the endpoints have within `rope`."""


@dataclass(frozen=True, slots=True)
class Control:
    """Parameters that say how to answer, and not what."""

    binary_data_output: bool = False
    timeout_us: int = 0
    """Longest time in the queue; 0 is no limit."""

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> "Control":
        """Return what parameters say of it; those that clients and proxies add have no effect.

        Raises:
            BadMessage: one has a value of a wrong kind.
        """
        for name in ("sequence_start", "sequence_end", FINAL):
            validate.boolean(f"parameter {name}", params.get(name, False))
        validate.natural("parameter priority", params.get("priority", 0))
        if not isinstance(params.get("sequence_id"), str):
            validate.natural("parameter sequence_id", params.get("sequence_id", 0))
        return cls(
            validate.boolean(
                "parameter binary_data_output", params.get("binary_data_output", False)
            ),
            validate.natural("parameter timeout", params.get("timeout", 0)),
        )


NOT_FOR_MODELS = frozenset(
    (
        *("priority", "timeout", "sequence_id", "sequence_start", "sequence_end"),
        *("binary_data_output", "content_type", "headers", FINAL),
    )
)
"""Those, and what proxies add."""


def translate(given: Mapping[str, Any], known: type[BaseModel]) -> Parameters:
    """Return the parameters of an endpoint.

    Raises:
        BadMessage: a value is not of a kind that the protocol has.
        UnknownName: the model has no such parameter.
        ConfigError: `rope` is not what it may be.
    """
    own: dict[str, Any] = {}
    of_rope: dict[str, Any] = {}
    for name, value in given.items():
        if name in NOT_FOR_MODELS:
            continue
        if not isinstance(value, str | bool | int | float):
            raise BadMessage(f"parameter {printable(name)} must be text, a boolean or a number")
        if isinstance(value, float) and not math.isfinite(value):
            raise BadMessage(f"parameter {printable(name)} must be finite, got {value}")
        called = OTHER_NAMES.get(name, name)
        if called in own or called in of_rope:
            raise BadMessage(f"parameter {called} is given twice")
        if called in known.model_fields:
            own[called] = _read(called, value)
        elif called in OF_ROPE and "rope" in known.model_fields:
            of_rope[called] = _read(called, value)
        else:
            legal = {*known.model_fields, *OTHER_NAMES} | OF_ROPE
            raise UnknownName("parameter", name, sorted(legal))
    if of_rope:
        own["rope"] = _within(own.get("rope", {}), of_rope)
    try:
        return Parameters(own, orjson.dumps(own))
    except orjson.JSONEncodeError as broken:  # nested too deep, or a number of too many digits
        raise BadMessage(f"parameters: {broken}") from None


_JSON = frozenset('{["')


def _read(name: str, value: str | float) -> Any:
    """Return what a text stands for: JSON, where it begins as an object, list or text, or null."""
    if not isinstance(value, str) or not (value.lstrip()[:1] in _JSON or value == "null"):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as broken:
        raise ConfigError(name, "JSON", str(broken)) from None


def _within(rope: Any, more: dict[str, Any]) -> dict[str, Any]:
    if rope is None:
        raise ConfigError("rope", f"not null beside {min(more)}", "null")
    given = rope if isinstance(rope, dict) else {"preset": rope}
    if twice := sorted(given.keys() & more.keys()):
        raise BadMessage(f"parameter {twice[0]} is given twice, within rope, too")
    return given | more
