"""The OpenAPI description of the routes of sessions."""

import json
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter

from service.asgi.problems import PROBLEMS
from service.sessions import paths
from service.sessions.creation.session_params import CompactParams, GroupsParams, ModelParams
from service.sessions.lifetime import changes
from service.sessions.operations import attach, fork, step_many_request
from service.sessions.operations.moves import MoveOperation
from service.sessions.operations.places import EVICT, SHIFT
from service.sessions.operations.rebase import REBASE
from service.sessions.operations.reorder import REORDER
from service.sessions.operations.select_tail import SELECT_TAIL
from service.sessions.operations.structural import COMMON, StructuralOperation
from service.sessions.operations.token_request import APPEND, ATTEND, STEP
from service.sessions.operations.truncate import TRUNCATE
from service.v1.openapi import (
    HEADERS,
    REF_TEMPLATE,
    content_of,
    header,
    json_content,
    problems_of,
    ref,
    remove_defaults,
)
from service.wire import safetensors_codec

TAG = "sessions"

DESCRIPTIONS: Mapping[str, Any] = json.loads(
    (files(__package__) / "session_descriptions.json").read_text()
)
"""Of each operation a summary, a description and an example; of each parameter a schema."""

_STRUCTURAL: tuple[StructuralOperation | MoveOperation, ...] = (
    *(TRUNCATE, SELECT_TAIL, EVICT, SHIFT, REBASE, REORDER),
)

REQUESTS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "step": (STEP.tensors, STEP.params),
    "append": (APPEND.tensors, APPEND.params),
    "attend": (ATTEND.tensors, ATTEND.params),
    **{each.name: ((), (*each.params, *COMMON)) for each in _STRUCTURAL},
    "attach": ((), attach.PARAMS),
    "fork": ((), fork.PARAMS),
    "change": ((), changes.MEMBERS),
    "step_many": (step_many_request.TENSORS, step_many_request.PARAMS),
}
"""Tensors and parameters of each operation."""

_WITH_OUT = ("step", "attend", "step_many")

_ID = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "Id of the session. It is a secret: whoever has it and the key of the tenant "
    "may use the session.",
}
_KEY = header(
    "Idempotency-Key",
    {"type": "string", "maxLength": 255},
    "A request with the same key, path and body creates nothing, and is answered again.",
)
_SESSION_ID = header(
    "X-Session-Id",
    {"type": "string"},
    "The id in the path once more, for routers that look at headers.",
)


_EXPORTED: Mapping[str, Any] = {
    "description": "Keys, values, positions and segments; __metadata__.params is the JSON text of "
    "the parameters.",
    "content": {safetensors_codec.media_type: {"schema": {"type": "string", "format": "binary"}}},
}


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Add the routes of sessions to an OpenAPI document that has `/v1`, and return it."""
    schemas, routes = document["components"]["schemas"], document["paths"]
    params = {"Groups": GroupsParams, "Compact": CompactParams, "Model": ModelParams}
    _, definitions = TypeAdapter.json_schemas(
        [(name, "validation", TypeAdapter(kind)) for name, kind in params.items()],
        ref_template=REF_TEMPLATE,
    )
    for name, schema in definitions["$defs"].items():
        if name not in schemas:
            remove_defaults(schema.get("properties", {}))
            schemas[name] = schema
    forms = [ref(kind.__name__) for kind in params.values()]
    schemas["CreateSessionRequest"] = {
        "description": "A new session: groups of layers, one group, or all layers of a model.",
        "anyOf": [*forms, ref("CreateForkRequest")],
    }
    schemas["CreateForkRequest"] = _request("fork") | {"required": ["fork"]}
    schemas["CreateForkRequest"]["properties"]["fork"] = {
        "type": "string",
        "description": "Id or name of the session to fork.",
    }
    schemas["Session"] = DESCRIPTIONS["document"]
    schemas["SessionState"] = DESCRIPTIONS["state"]
    for name in REQUESTS:
        schemas[f"{_title(name)}Request"] = _request(name)
    for name in _WITH_OUT:
        schemas[f"{_title(name)}Answer"] = _answer(name)
    documents = {
        "description": "The document of the session",
        "content": json_content(ref("Session")),
    }
    routes[paths.SESSIONS] = {
        "post": _operation(
            "create",
            ref("CreateSessionRequest"),
            {"201": documents},
            (_KEY, *DESCRIPTIONS["import_query"]),
        ),
        "get": _operation("list", None, {"200": _listed()}, DESCRIPTIONS["query"]),
    }
    in_path: tuple[Mapping[str, Any], ...] = (_ID, _SESSION_ID)
    routes[f"{paths.PREFIX}{{id}}"] = {
        "get": _operation("inspect", None, {"200": documents}, in_path),
        "patch": _operation(
            "change", ref(f"{_title('change')}Request"), {"200": documents}, in_path
        ),
        "delete": _operation("delete", None, {"204": {"description": "Deleted"}}, in_path),
    }
    for name in paths.OPERATIONS:
        request = ref(f"{_title(name)}Request")
        answer = ref(f"{_title(name)}Answer" if name in _WITH_OUT else "SessionState")
        answers = {"200": {"description": "The answer", "content": content_of(answer)}}
        headers = in_path
        if name == "fork":
            content = json_content(DESCRIPTIONS["forks"])
            answers = {"201": {"description": "The forks", "content": content}}
            headers = (*in_path, _KEY)
        routes[f"{paths.PREFIX}{{id}}/{name}"] = {
            "post": _operation(name, request, answers, headers)
        }
    routes[f"{paths.PREFIX}{{id}}/{paths.EXPORT}"] = {
        "get": _operation(
            "export", None, {"200": _EXPORTED}, (*in_path, *DESCRIPTIONS["export_query"])
        )
    }
    many = {"description": "The answer", "content": content_of(ref(f"{_title('step_many')}Answer"))}
    routes[paths.STEP_MANY] = {
        "post": _operation("step_many", ref(f"{_title('step_many')}Request"), {"200": many})
    }
    return document


def _title(name: str) -> str:
    """Return the beginning of the names of an operation's schemas."""
    return "Session" + "".join(part.title() for part in name.split("_"))


def _request(name: str) -> dict[str, Any]:
    """Return the schema of the requests of an operation."""
    tensors, params = REQUESTS[name]
    own = DESCRIPTIONS["params_of"].get(name, {})
    properties = {each: _tensor(each) for each in tensors}
    properties |= {each: own.get(each) or DESCRIPTIONS["params"][each] for each in params}
    return {
        "type": "object",
        "description": f"Tensors and parameters of `{name}`.",
        "properties": properties,
        "additionalProperties": False,
    }


def _answer(name: str) -> dict[str, Any]:
    """Return the schema of an answer with tensors."""
    properties: dict[str, Any] = {
        each: {**ref("FlatTensor"), "description": DESCRIPTIONS["outputs"][each]}
        for each in ("out", "lse")
    }
    state = DESCRIPTIONS["results"] if name == "step_many" else DESCRIPTIONS["state"]
    return {
        "type": "object",
        "description": f"Answer of `{name}`.",
        "properties": properties | state["properties"],
    }


def _tensor(name: str) -> dict[str, Any]:
    return {**ref("Tensor"), "description": DESCRIPTIONS["tensors"][name]}


def _listed() -> dict[str, Any]:
    return {"description": "A page of the list", "content": json_content(DESCRIPTIONS["list"])}


def _operation(
    name: str,
    request: dict[str, Any] | None,
    answers: Mapping[str, Any],
    parameters: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the description of a route and a method."""
    description = DESCRIPTIONS["operations"][name]
    operation: dict[str, Any] = {
        "tags": [TAG],
        "operationId": f"session_{name}",
        "summary": description["summary"],
        "description": description["description"],
        "parameters": [*HEADERS, *parameters],
    }
    if request is not None:
        content = content_of(request)
        content["application/json"]["examples"] = {"example": {"value": description["example"]}}
        operation["requestBody"] = {"required": True, "content": content}
    statuses = sorted({status.value for status, _ in PROBLEMS.values()})
    refusals = {
        str(status): problems_of(HTTPStatus(status), of_sessions=True) for status in statuses
    }
    operation["responses"] = {**answers, **refusals}
    return operation
