"""Whether a value is as a schema of the description says: enough of JSON Schema for that."""

from collections.abc import Iterator
from typing import Any

KINDS = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def faults(document: dict[str, Any], schema: dict[str, Any], value: Any, at: str = "") -> list[str]:
    """Return what is not as described; what is not described at all is a fault, too."""
    return list(_faults(document["components"]["schemas"], schema, value, at))


def _faults(schemas: Any, schema: dict[str, Any], value: Any, at: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            each = [list(_faults(schemas, one, value, at)) for one in schema[key]]
            fitting = each.count([])
            if not fitting or (key == "oneOf" and fitting > 1):
                yield f"{at}: {fitting} of {key} fit: {each}"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(kind, value) for kind in kinds):
        yield f"{at}: {value!r} is not of {kinds}"
        return
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{at}: {value!r} is not one of those"
    if isinstance(value, int | float):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        if not low <= value <= high:
            yield f"{at}: {value} is not in {low} to {high}"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{at}: has {len(value)} items"
        for index, item in enumerate(value):
            yield from _faults(schemas, schema.get("items", {}), item, f"{at}[{index}]")
    if isinstance(value, dict):
        yield from _faults_of_object(schemas, schema, value, at)


def _faults_of_object(
    schemas: Any, schema: dict[str, Any], value: dict[str, Any], at: str
) -> Iterator[str]:
    for name in schema.get("required", []):
        if name not in value:
            yield f"{at}: {name} is missing"
    described = schema.get("properties", {})
    more = schema.get("additionalProperties", not described)
    for name, each in value.items():
        if name in described:
            yield from _faults(schemas, described[name], each, f"{at}.{name}")
        elif isinstance(more, dict):
            yield from _faults(schemas, more, each, f"{at}.{name}")
        elif not more:
            yield f"{at}: {name} is not described"


def _is(kind: str, value: Any) -> bool:
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))
