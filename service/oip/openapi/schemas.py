"""Schemas of inference: what each model reads, and what all of them answer."""

from collections.abc import Mapping
from typing import Any

from service.oip.infer.models import Model, Slot
from service.oip.infer.params import ALIASES, EMPTY_FINAL_RESPONSE, REQUEST_PARAMS
from service.oip.infer.tensors import DATATYPES
from service.v1.schemas import ref
from service.wire.elements import MAX_RANK

Schema = dict[str, Any]

_NATURAL: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_NUMBERS = {"type": "array", "items": {}}
_SHAPE: Schema = {"type": "array", "items": _NATURAL, "maxItems": MAX_RANK}
_REGION: dict[str, Schema] = {
    "shared_memory_region": _TEXT | {"description": "Name of a registered region."},
    "shared_memory_offset": _NATURAL | {"description": "From its begin, in bytes."},
    "shared_memory_byte_size": _NATURAL,
}
_ROPE: Schema = {
    "type": "string",
    "description": "Name of a preset, or the JSON text of what rope is in `/v1`.",
}
_RETURN_LSE: Schema = {
    "type": "boolean",
    "description": "Answer lse, too, where the request lists no outputs. Default: true.",
}
_IGNORED: Schema = {"description": "Accepted, without effect."}
_CONTROL: dict[str, Schema] = {
    **dict.fromkeys(sorted(REQUEST_PARAMS), _IGNORED),
    **dict.fromkeys(
        ("sequence_start", "sequence_end", EMPTY_FINAL_RESPONSE), _IGNORED | {"type": "boolean"}
    ),
    "priority": _IGNORED | _NATURAL,
    "sequence_id": _IGNORED | {"anyOf": [_NATURAL, _TEXT]},
    "timeout": _NATURAL | {"description": "Longest wait for the device, in microseconds; 0: any."},
    "binary_data_output": {
        "type": "boolean",
        "description": "Answer all outputs in bytes that do not say otherwise.",
    },
}

COMMON: Mapping[str, Schema] = {
    "Datatype": {"type": "string", "enum": [*DATATYPES]},
    "TensorParameters": {
        "type": "object",
        "properties": {
            "binary_data_size": _NATURAL
            | {"description": "The tensor is this many bytes behind the JSON part."},
            **_REGION,
        },
    },
    "OutputParameters": {
        "type": "object",
        "properties": {
            "binary_data": {"type": "boolean", "description": "Answer it in bytes."},
            **_REGION,
        },
    },
    "InferOutput": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": _TEXT,
            "datatype": ref("Datatype"),
            "shape": _SHAPE,
            "data": {
                "type": "array",
                "items": {"type": "number"},
                "description": "In row-major order; absent where they are bytes or in a region. "
                "What is not finite is written NaN and Infinity, which is more than JSON has.",
            },
            "parameters": ref("TensorParameters"),
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": _TEXT | {"description": "That of the request; absent where it had none."},
            "model_name": _TEXT,
            "model_version": _TEXT,
            "parameters": {
                "type": "object",
                "properties": {
                    "warnings": _TEXT | {"description": "What the caller should know, by lines."},
                    "attention_scaling": {
                        "type": "number",
                        "description": "In cos and sin already.",
                    },
                },
            },
            "outputs": {"type": "array", "items": ref("InferOutput")},
        },
    },
}
"""Those that all models share."""


def title(model: Model) -> str:
    """Return what a model is called in names of schemas."""
    return "".join(part.title() for part in model.name.split("_"))


def schemas_of(model: Model, of_v1: Mapping[str, Schema]) -> dict[str, Schema]:
    """Return the schemas of a model's requests, by name.

    Args:
        model: whose.
        of_v1: schemas of `/v1`, which its parameters are from.
    """
    name = title(model)
    return {
        f"{name}InferRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": _TEXT | {"description": "Echoed by the answer."},
                "parameters": ref(f"{name}Parameters"),
                "inputs": {"type": "array", "minItems": 1, "items": ref(f"{name}Input")},
                "outputs": {
                    "type": "array",
                    "items": ref(f"{name}Output"),
                    "description": "Those to answer, in this order; all where it is empty.",
                },
            },
        },
        f"{name}Input": {
            "type": "object",
            "required": ["name", "datatype", "shape"],
            "properties": {
                "name": _name(model.inputs),
                "datatype": ref("Datatype"),
                "shape": _SHAPE,
                "data": _NUMBERS
                | {"description": "Numbers in row-major order, flat or nested; or booleans."},
                "parameters": ref("TensorParameters"),
            },
        },
        f"{name}Output": {
            "type": "object",
            "required": ["name"],
            "properties": {"name": _name(model.outputs), "parameters": ref("OutputParameters")},
        },
        f"{name}Parameters": {
            "type": "object",
            "properties": _parameters(model, of_v1),
            "additionalProperties": False,
        },
    }


def _name(slots: tuple[Slot, ...]) -> Schema:
    lines = [f"{each.name} ({'optional' if each.optional else 'needed'})" for each in slots]
    return {
        "type": "string",
        "enum": [each.name for each in slots],
        "description": f"{', '.join(lines)}.",
    }


def _parameters(model: Model, of_v1: Mapping[str, Schema]) -> dict[str, Schema]:
    params = model.endpoint.params
    own = of_v1[f"{params.__name__.removesuffix('Params')}Request"]["properties"]
    by_config = {**of_v1["PresetModel"]["properties"], **of_v1["Model"]["properties"]}
    given = {**by_config, **of_v1["Rope"]["properties"]}
    for name in by_config.keys() & of_v1["Rope"]["properties"].keys():
        text = f"{given[name]['description']} By a config or preset: "
        given[name] = given[name] | {"description": text + by_config[name]["description"]}
    given |= {name: own[name] for name in params.model_fields if name != "rope"}
    found = {name: _in_protocol(schema) for name, schema in given.items()}
    if "return_lse" in found:
        found["return_lse"] = _RETURN_LSE
    for alias, name in ALIASES.items():
        if name in found:
            found[alias] = found[name] | {"description": f"Another name of {name}."}
    return found | {"rope": _ROPE} | _CONTROL


def _in_protocol(schema: Schema) -> Schema:
    """Return a schema of `/v1` as that of a parameter here, which is no list, object or null."""
    kinds = schema.get("anyOf") or [schema | {"type": kind} for kind in _listed(schema["type"])]
    told = [_scalar(kind) for kind in kinds]
    text = {name: each for name, each in schema.items() if name == "description"}
    return (told[0] if len(told) == 1 else {"anyOf": told}) | text


def _listed(kinds: str | list[str]) -> list[str]:
    return [kinds] if isinstance(kinds, str) else kinds


def _scalar(schema: Schema) -> Schema:
    match schema["type"]:
        case "array" | "object":
            return {"type": "string", "contentMediaType": "application/json"}
        case "null":
            return {"type": "string", "const": "null"}
    kept = ("type", "enum", "const", "minimum", "maximum")
    return {name: each for name, each in schema.items() if name in kept}
