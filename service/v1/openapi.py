"""The OpenAPI description of all but `/v2`, made from the table of endpoints."""

import json
from typing import Any

from pydantic.json_schema import models_json_schema

from service.asgi.problems import RESPONSES
from service.endpoints.catalog import list_variants
from service.endpoints.params import MODEL_PARAMS
from service.endpoints.table import ENDPOINTS, Endpoint
from service.v1.examples import EXAMPLES
from service.v1.schemas import ANSWERS, FLAT_TENSOR, NUMBER, PROBLEM, TENSOR, TOLD, WARNINGS, ref
from service.wire import CODECS, json_codec


def header(name: str, schema: dict[str, Any], text: str = "") -> dict[str, Any]:
    """Return a header that a request may have."""
    described = {"description": text} if text else {}
    return {"name": name, "in": "header", "required": False, "schema": schema} | described


HEADERS: tuple[dict[str, Any], ...] = (
    header("X-Request-Id", {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}),
    header("X-Request-Timeout-Ms", {"type": "integer", "minimum": 1}),
)
"""Of all requests that compute."""


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Complete what an OpenAPI document says of all but `/v2`, and return it."""
    _, definitions = models_json_schema(
        [(endpoint.params, "validation") for endpoint in ENDPOINTS],
        ref_template="#/components/schemas/{model}",
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= definitions["$defs"]
    schemas |= {"Tensor": TENSOR, "FlatTensor": FLAT_TENSOR, "Problem": PROBLEM}
    schemas["Rope"]["properties"] |= _own_parameters()
    schemas["Rope"]["additionalProperties"] = False
    of_attention = schemas["AttentionParams"]["properties"]
    of_models = {name: dict(each) for name, each in of_attention.items() if name in MODEL_PARAMS}
    for each in of_models.values():
        del each["default"]
    schemas["Attention"] = {"type": "object", "properties": of_models}
    for name in definitions["$defs"]:
        schemas[name]["properties"].get("rope", {}).pop("default", None)
        _tell_defaults(schemas[name]["properties"])
    for endpoint in ENDPOINTS:
        title = endpoint.params.__name__.removesuffix("Params")
        params = schemas.pop(endpoint.params.__name__)
        schemas[f"{title}Request"] = _request(endpoint, params)
        schemas[f"{title}Answer"] = _answer(endpoint)
        document["paths"][endpoint.path] = {"post": _operation(endpoint, title)}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            if not path.startswith("/v2"):
                operation["operationId"] = path.rpartition("/")[2]
    for path, schema in ANSWERS.items():
        name = path.rpartition("/")[2].title()
        schemas[name] = schema
        answer = {"content": {"application/json": {"schema": ref(name)}}}
        told = {"200": {"description": "The answer"} | answer}
        if path == "/readyz":
            told["503"] = {"description": "Not yet, or no longer"} | answer
        document["paths"][path]["get"]["responses"] = told
    return document


def _own_parameters() -> dict[str, dict[str, Any]]:
    """Return the parameters of all variants and schemes, each with those it belongs to."""
    known = list_variants()
    found: dict[str, tuple[set[str], list[str]]] = {}
    for entry in (*known["variants"], *known["schemes"]):
        for parameter in entry["parameters"]:
            kinds, owners = found.setdefault(parameter["name"], (set(), []))
            kinds |= set(parameter["type"].split(" or "))
            owners.append(entry["name"])
    return {
        name: {
            "type": sorted(kinds) if len(kinds) > 1 else min(kinds),
            "description": f"Of {', '.join(owners)}.",
            **({"items": NUMBER} if "array" in kinds else {}),
        }
        for name, (kinds, owners) in sorted(found.items())
    }


def _tell_defaults(properties: dict[str, dict[str, Any]]) -> None:
    """Say in words what holds where a parameter is missing.

    What a schema calls a default is sent by clients that are generated in Python, where it would
    win over what a model's config says, and demanded by the types of those in TypeScript.
    """
    for name, schema in properties.items():
        default = schema.pop("default", None)
        told = [] if default is None else [json.dumps(default)]
        if name in MODEL_PARAMS:
            told = ["as the model's config says", *told]
        if told:
            text = schema.get("description", "")
            schema["description"] = f"{text} Default: {', or else '.join(told)}.".strip()


def _request(endpoint: Endpoint[Any], params: dict[str, Any]) -> dict[str, Any]:
    tensor = ref("Tensor")
    body: dict[str, Any] = {
        "type": "object",
        "required": [*endpoint.required, *params.get("required", [])],
        "properties": {
            **dict.fromkeys((*endpoint.required, *endpoint.optional), tensor),
            **params["properties"],
        },
        "additionalProperties": False,
    }
    if "delta" in endpoint.required:
        body["properties"]["delta"] = {"anyOf": [tensor, {"type": "integer"}]}
    return body


def _answer(endpoint: Endpoint[Any]) -> dict[str, Any]:
    flat = ref("FlatTensor")
    answer: dict[str, Any] = {
        "type": "object",
        "properties": {
            **dict.fromkeys(endpoint.outputs, flat),
            **TOLD.get(endpoint.path, {}),
            "warnings": WARNINGS,
        },
    }
    if endpoint.has_other_outputs:
        answer["additionalProperties"] = flat
    return answer


def _operation(endpoint: Endpoint[Any], title: str) -> dict[str, Any]:
    statuses = sorted({status.value for _, status, _ in RESPONSES})
    problem = {"application/problem+json": {"schema": ref("Problem")}}
    return {
        "tags": ["rope"],
        "summary": endpoint.summary,
        "parameters": [*HEADERS],
        "requestBody": {
            "required": True,
            "content": _content(ref(f"{title}Request"), EXAMPLES[endpoint.path]),
        },
        "responses": {
            "200": {"description": "The answer", "content": _content(ref(f"{title}Answer"), None)},
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
