"""Schemas of what is no parameter: tensors, problems, and what routes tell."""

from typing import Any

from service.asgi.problems import RESPONSES
from service.lifecycle import Phase
from service.wire.elements import DTYPES, MAX_RANK


def ref(name: str) -> dict[str, Any]:
    """Return what refers to a schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of an object that has all of `properties`."""
    return {"type": "object", "required": [*properties], "properties": properties}


def _list_of(properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {"type": "array", "items": record(properties)}


TENSOR: dict[str, Any] = {
    "title": "Tensor",
    "oneOf": [
        {"type": "array", "items": {}, "description": "Nested lists of numbers or booleans."},
        ref("FlatTensor"),
    ],
}
FLAT_TENSOR: dict[str, Any] = {
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
PROBLEM: dict[str, Any] = {
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


TEXT: dict[str, Any] = {"type": "string"}
TEXTS: dict[str, Any] = {"type": "array", "items": TEXT}
_OBJECT: dict[str, Any] = {"type": "object"}
NUMBER: dict[str, Any] = {"type": "number"}
WARNINGS = TEXTS | {"description": "What the caller should know; absent where there is nothing."}
TOLD: dict[str, dict[str, Any]] = {
    "/v1/cos_sin": {
        "attention_scaling": NUMBER | {"description": "In cos and sin already."},
        "scale": ref("FlatTensor"),
    },
    "/v1/resolve": {
        "rotates": {"type": "boolean"},
        "nope": {"type": ["string", "null"], "description": "Why the layer does not rotate."},
        "model_type": TEXT,
        "layer_type": {"type": ["string", "null"]},
        "parameters": _OBJECT | {"description": "As transformers 5 spells them, complete."},
        "provenance": {
            "type": "object",
            "additionalProperties": {"enum": ["given", "class default", "default", "derived"]},
        },
        "attention": ref("Attention"),
        "layers": {"type": "array", "items": _OBJECT, "description": "All layers, by type."},
        "keys_read": TEXTS,
        "keys_ignored": TEXTS,
        "rope": _OBJECT | {"description": "The library's value: what rotates."},
        "attention_scaling": NUMBER,
        "num_axes": {"type": "integer", "description": "Numbers that make up a position."},
        "softmax_scale": NUMBER,
    },
}
"""What answers tell beside the tensors that each has, and warnings."""

_ARGUMENT: dict[str, Any] = {
    "type": "object",
    "required": ["name", "type", "required", "default"],
    "properties": {
        "name": TEXT,
        "type": TEXT | {"description": "Kinds of JSON, or a tensor; joined by or."},
        "required": {"type": "boolean"},
        "default": {},
    },
}
_ARGUMENTS: dict[str, Any] = {"type": "array", "items": _ARGUMENT}
_VARIANT: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("name", "summary", "source", "models"), TEXT),
    "parameters": _ARGUMENTS,
}
_BUILDER: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("name", "summary"), TEXT),
    "models": TEXTS,
    "arguments": _ARGUMENTS,
}
_PRESET: dict[str, dict[str, Any]] = {"name": TEXT, "config": _OBJECT, "source": TEXT}
ANSWERS: dict[str, dict[str, Any]] = {
    "/healthz": record({"status": TEXT}),
    "/readyz": record({"status": TEXT | {"enum": [phase.value for phase in Phase]}}),
    "/version": record(dict.fromkeys(("version", "torch", "python", "device"), TEXT)),
    "/v1/presets": record({"presets": _list_of(_PRESET)}),
    "/v1/variants": record(
        {
            "variants": _list_of(_VARIANT),
            "schemes": _list_of(_VARIANT),
            "builders": _list_of(_BUILDER),
            "largest_error_of_cos": {
                "type": "object",
                "description": "By arithmetic, then by position, for the frequencies of Llama 3.",
                "additionalProperties": {"type": "object", "additionalProperties": NUMBER},
            },
        }
    ),
}
"""What the routes without a body answer."""
