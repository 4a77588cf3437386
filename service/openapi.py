"""The OpenAPI description of `/v1`, made from the table of endpoints."""

from typing import Any

from pydantic.json_schema import models_json_schema

from service.endpoints import ENDPOINTS, Endpoint
from service.failures import RESPONSES
from service.local import list_variants
from service.params import OF_MODELS
from service.wire import CODECS
from service.wire import json as json_codec
from service.wire.message import DTYPES, MAX_RANK

_ONE_HEAD = [[[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]]
_CONFIG = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "rope_theta": 5e5}
_WIDE = [[[1.0] * 128], [[1.0] * 128]]
_IMAGE = {"image_grid_thw": [[1, 4, 4]], "token_types": [0, 1, 1, 1, 1, 0]}
EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "/v1/rotate": {
        "parameters": {"q": _ONE_HEAD, "positions": [0, 1], "rope": {"theta": 10000}},
        "variant": {"q": _ONE_HEAD, "rope": {"rope_type": "linear", "factor": 4}},
        "axes": {
            "q": _ONE_HEAD,
            "positions": [[0, 0], [0, 1]],
            "rope": {"axes": "axial", "axes_dim": [2, 2]},
        },
        "config": {"q": _ONE_HEAD, "rope": {"config": _CONFIG}},
        "preset": {"q": _WIDE, "rope": {"preset": "llama-3.1-8b", "arithmetic": "float64"}},
        "name": {"q": _WIDE, "rope": "llama-3.1-8b"},
    },
    "/v1/attention": {
        "parameters": {
            **dict.fromkeys("qkv", _ONE_HEAD),
            "sinks": [0.5],
            "mask": [[True, False], [True, True]],
            "return_lse": True,
        },
        "config": {**dict.fromkeys("qkv", _ONE_HEAD), "rope": {"config": _CONFIG}, "window": 1},
        "some of the keys": {
            **dict.fromkeys("qkv", _ONE_HEAD),
            "k_positions": [1, 5],
            "q_positions": [4, 5],
            "q_offset": 4,
            "k_offset": 1,
            "k_stride": 4,
            "return_lse": True,
            "out_dtype": "float32",
        },
        "no rotation": {**dict.fromkeys("qkv", _ONE_HEAD), "rope": None},
    },
    "/v1/cos_sin": {
        "parameters": {"positions": [0, 1, 2], "rope": {"head_dim": 4}},
        "preset": {"positions": [0, 1, 2], "rope": "llama-3.1-8b"},
    },
    "/v1/shift": {
        "by one": {"k": _ONE_HEAD, "delta": -1},
        "to other frequencies": {
            "k": _ONE_HEAD,
            "delta": 0,
            "positions": [0, 1],
            "to": {"rope_type": "linear", "factor": 2},
        },
    },
    "/v1/resolve": {
        "preset": {"rope": {"preset": "llama-3.1-8b"}},
        "config": {"rope": {"config": _CONFIG}},
        "layer": {"rope": {"preset": "smollm3-3b", "layer": 3}},
    },
    "/v1/positions": {
        "grid": {"builder": "grid_positions", "arguments": {"sizes": [2, 3]}},
        "images": {"builder": "mrope_index", "arguments": {"family": "qwen2_vl"}, **_IMAGE},
    },
    "/v1/merge": {"two halves": {"out": [[[1.0, 2.0]], [[3.0, 4.0]]], "lse": [[0.0], [0.0]]}},
}

_TENSOR: dict[str, Any] = {
    "title": "Tensor",
    "oneOf": [
        {"type": "array", "items": {}, "description": "Nested lists of numbers or booleans."},
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
                {"type": "array", "items": {"type": ["number", "boolean"]}},
                {"type": "string", "contentEncoding": "base64"},
            ],
            "description": "Elements in row-major order, or their little-endian bytes in base64.",
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


_TEXT: dict[str, Any] = {"type": "string"}
_TEXTS: dict[str, Any] = {"type": "array", "items": _TEXT}
_OBJECT: dict[str, Any] = {"type": "object"}
_NUMBER: dict[str, Any] = {"type": "number"}
_WARNINGS = _TEXTS | {"description": "What the caller should know; absent where there is nothing."}
_TOLD: dict[str, dict[str, Any]] = {
    "/v1/cos_sin": {"attention_scaling": _NUMBER | {"description": "In cos and sin already."}},
    "/v1/resolve": {
        "rotates": {"type": "boolean"},
        "nope": {"type": ["string", "null"], "description": "Why the layer does not rotate."},
        "model_type": _TEXT,
        "layer_type": {"type": ["string", "null"]},
        "parameters": _OBJECT | {"description": "As transformers 5 spells them, complete."},
        "provenance": {
            "type": "object",
            "additionalProperties": {"enum": ["given", "class default", "default", "derived"]},
        },
        "attention": {"$ref": "#/components/schemas/Attention"},
        "layers": {"type": "array", "items": _OBJECT, "description": "All layers, by type."},
        "keys_read": _TEXTS,
        "keys_ignored": _TEXTS,
        "rope": _OBJECT | {"description": "The library's value: what rotates."},
        "attention_scaling": _NUMBER,
        "num_axes": {"type": "integer", "description": "Numbers that make up a position."},
        "softmax_scale": _NUMBER,
    },
}
"""What answers tell beside tensors and warnings."""

_NAMED: dict[str, Any] = {
    "type": "object",
    "properties": {"name": _TEXT, "summary": _TEXT, "source": _TEXT, "models": {}},
}
_CATALOGUE: dict[str, dict[str, Any]] = {
    "/v1/presets": {
        "presets": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "config", "source"],
                "properties": {"name": _TEXT, "config": _OBJECT, "source": _TEXT},
            },
        }
    },
    "/v1/variants": {
        **{
            kind: {
                "type": "array",
                "items": _NAMED
                | {"properties": _NAMED["properties"] | {"parameters": {"type": "array"}}},
            }
            for kind in ("variants", "schemes", "builders")
        },
        "largest_error_of_cos": {
            "type": "object",
            "description": "By arithmetic, then by position, for the frequencies of Llama 3.",
            "additionalProperties": {"type": "object", "additionalProperties": _NUMBER},
        },
    },
}
"""What the routes without a body answer."""


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add the routes of `/v1` to an OpenAPI document, and return it."""
    _, definitions = models_json_schema(
        [(endpoint.params, "validation") for endpoint in ENDPOINTS],
        ref_template="#/components/schemas/{model}",
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= definitions["$defs"]
    schemas |= {"Tensor": _TENSOR, "FlatTensor": _FLAT_TENSOR, "Problem": _PROBLEM}
    schemas["Rope"]["properties"] |= _own_parameters()
    schemas["Rope"]["additionalProperties"] = False
    of_attention = schemas["AttentionParams"]["properties"]
    of_models = {name: each for name, each in of_attention.items() if name in OF_MODELS}
    schemas["Attention"] = {"type": "object", "properties": of_models}
    for endpoint in ENDPOINTS:
        params = schemas[endpoint.params.__name__]
        document["paths"][endpoint.path] = {"post": _operation(endpoint, params)}
    for path, properties in _CATALOGUE.items():
        answer = document["paths"][path]["get"]["responses"]["200"]["content"]
        answer["application/json"]["schema"] = {"type": "object", "properties": properties}
    return document


def _own_parameters() -> dict[str, Any]:
    """Return the parameters of all variants and schemes, each with those it belongs to."""
    known = list_variants()
    found: dict[str, tuple[set[str], list[str]]] = {}
    for entry in (*known["variants"], *known["schemes"]):
        for parameter in entry["parameters"]:
            kinds, owners = found.setdefault(parameter["name"], (set(), []))
            kinds |= set(parameter["type"].split(" or "))
            owners.append(entry["name"])
    return {
        name: {"type": sorted(kinds), "description": f"Of {', '.join(owners)}."}
        for name, (kinds, owners) in sorted(found.items())
    }


def _operation(endpoint: Endpoint[Any], params: dict[str, Any]) -> dict[str, Any]:
    tensor = {"$ref": "#/components/schemas/Tensor"}
    body: dict[str, Any] = {
        "type": "object",
        "title": f"{endpoint.params.__name__.removesuffix('Params')}Request",
        "required": [*endpoint.required, *params.get("required", [])],
        "properties": {
            **dict.fromkeys((*endpoint.required, *endpoint.optional), tensor),
            **params.get("properties", {}),
        },
        "additionalProperties": False,
    }
    if "delta" in endpoint.required:
        body["properties"]["delta"] = {"anyOf": [tensor, {"type": "integer"}]}
    flat = {"$ref": "#/components/schemas/FlatTensor"}
    answer: dict[str, Any] = {
        "type": "object",
        "properties": {
            **dict.fromkeys(endpoint.answers, flat),
            **_TOLD.get(endpoint.path, {}),
            "warnings": _WARNINGS,
        },
    }
    if endpoint.aside:  # builders have names of their own for what they make
        answer["additionalProperties"] = flat
    statuses = sorted({status.value for _, status, _ in RESPONSES})
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        "operationId": endpoint.path.rpartition("/")[2],
        "summary": endpoint.summary,
        "parameters": [
            _header("X-Request-Id", {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}),
            _header("X-Request-Timeout-Ms", {"type": "integer", "minimum": 1}),
        ],
        "requestBody": {"required": True, "content": _content(body, EXAMPLES[endpoint.path])},
        "responses": {
            "200": {"description": "The answer", "content": _content(answer, None)},
            **{str(s): {"description": "A problem", "content": problem} for s in statuses},
        },
    }


def _content(schema: dict[str, Any], examples: dict[str, Any] | None) -> dict[str, Any]:
    as_json: dict[str, Any] = {"schema": schema}
    if examples is not None:
        as_json["examples"] = {name: {"value": value} for name, value in examples.items()}
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
