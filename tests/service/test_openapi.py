"""The description of the API, and the page that shows it without the internet."""

import json
import re

import pytest

from rope_core import SCHEMES, VARIANTS
from service.endpoints import ENDPOINTS
from service.openapi import EXAMPLES
from service.wire import CODECS


@pytest.fixture
async def document(client):
    return (await client.get("/openapi.json")).json()


async def test_every_route_is_described(document):
    assert {endpoint.path for endpoint in ENDPOINTS} <= set(document["paths"])
    assert {"/healthz", "/readyz", "/metrics", "/version"} <= set(document["paths"])
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path]["post"]
        content = operation["requestBody"]["content"]
        assert set(content) == {codec.media_type for codec in CODECS}
        body = content["application/json"]["schema"]
        assert set(body["properties"]) == endpoint.names | set(endpoint.params.model_fields)
        assert {"200", "400", "413", "415", "422", "503", "504"} <= set(operation["responses"])


async def test_every_reference_leads_somewhere(document):
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in document["components"]["schemas"], name


async def test_routes_without_a_body_are_described_as_they_answer(client, document):
    for path in ("/v1/presets", "/v1/variants"):
        content = document["paths"][path]["get"]["responses"]["200"]["content"]
        described = content["application/json"]["schema"]["properties"]
        assert (await client.get(path)).json().keys() == described.keys()


async def test_every_form_of_rope_is_described(document):
    schemas = document["components"]["schemas"]
    forms = schemas["RotateParams"]["properties"]["rope"]["oneOf"]
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
    answer = await client.post(path, json=content["examples"][name]["value"])
    assert answer.status_code == 200, answer.text
    described = operation["responses"]["200"]["content"]["application/json"]["schema"]
    told = set(described["properties"])
    assert set(answer.json()) <= told or described.get("additionalProperties")
    assert set(answer.json()) & told


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
