"""The OpenAPI document of `/v2` describes what the service answers."""

import json
import re
from functools import partial

import pytest
import pytest_asyncio

from service.endpoints.rope_params import ROPE_PARAMS
from service.lifecycle import Lifecycle, Phase
from service.oip.infer.models import MODELS
from service.oip.infer.params import ALIASES, REQUEST_PARAMS
from service.oip.infer.sequence_params import STEP_PARAMS
from service.oip.openapi.document import EXAMPLES
from service.oip.openapi.sequences import EXAMPLE as SEQUENCE_EXAMPLE
from service.sessions.creation.session_params import (
    CompactParams,
    GroupsParams,
    ModelParams,
    SessionAttention,
)
from tests.service.conftest import asking, running
from tests.service.json_schema import schema_errors

LENGTH = "inference-header-content-length"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document():
    """The document, which takes longer to make than a test."""
    async with running(Lifecycle()) as app, asking(app) as client:
        return (await client.get("/openapi.json")).json()


def operation_of(document, path, method):
    """Return the operation of a path; the template with the fewest parameters wins."""
    templates = [
        template
        for template, methods in document["paths"].items()
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path) and method in methods
    ]
    template = min(templates, key=lambda template: template.count("{"))
    return document["paths"][template][method]


def check_answer(document, operation, response):
    description = operation["responses"][str(response.status_code)]
    if "content" not in description:
        assert response.content == b""
        return
    content = description["content"][response.headers["content-type"].partition(";")[0]]
    assert schema_errors(document, content["schema"], response.json()) == []


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize(
    ("model", "name"),
    [(model, name) for model, examples in EXAMPLES.items() for name in examples],
    ids=str,
)
async def test_every_example_is_answered_as_described(client, document, model, name, version):
    path = f"/v2/models/{model}{version}/infer"
    operation = operation_of(document, path, "post")
    content = operation["requestBody"]["content"]["application/json"]
    example = content["examples"][name]["value"]
    assert schema_errors(document, content["schema"], example) == []
    response = await client.post(path, json=example)
    assert response.status_code == 200, response.text
    check_answer(document, operation, response)


async def test_schema_errors_are_found(document):
    """The other tests here can fail."""
    schema = {"$ref": "#/components/schemas/RopeInferRequest"}
    good = EXAMPLES["rope"]["parameters"]
    for wrong in (
        {"inputs": []},
        {"id": "1"},
        {**good, "id": 1},
        {**good, "unknown": 1},
        {**good, "parameters": {"theta": "10"}},
        {**good, "parameters": {"thta": 10}},
        {**good, "outputs": [{"name": "lse"}]},
    ):
        assert len(schema_errors(document, schema, wrong)) == 1


async def test_answers_in_bytes_match_their_description(client, document):
    path = "/v2/models/rope/infer"
    operation = operation_of(document, path, "post")
    body = {**EXAMPLES["rope"]["positions"], "parameters": {"binary_data_output": True}}
    response = await client.post(path, json=body)
    description = operation["responses"]["200"]
    assert response.headers["content-type"] in description["content"]
    assert LENGTH in {name.lower() for name in description["headers"]}
    text = response.content[: int(response.headers[LENGTH])]
    schema = description["content"]["application/json"]["schema"]
    assert schema_errors(document, schema, json.loads(text)) == []
    assert LENGTH in {parameter["name"].lower() for parameter in operation["parameters"]}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
async def test_schemas_have_all_inputs_outputs_and_parameters(document, model):
    schemas = document["components"]["schemas"]
    titles = {"rope": "Rope", "rope_attention": "RopeAttention", "rope_cos_sin": "RopeCosSin"}
    title = titles[model.name]
    for kind, slots in (("Input", model.inputs), ("Output", model.outputs)):
        names = schemas[f"{title}{kind}"]["properties"]["name"]["enum"]
        assert names == [slot.name for slot in slots]
    properties = schemas[f"{title}Parameters"]["properties"]
    params = model.endpoint.params.model_fields.keys() | ROPE_PARAMS
    aliases = {alias for alias, name in ALIASES.items() if name in params}
    assert properties.keys() == params | aliases | REQUEST_PARAMS
    assert all("description" in schema for schema in properties.values())
    assert not any("default" in schema for schema in properties.values())


async def test_the_model_of_sequences_is_described_where_it_exists(document):
    assert "/v2/models/rope_session/infer" not in document["paths"]
    async with running(Lifecycle(), sequence_ids=True) as app, asking(app) as client:
        document = (await client.get("/openapi.json")).json()
        path = "/v2/models/rope_session/infer"
        operation = operation_of(document, path, "post")
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        more = {"sequence_id": 7, "sequence_end": True, "expected_length": 1, "lse": False}
        requests = [SEQUENCE_EXAMPLE, {**SEQUENCE_EXAMPLE, "parameters": more}]
        for request, status in zip([*requests, *requests[1:]], (200, 200, 400), strict=True):
            assert schema_errors(document, schema, request) == []
            response = await client.post(path, json=request)
            assert response.status_code == status, response.text
            check_answer(document, operation, response)
        config = await client.get("/v2/models/rope_session/config")
        check_answer(document, operation_of(document, config.url.path, "get"), config)
        schemas = document["components"]["schemas"]
    properties = schemas["RopeSessionParameters"]["properties"]
    params = {*CompactParams.model_fields, *ModelParams.model_fields, *GroupsParams.model_fields}
    params |= {*SessionAttention.model_fields, *STEP_PARAMS, *ALIASES} | ROPE_PARAMS
    assert properties.keys() == params | REQUEST_PARAMS
    assert all("description" in schema for schema in properties.values())
    assert not any("default" in schema for schema in properties.values())
    used = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert used == schemas.keys()


REQUESTS = [
    ("GET", "", None),
    ("GET", "/health/live", None),
    ("GET", "/health/ready", None),
    ("GET", "/models/stats", None),
    *(
        ("GET", f"/models/{name}{version}{path}", None)
        for name in (*MODELS, "nope")
        for version in ("", "/versions/1", "/versions/2")
        for path in ("", "/ready", "/config", "/stats")
    ),
    *(("POST", f"/models/rope{version}/infer", b"{") for version in ("", "/versions/1")),
    ("POST", "/models/rope/versions/2/infer", b"{}"),
    ("POST", "/models/rope_attention/infer", b"{}"),
    ("POST", "/models/rope_attention/versions/1/infer", b"{}"),
    ("POST", "/models/rope_cos_sin/infer", b"{}"),
    ("POST", "/models/rope_cos_sin/versions/1/infer", b"{}"),
    *(("POST", "/repository/index", body) for body in (None, b'{"ready": true}', b"{")),
    ("POST", "/repository/models/rope/load", None),
    ("POST", "/repository/models/rope/unload", None),
    ("POST", "/systemsharedmemory/region/r/register", b"{}"),
    ("POST", "/systemsharedmemory/region/r/register", b" " * 2**17),
    ("GET", "/systemsharedmemory/status", None),
    ("GET", "/systemsharedmemory/region/r/status", None),
    ("POST", "/systemsharedmemory/region/r/unregister", None),
    ("POST", "/systemsharedmemory/unregister", None),
    ("GET", "/cudasharedmemory/status", None),
    ("GET", "/cudasharedmemory/region/r/status", None),
    ("POST", "/cudasharedmemory/region/r/register", b"{}"),
    ("POST", "/cudasharedmemory/region/r/unregister", None),
    ("POST", "/cudasharedmemory/unregister", None),
    *(
        (method, path, body)
        for path in ("/trace/setting", "/models/rope/trace/setting", "/logging")
        for method, body in (("GET", None), ("POST", b"{}"), ("POST", b'{"q": 1}'), ("POST", b"{"))
    ),
    ("GET", "/models/nope/trace/setting", None),
    ("POST", "/models/nope/trace/setting", b"{}"),
]


async def send_all(client, document):
    """Check the answers to REQUESTS; return the statuses of each operation."""
    statuses = {}
    for method, path, body in REQUESTS:
        operation = operation_of(document, f"/v2{path}", method.lower())
        response = await client.request(method, f"/v2{path}", content=body)
        check_answer(document, operation, response)
        statuses.setdefault(operation["operationId"], set()).add(response.status_code)
    return statuses


async def test_every_answer_matches_its_description(client, document, lifecycle):
    await client.post("/v2/models/rope/infer", json=EXAMPLES["rope"]["positions"])
    lifecycle.warmed_up()
    statuses = await send_all(client, document)
    operations = {
        operation["operationId"]
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if path.startswith("/v2")
    }
    assert statuses.keys() == operations
    assert statuses["model_metadata"] == {200, 404}
    for end in (lifecycle.drain, partial(lifecycle.fail, Phase.LOST)):
        end()
        statuses = await send_all(client, document)
        assert statuses["server_ready"] == {503}
        assert statuses["model_ready"] == {503, 404}


async def test_every_answer_matches_its_description_with_shared_memory(lifecycle, tmp_path):
    async with running(lifecycle, shared_memory_prefix="rope-test-") as app, asking(app) as client:
        document = (await client.get("/openapi.json")).json()
        statuses = await send_all(client, document)
        assert statuses["register_system_memory"] == {400, 413}
        assert statuses["system_memory_region"] == {404}
        assert statuses["unregister_system_memory"] == {200}


async def test_operation_ids_are_unique_and_every_schema_is_used(document):
    names = [
        operation["operationId"]
        for methods in document["paths"].values()
        for operation in methods.values()
    ]
    assert len({*names}) == len(names) > 40
    assert all(re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", name) for name in names)
    used = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert used == document["components"]["schemas"].keys()
