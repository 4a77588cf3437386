"""What clients can rely on in the description of the API and in the metrics."""

import re
from typing import Any

_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? ")
_LABEL = re.compile(r'(\w+)="(?:[^"\\]|\\.)*"')


def shape_of_metrics(page: str) -> dict[str, Any]:
    """Return the type of each metric, and the names of the labels of each sample."""
    types: dict[str, str] = {}
    labels: dict[str, list[str]] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif not line.startswith("#"):
            name, inside = _SAMPLE.match(line).groups()
            labels[name] = sorted(_LABEL.findall(inside or ""))
    return {"types": types, "labels": labels}


def shape_of_openapi(document: dict[str, Any]) -> dict[str, Any]:
    """Return operations and schemas, without what is only read by people."""
    operations = {
        f"{method.upper()} {path}": _operation(operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }
    schemas = document.get("components", {}).get("schemas", {})
    return {
        "openapi": document["openapi"],
        "operations": operations,
        "schemas": {name: _schema(schema) for name, schema in schemas.items()},
    }


def _operation(operation: dict[str, Any]) -> dict[str, Any]:
    body = operation.get("requestBody", {})
    return {
        "operationId": operation.get("operationId"),
        "tags": operation.get("tags", []),
        "parameters": [
            [item.get("in"), item.get("name"), item.get("required", False), item.get("$ref")]
            for item in operation.get("parameters", [])
        ],
        "request": {"required": body.get("required", False), **_media_types(body)},
        "responses": {
            status: {"headers": sorted(response.get("headers", {})), **_media_types(response)}
            for status, response in operation.get("responses", {}).items()
        },
    }


def _media_types(part: dict[str, Any]) -> dict[str, Any]:
    """Return the media types of a body, each with the name of its schema, if it has one."""
    return {
        "content": {
            media_type: content.get("schema", {}).get("$ref")
            for media_type, content in part.get("content", {}).items()
        },
        "ref": part.get("$ref"),
    }


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {
        "type": schema.get("type"),
        "properties": sorted(properties),
        "required": sorted(schema.get("required", [])),
    }
