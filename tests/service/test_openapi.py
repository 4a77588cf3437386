"""The description of the API, and the page that shows it without the internet."""

import json
import re

import pytest

from rope_core import SCHEMES, VARIANTS
from service.endpoints.params import MODEL_PARAMS
from service.endpoints.table import ENDPOINTS
from service.v1.examples import EXAMPLES
from service.v1.schemas import ANSWERS
from service.wire import CODECS
from tests.service.described import faults


@pytest.fixture
async def document(client):
    return (await client.get("/openapi.json")).json()


def resolved(document, schema):
    return document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]


async def test_every_route_is_described(document):
    assert {endpoint.path for endpoint in ENDPOINTS} <= set(document["paths"])
    assert {"/healthz", "/readyz", "/metrics", "/version"} <= set(document["paths"])
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path]["post"]
        content = operation["requestBody"]["content"]
        assert set(content) == {codec.media_type for codec in CODECS}
        body = resolved(document, content["application/json"]["schema"])
        assert set(body["properties"]) == endpoint.names | set(endpoint.params.model_fields)
        assert {"200", "400", "413", "415", "422", "503", "504"} <= set(operation["responses"])


async def test_every_reference_leads_somewhere(document):
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in document["components"]["schemas"], name


@pytest.mark.parametrize("path", ANSWERS)
async def test_routes_without_a_body_are_described_as_they_answer(client, document, path):
    answer = await client.get(path)
    told = document["paths"][path]["get"]["responses"][str(answer.status_code)]
    assert faults(document, told["content"]["application/json"]["schema"], answer.json()) == []


async def test_measurements_are_described_as_text(client, document):
    told = document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert (await client.get("/metrics")).headers["content-type"].split(";")[0] in told


async def test_every_form_of_rope_is_described(document):
    schemas = document["components"]["schemas"]
    forms = schemas["RotateRequest"]["properties"]["rope"]["oneOf"]
    named = {form["$ref"].rpartition("/")[2] for form in forms if "$ref" in form}
    assert named == {"Rope", "Model", "PresetModel"}
    assert {"type": "string"} in forms
    for entry in (*VARIANTS.values(), *SCHEMES.values()):
        for parameter in entry.parameters:
            assert entry.name in schemas["Rope"]["properties"][parameter]["description"]


CASES = [(path, name) for path, named in EXAMPLES.items() for name in named]


@pytest.mark.parametrize(("path", "name"), CASES, ids=lambda each: each)
async def test_every_example_works(client, document, path, name):
    operation = document["paths"][path]["post"]
    content = operation["requestBody"]["content"]["application/json"]
    example = content["examples"][name]["value"]
    assert faults(document, content["schema"], example) == []
    answer = await client.post(path, json=example)
    assert answer.status_code == 200, answer.text
    described = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert faults(document, described, answer.json()) == []


async def test_defaults_are_told_in_words(document):
    """Generated clients send them otherwise, and what is sent wins over the model's config."""
    assert '"default": ' not in json.dumps(document).replace('"default": {}', "")
    told = document["components"]["schemas"]["AttentionRequest"]["properties"]
    for name in MODEL_PARAMS:
        assert "Default: as the model's config says" in told[name]["description"]
    assert told["k_stride"]["description"].endswith("Default: 1.")


def test_every_route_has_an_example():
    assert {endpoint.path for endpoint in ENDPOINTS} == {path for path, _ in CASES}


async def test_the_page_needs_no_internet(client):
    page = (await client.get("/docs")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/")
        assert (await client.get(link)).status_code == 200
    assert "/openapi.json" in page
