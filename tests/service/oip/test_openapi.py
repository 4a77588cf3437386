"""What the description tells of `/v2` is what is answered."""

import json
import re

import pytest

from service.lifecycle import Phase
from service.oip.infer.models import MODELS
from service.oip.infer.params import ALIASES, REQUEST_PARAMS, ROPE_PARAMS
from service.oip.openapi.examples import EXAMPLES
from tests.service.conftest import asking, running
from tests.service.described import faults

LENGTH = "inference-header-content-length"


@pytest.fixture
async def document(client):
    return (await client.get("/openapi.json")).json()


def operation_of(document, path, method):
    """Return the operation that a path is of: one that names it wins over one with parameters."""
    fitting = [
        each
        for each in document["paths"]
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", each), path) and method in document["paths"][each]
    ]
    found = min(fitting, key=lambda each: each.count("{"))
    return document["paths"][found][method]


def check_answer(document, operation, response):
    told = operation["responses"][str(response.status_code)]
    if "content" not in told:
        assert response.content == b""
        return
    described = told["content"][response.headers["content-type"].partition(";")[0]]
    assert faults(document, described["schema"], response.json()) == []


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize(
    ("model", "name"),
    [(model, name) for model, named in EXAMPLES.items() for name in named],
    ids=lambda each: each,
)
async def test_every_example_works(client, document, model, name, version):
    path = f"/v2/models/{model}{version}/infer"
    operation = operation_of(document, path, "post")
    content = operation["requestBody"]["content"]["application/json"]
    example = content["examples"][name]["value"]
    assert faults(document, content["schema"], example) == []
    response = await client.post(path, json=example)
    assert response.status_code == 200, response.text
    check_answer(document, operation, response)


async def test_what_is_not_described_is_seen(document):
    """The tests here can fail."""
    schema = {"$ref": "#/components/schemas/RopeInferRequest"}
    good = EXAMPLES["rope"]["parameters"]
    for wrong in (
        {"inputs": []},
        {"id": "1"},
        {**good, "id": 1},
        {**good, "more": 1},
        {**good, "parameters": {"theta": "10"}},
        {**good, "parameters": {"thta": 10}},
        {**good, "outputs": [{"name": "lse"}]},
    ):
        assert len(faults(document, schema, wrong)) == 1


async def test_answers_in_bytes_are_described(client, document):
    path = "/v2/models/rope/infer"
    operation = operation_of(document, path, "post")
    body = {**EXAMPLES["rope"]["positions"], "parameters": {"binary_data_output": True}}
    response = await client.post(path, json=body)
    told = operation["responses"]["200"]
    assert response.headers["content-type"] in told["content"]
    assert LENGTH in {name.lower() for name in told["headers"]}
    text = response.content[: int(response.headers[LENGTH])]
    schema = told["content"]["application/json"]["schema"]
    assert faults(document, schema, json.loads(text)) == []
    assert {each["name"].lower() for each in operation["parameters"]} >= {LENGTH}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
async def test_all_inputs_outputs_and_parameters_are_described(document, model):
    schemas = document["components"]["schemas"]
    name = {"rope": "Rope", "rope_attention": "RopeAttention", "rope_cos_sin": "RopeCosSin"}
    title = name[model.name]
    for kind, slots in (("Input", model.inputs), ("Output", model.outputs)):
        told = schemas[f"{title}{kind}"]["properties"]["name"]["enum"]
        assert told == [slot.name for slot in slots]
    told = schemas[f"{title}Parameters"]["properties"]
    of_model = model.endpoint.params.model_fields.keys() | ROPE_PARAMS
    others = {alias for alias, name in ALIASES.items() if name in of_model}
    assert told.keys() == of_model | others | REQUEST_PARAMS
    assert all("description" in each for each in told.values())
    assert not any("default" in each for each in told.values())


ASKED = [
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
        for method, body in (("GET", None), ("POST", b"{}"), ("POST", b'{"x": 1}'), ("POST", b"{"))
    ),
    ("GET", "/models/nope/trace/setting", None),
    ("POST", "/models/nope/trace/setting", b"{}"),
]


async def ask_all(client, document):
    """Check every answer; return the statuses of each operation."""
    seen = {}
    for method, path, body in ASKED:
        operation = operation_of(document, f"/v2{path}", method.lower())
        response = await client.request(method, f"/v2{path}", content=body)
        check_answer(document, operation, response)
        seen.setdefault(operation["operationId"], set()).add(response.status_code)
    return seen


async def test_every_answer_is_described(client, document, lifecycle):
    await client.post("/v2/models/rope/infer", json=EXAMPLES["rope"]["positions"])
    lifecycle._turn(Phase.READY)
    seen = await ask_all(client, document)
    described = {
        operation["operationId"]
        for path, methods in document["paths"].items()
        for operation in methods.values()
        if path.startswith("/v2")
    }
    assert seen.keys() == described
    assert seen["model_metadata"] == {200, 404}
    for phase in (Phase.DRAINING, Phase.LOST):
        lifecycle._turn(phase)
        seen = await ask_all(client, document)
        assert seen["server_ready"] == {503}
        assert seen["model_ready"] == {503, 404}


async def test_every_answer_is_described_where_memory_is_shared(lifecycle, tmp_path):
    async with running(lifecycle, shared_memory_prefix="rope-test-") as app, asking(app) as client:
        document = (await client.get("/openapi.json")).json()
        seen = await ask_all(client, document)
        assert seen["register_system_memory"] == {400, 413}
        assert seen["system_memory_region"] == {404}
        assert seen["unregister_system_memory"] == {200}


async def test_names_of_operations_are_unique_and_there_are_no_others(document):
    operations = [each for methods in document["paths"].values() for each in methods.values()]
    names = [each["operationId"] for each in operations]
    assert len({*names}) == len(names)
    assert all(re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", name) for name in names)
    used = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert used == document["components"]["schemas"].keys()
