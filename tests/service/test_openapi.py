"""The OpenAPI document of `/v1`, and the page `/docs`, which works offline."""

import json
import re

import pytest
import pytest_asyncio

from rope_core import SCHEMES, VARIANTS
from service.asgi.problems import PROBLEMS
from service.endpoints.params import MODEL_PARAMS
from service.endpoints.table import ENDPOINTS
from service.sessions.errors import SessionError
from service.v1.openapi import DESCRIPTIONS, EXAMPLES
from service.wire import CODECS
from tests.service.conftest import every_test_in_one_loop
from tests.service.json_schema import schema_errors

pytestmark = every_test_in_one_loop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def document(shared_client):
    return (await shared_client.get("/openapi.json")).json()


def resolved(document, schema):
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


async def test_openapi_has_every_route(document):
    assert {endpoint.path for endpoint in ENDPOINTS} <= set(document["paths"])
    assert {"/healthz", "/readyz", "/metrics", "/version"} <= set(document["paths"])
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path]["post"]
        content = operation["requestBody"]["content"]
        assert set(content) == {codec.media_type for codec in CODECS}
        body = resolved(document, content["application/json"]["schema"])
        assert set(body["properties"]) == endpoint.names | set(endpoint.params.model_fields)
        assert {"200", "400", "413", "415", "422", "503", "504"} <= set(operation["responses"])


async def test_every_reference_resolves(document):
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in document["components"]["schemas"], name


STATUS_PATHS = ("/healthz", "/readyz", "/version", "/v1/recent")


@pytest.mark.parametrize("path", [*STATUS_PATHS, "/v1/presets", "/v1/variants"])
async def test_status_and_catalogue_answers_match_their_schemas(shared_client, document, path):
    answer = await shared_client.get(path)
    response = document["paths"][path]["get"]["responses"][str(answer.status_code)]
    schema = response["content"]["application/json"]["schema"]
    assert schema_errors(document, schema, answer.json()) == []


async def test_metrics_are_text(shared_client, document):
    content = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert (await shared_client.get("/metrics")).headers["content-type"].split(";")[0] in content


async def test_openapi_has_every_form_of_rope(document):
    schemas = document["components"]["schemas"]
    forms = schemas["RotateRequest"]["properties"]["rope"]["oneOf"]
    names = {form["$ref"].rpartition("/")[2] for form in forms if "$ref" in form}
    assert names == {"Rope", "Model", "PresetModel"}
    assert {"type": "string"} in forms
    for entry in (*VARIANTS.values(), *SCHEMES.values()):
        for parameter in entry.parameters:
            assert entry.name in schemas["Rope"]["properties"][parameter]["description"]


CASES = [(path, name) for path, examples in EXAMPLES.items() for name in examples]


@pytest.mark.parametrize(("path", "name"), CASES, ids=str)
async def test_every_example_is_answered_as_described(shared_client, document, path, name):
    operation = document["paths"][path]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    example = content["examples"][name]["value"]
    assert schema_errors(document, content["schema"], example) == []
    answer = await shared_client.post(path, json=example)
    assert answer.status_code == 200, answer.text
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema_errors(document, schema, answer.json()) == []


async def test_defaults_are_in_descriptions_only(document):
    """Generated clients would send defaults, which override the model's config."""
    for name, schema in document["components"]["schemas"].items():
        for key, value in schema.get("properties", {}).items():
            assert "default" not in value, f"{name}.{key}"
    properties = document["components"]["schemas"]["AttentionRequest"]["properties"]
    for name in MODEL_PARAMS:
        assert "Default: as the model's config says" in properties[name]["description"]
    assert properties["k_stride"]["description"].endswith("Default: 1.")


def operations(document):
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def test_v1_is_first_then_status_then_inference_then_control(document):
    tags = [operation["tags"][0] for _, operation in operations(document)]
    order = [tag["name"] for tag in document["tags"]]
    assert order == list(dict.fromkeys(tags)), "a tag is missing, or in another order"
    assert tags == sorted(tags, key=order.index)
    paths = list(document["paths"])
    inference = [path for path in paths if path.endswith("/infer")]
    control = [path for path in paths if path.startswith("/v2") and path not in inference]
    v1 = [path for path in paths if path.startswith("/v1")]
    status = ["/healthz", "/readyz", "/metrics", "/version"]
    assert paths == v1 + status + inference + control


async def test_each_failure_has_examples_that_match_its_schema(document):
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                continue
            for content in response["content"].values():
                examples = [each["value"] for each in content.get("examples", {}).values()]
                examples += [content["example"]] if "example" in content else []
                assert examples, f"{name}: {status}"
                for example in examples:
                    assert schema_errors(document, content["schema"], example) == []
                    assert example.get("status", status) in (int(status), status, "warming up")


async def test_each_error_of_v1_has_its_example_in_each_route(document):
    codes = sorted(
        code for error, (_, code) in PROBLEMS.items() if not issubclass(error, SessionError)
    )
    for endpoint in ENDPOINTS:
        responses = document["paths"][endpoint.path]["post"]["responses"]
        problems = [
            example["value"]
            for status, response in responses.items()
            if status != "200"
            for example in response["content"]["application/problem+json"]["examples"].values()
        ]
        assert sorted(problem["code"] for problem in problems) == codes


async def test_everything_is_described(document):
    schemas = document["components"]["schemas"]
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], f"{name}: {parameter['name']}"
        for status, response in operation["responses"].items():
            assert response["description"], f"{name}: {status}"
    for name, schema in schemas.items():
        assert schema["description"], name
        for key, value in schema.get("properties", {}).items():
            # a description that repeats the one of its type is left out
            described = value if "description" in value else resolved(document, value)
            assert described["description"], f"{name}.{key}"


async def test_no_description_is_of_a_name_that_does_not_exist():
    assert DESCRIPTIONS["operations"].keys() == {endpoint.path for endpoint in ENDPOINTS}
    assert DESCRIPTIONS["tensors"].keys() == {name for e in ENDPOINTS for name in e.names}
    assert DESCRIPTIONS["outputs"].keys() == {name for e in ENDPOINTS for name in e.outputs}
    entries = (*VARIANTS.values(), *SCHEMES.values())
    parameters = {name for entry in entries for name in entry.parameters}
    assert DESCRIPTIONS["rope_parameters"].keys() == parameters


async def test_every_route_has_an_example():
    assert {endpoint.path for endpoint in ENDPOINTS} == {path for path, _ in CASES}


async def test_the_docs_page_loads_nothing_from_other_hosts(shared_client):
    page = (await shared_client.get("/docs")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/")
        assert (await shared_client.get(link)).status_code == 200
    assert "/openapi.json" in page


async def test_the_docs_page_folds_the_control_routes_of_v2(shared_client, document):
    page = (await shared_client.get("/docs")).text
    (folded,) = re.findall(r'layoutActions.show\(\["operations-tag", "([^"]+)"\], false\)', page)
    assert folded == document["tags"][-1]["name"]
