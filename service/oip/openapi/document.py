"""The OpenAPI description of `/v2`, made from the table of routes and the table of models."""

import json
import re
from collections.abc import Collection, Iterable
from http import HTTPStatus
from importlib.resources import files
from typing import Any, NoReturn

from pydantic import TypeAdapter

from service.asgi.problems import PROBLEMS
from service.errors import TensorTooLarge
from service.oip.errors import (
    STATUSES,
    BadRegion,
    SequenceExists,
    SequencesOff,
    SharedMemoryOff,
    UnknownModel,
    UnknownRegion,
    UnknownSequence,
    classify,
    status_of,
)
from service.oip.http.control import BODY_ERRORS, ROUTES, Route
from service.oip.infer.models import (
    MODELS,
    VERSION,
    EndpointModel,
    Model,
)
from service.oip.openapi import schemas, sequences
from service.oip.openapi.schemas import title
from service.oip.types import Refusal
from service.sessions.errors import SessionError
from service.v1.error_examples import EXAMPLES as ERROR_EXAMPLES
from service.v1.error_examples import error_examples
from service.v1.openapi import HEADERS, REF_TEMPLATE, header, json_content, ref, remove_defaults

EXAMPLES = json.loads((files(__package__) / "examples.json").read_text())
"""Example requests by model and name."""

OPERATIONS: dict[str, tuple[str, str]] = json.loads(
    (files(__package__) / "operations.json").read_text()
)
"""Summary and description of each control route, by operation."""

TAG = "Open Inference Protocol"
CONTROL_TAG = "Open Inference Protocol control"
_PATH_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "name": (ref("ModelName"), "Name of the model."),
    "version": ({"type": "string"}, f"Version of the model; {VERSION} is the only one."),
    "region": ({"type": "string"}, "Name of the region, which the client chooses."),
}
_INFER_ERRORS = (
    *(
        error
        for error in PROBLEMS
        if "/v2" in ERROR_EXAMPLES[error.__name__] and not issubclass(error, SessionError)
    ),
    *(UnknownModel, SharedMemoryOff, UnknownRegion, BadRegion, TensorTooLarge),
)
_SEQUENCE_ERRORS = (
    *(SequencesOff, SequenceExists, UnknownSequence),
    *(
        error
        for error in PROBLEMS
        if "/v2" in ERROR_EXAMPLES[error.__name__] and issubclass(error, SessionError)
    ),
)
_INFER_TEXT = (
    "Inputs and outputs are the tensors of `{path}`. Numbers may be JSON (`data`), bytes after the "
    "JSON part (`binary_data_size`), or lie in shared memory."
)
_LENGTH = "Inference-Header-Content-Length"
_BYTES = {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31}
_INFER_HEADERS = (
    *HEADERS,
    header(_LENGTH, _BYTES, "Length of the JSON part in bytes; required if tensors follow it."),
    header("Content-Encoding", ref("ContentEncoding"), "How the body is compressed."),
    header(
        "Accept-Encoding",
        {"type": "string"},
        "The answer is compressed if the header names exactly one of gzip and deflate.",
    ),
)
_BINARY: dict[str, Any] = {
    "type": "string",
    "format": "binary",
    "description": "The JSON part, then the bytes of the tensors that have a binary_data_size, "
    "in their order, little-endian and without gaps.",
}


def describe(document: dict[str, Any], models: Collection[Model]) -> dict[str, Any]:
    """Add `/v2` to an OpenAPI document that has `/v1` and sessions, and return the document.

    Args:
        document: changed in place.
        models: that the service has.
    """
    model_name = schemas.model_name([model.name for model in models])
    shared = (schemas.ContentEncoding, schemas.InferResponse, Refusal)
    types: dict[str, Any] = {kind.__name__: kind for kind in shared}
    types["ModelName"] = model_name
    types |= {f"infer_{m.name}": schemas.infer_request(m) for m in models}
    types |= {f"{route.operation_id} body": route.body for route in ROUTES if route.body}
    types |= {route.operation_id: route.response for route in ROUTES if _has_document(route)}
    references, definitions = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(kind)) for name, kind in types.items()],
        ref_template=REF_TEMPLATE,
    )
    refs = {name: schema for (name, _), schema in references.items()}
    components, paths = document["components"]["schemas"], document["paths"]
    for schema in definitions["$defs"].values():
        remove_defaults(schema.get("properties", {}))
    components |= definitions["$defs"]
    for route in ROUTES:
        methods = paths.setdefault(f"/v2{route.path}", {})
        methods[route.method.lower()] = _control(route, refs)
    for model in models:
        components[f"{title(model)}Parameters"] = (
            schemas.parameters_schema(model, components)
            if isinstance(model, EndpointModel)
            else sequences.parameters_schema(components)
        )
        for version, suffix in (("", ""), ("/versions/{version}", "_version")):
            path = f"/v2/models/{model.name}{version}/infer"
            paths[path] = {"post": _infer(model, path, suffix)}
    return document


def _has_document(route: Route) -> bool:
    return route.response not in (None, NoReturn)


def _control(route: Route, refs: dict[str, Any]) -> dict[str, Any]:
    answer = {"content": json_content(refs[route.operation_id])} if _has_document(route) else {}
    responses: dict[str, Any] = {}
    if route.response is not NoReturn:
        responses["200"] = {"description": "The answer", **answer}
    if route.probe is not None:
        responses["503"] = {"description": f"{route.probe} is false", **_probe_answer(route, refs)}
    summary, description = OPERATIONS[route.operation_id]
    operation = {
        "tags": [CONTROL_TAG],
        "operationId": route.operation_id,
        "summary": summary,
        "description": description,
        "parameters": _path_parameters(route.path),
        "responses": responses | _refusals((*route.errors, *(BODY_ERRORS if route.body else ()))),
    }
    if route.body is not None:
        body = refs[f"{route.operation_id} body"]
        required = bool(route.body.__required_keys__)
        operation["requestBody"] = {"required": required, "content": json_content(body)}
    return operation


def _probe_answer(route: Route, refs: dict[str, Any]) -> dict[str, Any]:
    value = {"name": next(iter(MODELS)), route.probe: False}
    value = {name: value[name] for name in route.response.__annotations__}
    content = json_content(refs[route.operation_id])
    content["application/json"]["examples"] = {f"not_{route.probe}": {"value": value}}
    return {"content": content}


def _infer(model: Model, path: str, suffix: str) -> dict[str, Any]:
    binary = {"application/octet-stream": {"schema": _BINARY}}
    request = json_content(ref(f"{title(model)}InferRequest"))
    if isinstance(model, EndpointModel):
        summary = f"{model.endpoint.summary}, as {model.endpoint.path} does"
        description = _INFER_TEXT.format(path=model.endpoint.path)
        examples, errors = EXAMPLES[model.name], _INFER_ERRORS
    else:
        summary, description = sequences.SUMMARY, sequences.DESCRIPTION
        examples, errors = {"start": sequences.EXAMPLE}, (*_INFER_ERRORS, *_SEQUENCE_ERRORS)
    request["application/json"]["examples"] = {
        name: {"value": value} for name, value in examples.items()
    }
    answer = {
        "description": "The answer; in bytes if the request asks for an output in bytes",
        "headers": {_LENGTH: {"schema": _BYTES, "description": "Length of the JSON part."}},
        "content": json_content(ref("InferResponse")) | binary,
    }
    return {
        "tags": [TAG],
        "operationId": f"infer_{model.name}{suffix}",
        "summary": summary,
        "description": description,
        "parameters": [*_path_parameters(path), *_INFER_HEADERS],
        "requestBody": {
            "required": True,
            "description": "Read by its headers; the content type does not matter.",
            "content": request | binary,
        },
        "responses": {"200": answer} | _refusals(errors),
    }


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [_path_parameter(name, *_PATH_PARAMETERS[name]) for name in re.findall(r"{(\w+)}", path)]


def _path_parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    text = {"description": description}
    return {"name": name, "in": "path", "required": True, "schema": schema} | text


def _refusals(errors: Iterable[type[Exception]]) -> dict[str, Any]:
    by_status: dict[int, list[type[Exception]]] = {}
    for error in errors:
        status = STATUSES[error] if error in STATUSES else status_of(PROBLEMS[error][0].value)
        by_status.setdefault(status, []).append(error)
    return {str(status): _refusal(status, by_status[status]) for status in sorted(by_status)}


def _refusal(status: int, errors: list[type[Exception]]) -> dict[str, Any]:
    examples = error_examples(errors, "/v2", lambda error: {"error": classify(error)[1]})
    content = {"schema": ref("Refusal"), "examples": examples}
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": content}}
