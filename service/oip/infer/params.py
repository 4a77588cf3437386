"""Parameters of a request of the protocol, as the parameters of an endpoint.

The protocol has flat parameters: text, booleans and numbers. What an endpoint has within `rope` is
written one by one, or as JSON in the text of `rope`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
from pydantic import BaseModel

from rope_core import ConfigError
from service.endpoints.rope_params import ROPE_PARAMS, ROPES
from service.endpoints.table import MAX_PARAMS_BYTES
from service.errors import BadMessage, TooLarge, UnknownName, printable
from service.oip import validate
from service.wire import Parameters, config_json, params_key

ALIASES = {"lse": "return_lse", "base": "theta"}
"""Other names of parameters of the endpoints."""

EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"

_SCALAR = (
    str | bool | int | float,
    "text (JSON text for a list or an object), a boolean or a number",
)
_ROPE_TEXT = str, "the name of a preset or JSON text, such as '{\"theta\": 500000.0}'"
"""What the value of a parameter, and of `rope`, must be: its types, and their description."""

REQUEST_PARAMS = frozenset(
    (
        *("priority", "timeout", "sequence_id", "sequence_start", "sequence_end"),
        *("binary_data_output", "content_type", "headers", EMPTY_FINAL_RESPONSE),
    )
)
"""Parameters of the protocol, and those that proxies add: models do not get them."""


def read_options(params: Mapping[str, Any]) -> tuple[bool, float | None]:
    """Return whether outputs are sent as bytes, and the longest wait for the device in seconds.

    None is no limit. Priorities have no effect; `read_sequence` reads the options of sequences.

    Raises:
        BadMessage: the value of an option has a wrong type.
    """
    for name in ("sequence_start", "sequence_end", EMPTY_FINAL_RESPONSE):
        validate.instance(f"parameter {name}", params.get(name, False), bool)
    validate.natural("parameter priority", params.get("priority", 0))
    if not isinstance(params.get("sequence_id"), str):
        validate.natural("parameter sequence_id", params.get("sequence_id", 0))
    binary = params.get("binary_data_output", False)
    validate.instance("parameter binary_data_output", binary, bool)
    timeout_us = validate.natural("parameter timeout", params.get("timeout", 0))
    return binary, timeout_us / 1e6 if timeout_us else None


def translate(params: Mapping[str, Any], endpoint_params: type[BaseModel]) -> Parameters:
    """Return the parameters of an endpoint.

    Args:
        params: of a request of the protocol.
        endpoint_params: the schema of the endpoint's parameters.

    Raises:
        BadMessage: the protocol has no parameters of such a type.
        UnknownName: the model has no such parameter.
        ConfigError: a text is not the JSON that it begins as, or `rope` is null next to others.
    """
    names = endpoint_params.model_fields
    values: dict[str, Any] = {}
    rope: dict[str, Any] = {}
    for raw_name, name, value in checked_params(params):
        if name in values or name in rope:
            raise BadMessage(f"parameter {name} is given twice")
        if name in names:
            values[name] = parse_text(name, value)
        elif name in ROPE_PARAMS and "rope" in names:
            rope[name] = parse_text(name, value)
        else:
            raise UnknownName("parameter", raw_name, sorted({*names, *ALIASES} | ROPE_PARAMS))
    if rope:
        values["rope"] = merge_rope(values.get("rope", {}), rope)
    return parameters_of(values)


def parameters_of(values: Mapping[str, Any]) -> Parameters:
    """Return parameters. Raises BadMessage if no key can be made of them."""
    try:
        return Parameters(values, params_key(values))
    except orjson.JSONEncodeError as error:  # nested too deep, or a number of too many digits
        raise BadMessage(f"parameters: {error}") from None


def checked_params(params: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the parameters of the model: name in the request, name in `/v1`, and value.

    Raises:
        BadMessage: the protocol has no parameters of such a type.
    """
    for raw_name, value in params.items():
        if raw_name in REQUEST_PARAMS:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            raise BadMessage(f"parameter {printable(raw_name)} must be finite, got {value}")
        types, expected = _ROPE_TEXT if raw_name == "rope" else _SCALAR
        if not isinstance(value, types):
            got = validate.type_name(value)
            raise BadMessage(f"parameter {printable(raw_name)} must be {expected}, got {got}")
        yield raw_name, ALIASES.get(raw_name, raw_name), value


def parse_text(name: str, value: str | float) -> Any:
    """Return a value, parsed where it is the text of a JSON object, list, string or null.

    Raises:
        ConfigError: a text begins as JSON and is not valid JSON.
        TooLarge: it has more characters than parameters may have bytes.
    """
    if not isinstance(value, str):
        return value
    start = value.removeprefix("\ufeff").lstrip()[:1]
    if not (start in set('{["') or value == "null"):
        return value
    if len(value) > MAX_PARAMS_BYTES:
        raise TooLarge(f"{name}, in characters,", MAX_PARAMS_BYTES, f"{len(value):,}")
    try:
        if name == "config":
            return config_json.loads_config(value)
        return config_json.loads(value, config_json.IN_ROPE if name in ROPES else ())
    except orjson.JSONDecodeError as error:
        raise ConfigError(name, "JSON", str(error)) from None


def merge_rope(rope: Any, others: dict[str, Any]) -> dict[str, Any]:
    """Return `rope`, an object or the name of a preset, together with other parameters."""
    if rope is None:
        raise ConfigError("rope", f"not null if {min(others)} is given", "null")
    base = rope if isinstance(rope, dict) else {"preset": rope}
    if twice := sorted(base.keys() & others.keys()):
        raise BadMessage(f"parameter {twice[0]} is given twice: as a parameter and in rope")
    return base | others
