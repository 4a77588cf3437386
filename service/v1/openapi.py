"""The OpenAPI description of the routes of `/v1` that compute, made from the table of endpoints."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter, create_model

from service.asgi.problems import PROBLEMS, problem_for
from service.endpoints.catalog import list_variants
from service.endpoints.params import MODEL_PARAMS
from service.endpoints.rope_params import FORMS, ROPES
from service.endpoints.table import ENDPOINTS, Endpoint
from service.sessions.errors import SessionError
from service.v1.diagnosis_schemas import CompareAnswer, DiagnoseAnswer
from service.v1.error_examples import error_examples
from service.v1.schemas import (
    Answer,
    CosSinAnswer,
    FlatTensor,
    LengthAnswer,
    PositionsAnswer,
    Problem,
    ResolveAnswer,
    ShiftAnswer,
    Tensor,
)
from service.wire import CODECS, json_codec

EXAMPLES = json.loads((files(__package__) / "examples.json").read_text())
"""Example requests by path and name."""

DESCRIPTIONS = json.loads((files(__package__) / "descriptions.json").read_text())
"""Descriptions of `operations` by path; by name, of the `tensors` of requests, of `outputs`, and of
the `rope_parameters` of variants and schemes."""

ANSWERS: Mapping[str, type[Answer]] = {
    "/v1/rotate": LengthAnswer,
    "/v1/attention": LengthAnswer,
    "/v1/shift": ShiftAnswer,
    "/v1/cos_sin": CosSinAnswer,
    "/v1/resolve": ResolveAnswer,
    "/v1/positions": PositionsAnswer,
    "/v1/diagnose": DiagnoseAnswer,
    "/v1/compare": CompareAnswer,
}
"""Types of the answers that have more than tensors and warnings, by path."""

TAG = "rope"

REF_TEMPLATE = "#/components/schemas/{model}"


def ref(name: str) -> dict[str, Any]:
    """Return a reference to a schema of the components."""
    return {"$ref": REF_TEMPLATE.format(model=name)}


def json_content(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a JSON body."""
    return {"application/json": {"schema": schema}}


def header(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    """Return the description of an optional header."""
    text = {"description": description}
    return {"name": name, "in": "header", "required": False, "schema": schema} | text


PARAMS_HEADER = header(
    "X-Rope-Params",
    {"type": "string"},
    "Parameters as the text of a JSON object, in addition to those in the body. A parameter in two "
    "places must have equal values.",
)

HEADERS = (
    header(
        "X-Request-Id",
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "Identifier of the request in the log; the answer has the same one. By default a new one.",
    ),
    header(
        "X-Request-Timeout-Ms",
        {"type": "integer", "minimum": 1},
        "Milliseconds after which the answer is 504; by default 30,000.",
    ),
)
"""Headers of all requests that compute."""


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add the routes of ENDPOINTS to an OpenAPI document, and return the document."""
    types: list[Any] = [Problem, *map(_request, ENDPOINTS), *map(_answer, ENDPOINTS)]
    _, definitions = TypeAdapter.json_schemas(
        [(kind, "validation", TypeAdapter(kind)) for kind in types], ref_template=REF_TEMPLATE
    )
    schemas = definitions["$defs"]
    form_names = {form.__name__ for form in FORMS.values()}
    for name, schema in schemas.items():
        defaults = remove_defaults(schema.get("properties", {}))
        if name.endswith("Request") or name in form_names:
            _append_defaults(schema["properties"], defaults)
    del schemas["Problem"]["properties"]["members"]  # they are members of the document itself
    schemas["Problem"]["additionalProperties"] = True
    schemas["Rope"]["properties"] |= _variant_parameters()
    schemas["Rope"]["additionalProperties"] = False
    document["components"]["schemas"] |= schemas
    document["paths"] |= {
        endpoint.path: {"post": _operation(endpoint, schemas)} for endpoint in ENDPOINTS
    }
    return document


def _title(endpoint: Endpoint[Any]) -> str:
    return str(endpoint.params.__name__).removesuffix("Params")


def _request(endpoint: Endpoint[Any]) -> type[BaseModel]:
    tensors: dict[str, Any] = {}
    for name in (*endpoint.required, *endpoint.optional):
        text = DESCRIPTIONS["tensors"][name]
        kind = Tensor | int if name == "delta" else Tensor
        default = ... if name in endpoint.required else None
        tensors[name] = (kind, Field(default, description=text))
    # pydantic puts the fields of the last base first
    bases = (endpoint.params, create_model("Tensors", **tensors))
    text = f"Tensors and parameters of `{endpoint.path}`."
    return create_model(f"{_title(endpoint)}Request", __base__=bases, __doc__=text)


def _answer(endpoint: Endpoint[Any]) -> type[BaseModel]:
    tensors: dict[str, Any] = {
        name: (FlatTensor, Field(None, description=DESCRIPTIONS["outputs"][name]))
        for name in endpoint.outputs
    }
    base = ANSWERS.get(endpoint.path, Answer)
    text = f"Answer of `{endpoint.path}`."
    return create_model(f"{_title(endpoint)}Answer", __base__=base, __doc__=text, **tensors)


def remove_defaults(properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Remove the defaults from schemas, and return the defaults by name.

    Generated clients in Python send defaults, which would override the model's config. The types
    of generated clients in TypeScript require properties that have a default.
    """
    return {name: schema.pop("default", None) for name, schema in properties.items()}


def _append_defaults(properties: dict[str, dict[str, Any]], defaults: dict[str, Any]) -> None:
    """Append the defaults of parameters to their descriptions."""
    for name, default in defaults.items():
        sources = ["as the model's config says"] if name in MODEL_PARAMS else []
        if default is not None and name != "rope":
            sources.append(json.dumps(default))
        if sources:
            text = properties[name].get("description", "")
            properties[name]["description"] = (
                f"{text} Default: {', or else '.join(sources)}.".strip()
            )


def _variant_parameters() -> dict[str, dict[str, Any]]:
    """Return schemas for the parameters of all variants and schemes."""
    catalogue = list_variants()
    types: dict[str, set[str]] = {}
    entries: dict[str, list[str]] = {}
    for entry in (*catalogue["variants"], *catalogue["schemes"]):
        for parameter in entry["parameters"]:
            types.setdefault(parameter["name"], set()).update(parameter["type"].split(" or "))
            entries.setdefault(parameter["name"], []).append(entry["name"])
    texts = DESCRIPTIONS["rope_parameters"]
    return {
        name: {
            "type": sorted(types[name]) if len(types[name]) > 1 else min(types[name]),
            "description": f"{texts[name]} A parameter of {', '.join(entries[name])}.",
            **({"items": {"type": "number"}} if "array" in types[name] else {}),
        }
        for name in sorted(types)
    }


def _query_parameters(endpoint: Endpoint[Any], request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parameters in the query; objects are text there.

    Args:
        endpoint: the route.
        request: the schema of its requests.
    """
    parameters = []
    for name in endpoint.params.model_fields:
        schema = {**request["properties"][name]}
        text = schema.pop("description", "")
        if name in ROPES:
            schema = {"type": "string"}
            text += (
                " The name of a preset, a JSON object or null; or one parameter for each member,"
                f" such as {name}.theta=500000."
            )
        elif schema.get("type") == "object":
            schema = {"type": "string"}
            text += " A JSON object."
        parameter = {"name": name, "in": "query", "required": False, "schema": schema}
        parameters.append(parameter | {"description": text.strip()})
    return parameters


def _operation(endpoint: Endpoint[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    title = _title(endpoint)
    request = content_of(ref(f"{title}Request"))
    request[json_codec.media_type]["examples"] = {
        name: {"value": value} for name, value in EXAMPLES[endpoint.path].items()
    }
    statuses = sorted({PROBLEMS[error][0].value for error in _errors(of_sessions=False)})
    return {
        "tags": [TAG],
        "operationId": endpoint.path.rpartition("/")[2],
        "summary": endpoint.summary,
        "description": DESCRIPTIONS["operations"][endpoint.path],
        "parameters": [
            *(*HEADERS, PARAMS_HEADER),
            *_query_parameters(endpoint, schemas[f"{title}Request"]),
        ],
        "requestBody": {"required": True, "content": request},
        "responses": {
            "200": {"description": "The answer", "content": content_of(ref(f"{title}Answer"))},
            **{str(status): problems_of(status, of_sessions=False) for status in statuses},
        },
    }


def _errors(*, of_sessions: bool) -> list[type[Exception]]:
    """Return the errors that a route may answer; all of them if it is one of sessions."""
    return [error for error in PROBLEMS if of_sessions or not issubclass(error, SessionError)]


def problems_of(status: int, *, of_sessions: bool) -> dict[str, Any]:
    """Return the description of a refusal.

    Args:
        status: of the answer.
        of_sessions: whether the route is one of sessions.
    """
    errors = [error for error in _errors(of_sessions=of_sessions) if PROBLEMS[error][0] == status]
    examples = error_examples(errors, "/v1", lambda error: asdict(problem_for(error)))
    content = {"schema": ref("Problem"), "examples": examples}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {"application/problem+json": content},
    }


def content_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a body in any format."""
    binary = {
        "type": "string",
        "format": "binary",
        "description": "The same tensors; __metadata__.params is the JSON text of the parameters.",
    }
    return json_content(schema) | {
        codec.media_type: {"schema": binary} for codec in CODECS if codec is not json_codec
    }
