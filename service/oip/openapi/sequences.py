"""The OpenAPI description of model `rope_session`: its parameters, and an example."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt

from service.oip.infer.models import ROPE_SESSION
from service.oip.infer.params import ALIASES
from service.oip.infer.sequence_params import STEP_PARAMS
from service.oip.openapi.schemas import JsonSchema, ProtocolParameters

_MEMBERS = (
    *("PresetModel", "Model", "Rope", "SessionAttention"),
    *("ModelParams", "CompactParams", "GroupsParams"),
)
"""Schemas with the members of a configuration, of which the later ones win."""

_JSON = {"type": "string", "contentMediaType": "application/json"}

SUMMARY = "Step a sequence whose keys and values the service keeps"

DESCRIPTION = (
    "The tensors are those of `/v1/sessions/{id}/step`. The first request of a sequence has "
    "`sequence_start` and the parameters of `POST /v1/sessions`, the last one `sequence_end`. The "
    "model exists if the service has API keys or ROPE_SEQUENCE_IDS."
)

EXAMPLE: Mapping[str, Any] = {
    "inputs": [
        {"name": "q", "datatype": "FP32", "shape": [1, 1, 1, 4], "data": [1.0, 2.0, 3.0, 4.0]},
        {"name": "k", "datatype": "FP32", "shape": [1, 1, 1, 4], "data": [1.0, 0.0, 1.0, 0.0]},
        {"name": "v", "datatype": "FP32", "shape": [1, 1, 1, 4], "data": [0.0, 1.0, 2.0, 3.0]},
    ],
    "parameters": {
        "sequence_id": 7,
        "sequence_start": True,
        "heads": 1,
        "head_dim": 4,
        "theta": 10000.0,
    },
}


class SequenceParameters(ProtocolParameters):
    """Parameters of the protocol that the model reads in another way."""

    timeout: Annotated[NonNegativeInt, Field(description="Accepted, without effect.")]
    sequence_id: NonNegativeInt | Annotated[str, Field(max_length=128)]
    """Names the sequence within the tenant of the API key; neither 0 nor empty."""
    sequence_start: bool
    """Creates the session of the sequence, with the parameters of a configuration."""
    sequence_end: bool
    """Deletes the session when the request is answered."""


def parameters_schema(schemas: Mapping[str, JsonSchema]) -> JsonSchema:
    """Return the schema of the parameters of `rope_session`.

    Args:
        schemas: the components of `/v1`; its parameters become scalars or JSON text.
    """
    found: dict[str, JsonSchema] = {}
    for name in _MEMBERS:
        found |= schemas[name]["properties"]
    step = schemas["SessionStepRequest"]["properties"]
    found |= {name: step[name] for name in STEP_PARAMS}
    properties = {name: as_scalar(schema) for name, schema in found.items()}
    properties["return_lse"] = {
        "type": "boolean",
        "description": "Answer lse if the request lists no outputs. Default: true.",
    }
    for alias, name in ALIASES.items():
        properties[alias] = properties[name] | {"description": f"Another name of {name}."}
    rope = properties["rope"]
    properties |= SequenceParameters.model_json_schema()["properties"]
    return {
        "type": "object",
        "description": f"Parameters of model {ROPE_SESSION.name}: those of a configuration with "
        "`sequence_start`, and those of a step.",
        "properties": properties | {"rope": rope},
        "required": ["sequence_id"],
        "additionalProperties": False,
    }


def as_scalar(schema: JsonSchema) -> JsonSchema:
    """Return the schema of a parameter in this protocol: no list, object or null."""
    options: list[JsonSchema] = []
    for option in _scalars(schema):
        if option not in options:
            options.append(option)
    if {"type": "string"} in options:
        options = [option for option in options if option.get("type") != "string"]
        options.append({"type": "string"})
    text = {"description": schema["description"]}
    return (options[0] if len(options) == 1 else {"anyOf": options}) | text


def _scalars(schema: JsonSchema) -> Iterator[JsonSchema]:
    for part in ("anyOf", "oneOf"):
        if part in schema:
            for option in schema[part]:
                yield from _scalars(option)
            return
    if "$ref" in schema or schema["type"] in ("array", "object"):
        yield _JSON
    elif isinstance(schema["type"], list):
        for kind in schema["type"]:
            yield from _scalars({**schema, "type": kind})
    elif schema["type"] == "null":
        yield {"type": "string", "const": "null"}
    else:
        keys = ("type", "enum", "const", "minimum", "maximum")
        yield {key: schema[key] for key in keys if key in schema}
