"""Parameters of a request outside of its body: in the query, and in the header X-Rope-Params.

A query has `name=value` pairs; `rope.theta=500000` is a member of the object `rope`. A value is
JSON, or text if it is not JSON or if the parameter is a text.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from rope_core import ConfigError
from service.endpoints.rope_params import FORMS, ROPE_PARAMS, ROPES
from service.endpoints.table import MAX_PARAMS_BYTES, Endpoint, check_depth
from service.errors import BadHeader, BadMessage, BadQuery, UnknownName, printable
from service.wire import Parameters, config_json, params_key

HEADER = b"x-rope-params"

_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class HttpParam(NamedTuple):
    """A parameter that is not in the body."""

    place: str
    name: str
    """The name of a parameter, or `rope.` and the name of a member."""
    value: Any


def read_http_params(
    query: bytes, headers: Mapping[bytes, bytes], endpoint: Endpoint[Any]
) -> list[HttpParam]:
    """Return the parameters in the query and in the header of a request.

    Raises:
        BadQuery, BadHeader: one of them cannot be read, or the query has a name twice.
        UnknownName: the endpoint has no such parameter.
        ConfigError: a rope in the query begins as JSON and is not JSON.
    """
    params = [*_read_query(query, endpoint)] if query else []
    text = headers.get(HEADER)
    if text is not None:
        params += _read_header(text, endpoint)
    return params


def merge_params(
    in_body: Parameters, params: list[HttpParam], endpoint: Endpoint[Any]
) -> Parameters:
    """Return the parameters of a body together with others.

    Raises:
        UnknownName: the endpoint has no parameter of a name in the body.
        TooLarge: the parameters of the body are too long.
        ConfigError: a parameter has different values in two places.
        BadMessage: values are nested too deep.
    """
    if len(in_body.key) > MAX_PARAMS_BYTES:
        raise endpoint.too_long(in_body)
    for name in in_body.values:
        _check_name(name, endpoint, has_members=False)
    every = [*(HttpParam("the body", *item) for item in in_body.values.items()), *params]
    for param in every:
        check_depth({param.name: param.value})
    first: dict[str, HttpParam] = {}
    for param in (member for each in every for member in _members(each)):
        other = first.setdefault(param.name, param)
        if not _is_equal(other.value, param.value):
            where = f"{_shown(other.value)} in {other.place} and {_shown(param.value)} in"
            expected = "given once, or with equal values"
            raise ConfigError(param.name, expected, f"{where} {param.place}")
    values: dict[str, Any] = {}
    for name, param in first.items():
        rope, dot, member = name.partition(".")
        if not dot:
            values[name] = param.value
        elif isinstance(members := values.setdefault(rope, {}), dict):
            members[member] = param.value
        else:
            raise ConfigError(
                rope, f"an object or the name of a preset if {name} is given", members
            )
    for name in ROPES:
        given = [param for param in every if param.name.partition(".")[0] == name]
        nulls = [param for param in given if param.value is None and param.name == name]
        if nulls and len(nulls) < len(given):
            expected = "null in all places, or in none"
            raise ConfigError(name, expected, f"null in {nulls[0].place}, and another value")
        if any(isinstance(param.value, Mapping) for param in given):
            values.setdefault(name, {})
    try:
        return Parameters(values, params_key(values))
    except orjson.JSONEncodeError:
        raise BadMessage("parameters are nested too deep") from None


def _read_query(query: bytes, endpoint: Endpoint[Any]) -> Iterator[HttpParam]:
    if _BROKEN_ESCAPE.search(query):
        raise BadQuery("% in the query must be followed by two hexadecimal digits")
    try:
        pairs = parse_qsl(
            query.decode(), keep_blank_values=True, strict_parsing=True, errors="strict"
        )
    except ValueError:  # also of UTF-8
        expected = "name=value pairs in UTF-8, percent-encoded and joined by &"
        raise BadQuery(f"the query must be {expected}") from None
    names = set()
    for name, text in pairs:
        if name in names:
            raise BadQuery(f"the query has {printable(name)} twice")
        names.add(name)
        _check_name(name, endpoint, has_members=True)
        yield HttpParam("the query", name, _parse_text(endpoint.params, name, text))


def _read_header(text: bytes, endpoint: Endpoint[Any]) -> Iterator[HttpParam]:
    try:
        values = config_json.loads(text, config_json.IN_PARAMS)
    except orjson.JSONDecodeError as error:
        raise BadHeader(f"X-Rope-Params is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        shown = printable(text.decode("latin-1"))
        raise BadHeader(f"X-Rope-Params must be a JSON object, got {shown}")
    for name, value in values.items():
        _check_name(name, endpoint, has_members=False)
        yield HttpParam("X-Rope-Params", name, value)


def _check_name(name: str, endpoint: Endpoint[Any], has_members: bool) -> None:
    """Check that an endpoint has a parameter, or a rope of which it may be a member.

    Raises:
        UnknownName: it does not.
    """
    names = endpoint.params.model_fields
    rope, dot, member = name.partition(".")
    if name in names or (has_members and member and rope in ROPES and rope in names):
        return
    hint = ""
    if name in ROPE_PARAMS and "rope" in names:
        hint = f"did you mean rope.{name}?" if has_members else f'did you mean {name} in "rope"?'
    elif name in endpoint.names:
        hint = "it is a tensor: send it in the body"
    elif dot and rope in ROPES and rope in names:
        hint = f'write {{"{rope}": {{"{printable(member)}": ...}}}}'
    raise UnknownName("parameter", name, [*names], hint)


def _parse_text(params: type[BaseModel], name: str, text: str) -> Any:
    """Return the value of a parameter in a query."""
    rope, dot, member = name.partition(".")
    is_rope = not dot and rope in ROPES
    models = tuple(FORMS.values()) if dot else (params,)
    is_plain = text != "null" and not text.startswith(("{", '"'))
    if is_plain and (is_rope or any(_takes_text(m, member or name, text) for m in models)):
        return text
    try:
        if member == "config":
            return config_json.loads_config(text)
        return config_json.loads(text, config_json.IN_ROPE if is_rope else ())
    except orjson.JSONDecodeError as error:
        if is_rope:
            expected = "the name of a preset or a JSON object"
            raise ConfigError(name, expected, f"invalid JSON: {error}") from None
        return text


def _takes_text(model: type[BaseModel], name: str, text: str) -> bool:
    """Tell whether a text is a valid value of a parameter."""
    if name not in model.model_fields:
        return False
    try:
        _adapter(model, name).validate_python(text, strict=True)
    except ValidationError:
        return False
    return True


@lru_cache(maxsize=128)
def _adapter(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    annotation: Any = model.model_fields[name].annotation
    return TypeAdapter(annotation)


def _members(param: HttpParam) -> Iterator[HttpParam]:
    """Yield the members of a rope, each as a parameter; the name of a preset is a member."""
    place, name, value = param
    if name not in ROPES or not isinstance(value, Mapping | str):
        yield param
        return
    for member, each in ({"preset": value} if isinstance(value, str) else value).items():
        yield HttpParam(place, f"{name}.{member}", each)


def _is_equal(a: Any, b: Any) -> bool:
    """Tell whether two values of JSON are equal: 1 is 1.0, but not true."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _shown(value: Any) -> str:
    return printable(repr(value) if isinstance(value, str) else json.dumps(value))
