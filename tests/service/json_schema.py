"""Check values against the schemas of an OpenAPI document: a part of JSON Schema."""

from collections.abc import Iterator
from typing import Any

TYPES = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def schema_errors(
    document: dict[str, Any], schema: dict[str, Any], value: Any, path: str = ""
) -> list[str]:
    """Return how a value differs from a schema; a key without a schema is an error."""
    return list(_errors(document["components"]["schemas"], schema, value, path))


def _errors(schemas: Any, schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            errors = [list(_errors(schemas, option, value, path)) for option in schema[key]]
            num_matches = errors.count([])
            if not num_matches or (key == "oneOf" and num_matches > 1):
                yield f"{path}: {num_matches} options of {key} match: {errors}"
    types = schema.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(_is(name, value) for name in types):
        yield f"{path}: {value!r} is not of {types}"
        return
    if value not in schema.get("enum", [value]) or value != schema.get("const", value):
        yield f"{path}: {value!r} is not in the enum"
    if isinstance(value, int | float):
        low, high = schema.get("minimum", value), schema.get("maximum", value)
        if not low <= value <= high:
            yield f"{path}: {value} is not in {low} to {high}"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path}: has {len(value)} items"
        for index, item in enumerate(value):
            yield from _errors(schemas, schema.get("items", {}), item, f"{path}[{index}]")
    if isinstance(value, dict):
        yield from _object_errors(schemas, schema, value, path)


def _object_errors(
    schemas: Any, schema: dict[str, Any], value: dict[str, Any], path: str
) -> Iterator[str]:
    for name in schema.get("required", []):
        if name not in value:
            yield f"{path}: {name} is missing"
    properties = schema.get("properties", {})
    additional = schema.get("additionalProperties", not properties)
    for name, member in value.items():
        if name in properties:
            yield from _errors(schemas, properties[name], member, f"{path}.{name}")
        elif isinstance(additional, dict):
            yield from _errors(schemas, additional, member, f"{path}.{name}")
        elif not additional:
            yield f"{path}: {name} is not described"


def _is(name: str, value: Any) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))
