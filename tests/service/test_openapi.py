"""The description of the API, and the page that shows it without the internet."""

import json
import re

import pytest

from service.endpoints import ENDPOINTS
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


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
async def test_every_example_works(client, document, endpoint):
    content = document["paths"][endpoint.path]["post"]["requestBody"]["content"]
    answer = await client.post(endpoint.path, json=content["application/json"]["example"])
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) >= set(endpoint.answers) - {"k", "lse"}


async def test_the_page_needs_no_internet(client):
    page = (await client.get("/docs")).text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(links) >= 3
    for link in links:
        assert link.startswith("/")
        assert (await client.get(link)).status_code == 200
    assert "/openapi.json" in page
