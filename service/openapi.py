"""The OpenAPI description of `/v1`, made from the table of endpoints."""

from typing import Any

from pydantic.json_schema import models_json_schema

from service.endpoints import ENDPOINTS, Endpoint
from service.failures import RESPONSES
from service.wire import CODECS
from service.wire import json as json_codec
from service.wire.message import DTYPES, MAX_RANK

_ONE_HEAD = [[[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]]
_EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/rotate": {"q": _ONE_HEAD, "positions": [0, 1], "rope": {"theta": 10000}},
    "/v1/attention": {"q": _ONE_HEAD, "k": _ONE_HEAD, "v": _ONE_HEAD, "return_lse": True},
    "/v1/cos_sin": {"positions": [0, 1, 2], "rope": {"head_dim": 4}},
    "/v1/shift": {"k": _ONE_HEAD, "delta": -1},
    "/v1/merge": {"out": [[[1.0, 2.0]], [[3.0, 4.0]]], "lse": [[0.0], [0.0]]},
}

_TENSOR: dict[str, Any] = {
    "title": "Tensor",
    "oneOf": [
        {"type": "array", "items": {}, "description": "Nested lists of numbers."},
        {"$ref": "#/components/schemas/FlatTensor"},
    ],
}
_FLAT_TENSOR: dict[str, Any] = {
    "title": "FlatTensor",
    "type": "object",
    "required": ["shape", "dtype", "data"],
    "properties": {
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0},
            "maxItems": MAX_RANK,
        },
        "dtype": {"type": "string", "enum": list(DTYPES)},
        "data": {
            "oneOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "string", "contentEncoding": "base64"},
            ],
            "description": "Numbers in row-major order, or their little-endian bytes in base64.",
        },
        "encoding": {"type": "string", "enum": ["base64"]},
    },
    "additionalProperties": False,
}
_PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "error"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted({code for _, _, code in RESPONSES})},
        "detail": {"type": "string"},
        "error": {"type": "string"},
    },
}


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add the routes of `/v1` to an OpenAPI document, and return it."""
    _, definitions = models_json_schema(
        [(endpoint.params, "validation") for endpoint in ENDPOINTS],
        ref_template="#/components/schemas/{model}",
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= definitions["$defs"]
    schemas |= {"Tensor": _TENSOR, "FlatTensor": _FLAT_TENSOR, "Problem": _PROBLEM}
    for endpoint in ENDPOINTS:
        params = schemas[endpoint.params.__name__]
        document["paths"][endpoint.path] = {"post": _operation(endpoint, params)}
    return document


def _operation(endpoint: Endpoint[Any], params: dict[str, Any]) -> dict[str, Any]:
    tensor = {"$ref": "#/components/schemas/Tensor"}
    body: dict[str, Any] = {
        "type": "object",
        "title": f"{endpoint.params.__name__.removesuffix('Params')}Request",
        "required": list(endpoint.required),
        "properties": {
            **dict.fromkeys((*endpoint.required, *endpoint.optional), tensor),
            **params.get("properties", {}),
        },
        "additionalProperties": False,
    }
    if "delta" in endpoint.required:
        body["properties"]["delta"] = {"anyOf": [tensor, {"type": "integer"}]}
    answer = {
        "type": "object",
        "properties": {
            name: {"$ref": "#/components/schemas/FlatTensor"} for name in endpoint.answers
        },
    }
    statuses = sorted({status.value for _, status, _ in RESPONSES})
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "operationId": endpoint.path.rpartition("/")[2],
        "summary": endpoint.summary,
        "parameters": [
            _header("X-Request-Id", {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}),
            _header("X-Request-Timeout-Ms", {"type": "integer", "minimum": 1}),
        ],
        "requestBody": {"required": True, "content": _content(body, _EXAMPLES[endpoint.path])},
        "responses": {
            "200": {"description": "The answer", "content": _content(answer, None)},
            **{str(s): {"description": "A problem", "content": problem} for s in statuses},
        },
    }


def _content(schema: dict[str, Any], example: dict[str, Any] | None) -> dict[str, Any]:
    as_json = {"schema": schema} | ({} if example is None else {"example": example})
    binary = {
        "type": "string",
        "format": "binary",
        "description": "The same tensors; params of __metadata__ is the parameters' JSON text.",
    }
    return {
        codec.media_type: as_json if codec is json_codec else {"schema": binary} for codec in CODECS
    }


def _header(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "schema": schema}
