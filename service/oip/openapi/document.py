"""The OpenAPI description of `/v2`, from the models, the documents and the failures."""

import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from service.asgi.problems import RESPONSES
from service.oip import types
from service.oip.errors import STATUSES, SharedMemoryOff, UnknownModel, status_of
from service.oip.infer.models import MODELS, VERSION, Model
from service.oip.openapi.examples import EXAMPLES
from service.oip.openapi.operations import ASKED, ROWS, Row
from service.oip.openapi.schemas import COMMON, Schema, schemas_of, title
from service.oip.shm.registry import Region
from service.v1.openapi import HEADERS, header
from service.v1.schemas import ref

_TAG = "Open Inference Protocol"

_TOLD: tuple[type[Any], ...] = (
    *(types.ServerMetadata, types.ServerLive, types.ServerReady),
    *(types.ModelMetadata, types.ModelReady, types.ModelConfiguration),
    *(types.Statistics, types.IndexEntry, types.TraceSettings, types.LogSettings),
    *(types.Refusal, Region),
)
_IN_PATHS: Mapping[str, Schema] = {
    "name": ref("ModelName"),
    "version": {"type": "string", "description": f"{VERSION} is the only one."},
    "region": {"type": "string", "description": "A name that clients choose."},
}

_NAMED: Mapping[str, Schema] = {
    "ModelName": {"type": "string", "enum": [*MODELS]},
    "ContentEncoding": {"type": "string", "enum": ["gzip", "deflate", "identity"]},
}

_LENGTH = "Inference-Header-Content-Length"
_BYTES: Schema = {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**31}
_INFER_HEADERS = (
    *HEADERS,
    header(_LENGTH, _BYTES, "Length of the JSON part, in bytes; needed where tensors follow it."),
    header("Content-Encoding", ref("ContentEncoding")),
    header(
        "Accept-Encoding",
        {"type": "string"},
        "The answer is compressed where this names just one of gzip and deflate.",
    ),
)
_INFER_REFUSALS = sorted(
    {status_of(status.value) for _, status, _ in RESPONSES}
    | {STATUSES[UnknownModel], STATUSES[SharedMemoryOff]}
)
_BINARY: Schema = {
    "type": "string",
    "format": "binary",
    "description": "The same in JSON, then the bytes of those tensors that have a "
    "binary_data_size, in their order, little-endian and without gaps.",
}


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Complete what a document that tells of `/v1` already says of `/v2`, and return it."""
    schemas, paths = document["components"]["schemas"], document["paths"]
    _, told = TypeAdapter.json_schemas(
        [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in _TOLD],
        ref_template="#/components/schemas/{model}",
    )
    schemas |= {**told["$defs"], **ASKED, **COMMON, **_NAMED}
    for (method, path), row in ROWS.items():
        known = paths[f"/v2{path}"][method]
        paths[f"/v2{path}"][method] = _control(path, row, known["summary"])
    for model in MODELS.values():
        schemas |= schemas_of(model, schemas)
        for version, of in (("", ""), ("/versions/{version}", "_version")):
            path = f"/models/{model.name}{version}/infer"
            paths[f"/v2{path}"] = {"post": _infer(model, path, f"infer_{model.name}{of}")}
            # which answers that there is no such model
            paths.pop(f"/v2/models/{{name}}{version}/infer", None)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return document


def _control(path: str, row: Row, summary: str) -> dict[str, Any]:
    content = {} if row.answer is None else {"content": _json(row.answer)}
    told = {"200": {"description": "The answer", **content}} if row.served else {}
    if row.unready:
        told["503"] = {"description": "Not so, as the answer says", **content}
    body: dict[str, Any] = {}
    if row.asked is not None:
        required = "required" in ASKED[row.asked]
        body["requestBody"] = {"required": required, "content": _json(ref(row.asked))}
    return {
        "tags": [_TAG],
        "operationId": row.id,
        "summary": summary,
        "parameters": _parameters(path),
        **body,
        "responses": told | _refusals(row.refusals),
    }


def _infer(model: Model, path: str, name: str) -> dict[str, Any]:
    binary = {"application/octet-stream": {"schema": _BINARY}}
    examples = {name: {"value": each} for name, each in EXAMPLES[model.name].items()}
    asked = {"schema": ref(f"{title(model)}InferRequest"), "examples": examples}
    told = {
        "description": "The answer; in bytes where an output is asked for in bytes",
        "headers": {
            _LENGTH: {"schema": _BYTES, "description": "Length of the JSON part of one in bytes."}
        },
        "content": _json(ref("InferResponse")) | binary,
    }
    return {
        "tags": [_TAG],
        "operationId": name,
        "summary": f"{model.endpoint.summary}, as {model.endpoint.path} does",
        "parameters": [*_parameters(path), *_INFER_HEADERS],
        "requestBody": {
            "required": True,
            "description": "Read as its headers say, whatever its content type.",
            "content": {"application/json": asked} | binary,
        },
        "responses": {"200": told} | _refusals(_INFER_REFUSALS),
    }


def _parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _IN_PATHS[name]}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _refusals(statuses: tuple[int, ...] | list[int]) -> dict[str, Any]:
    told = {"description": "Why not", "content": _json(ref("Refusal"))}
    return {str(status): told for status in sorted(statuses)}
