"""The requests of docs/troubleshooting.md are answered as the page says."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from starlette.testclient import TestClient

from service.lifecycle import Lifecycle
from service.server.app import create_app
from service.settings import Settings
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
EXCHANGE = re.compile(r"```http\n(.+?)\n```\n\n```(text|json)\n(.+?)\n```", re.DOTALL)
TITLES = re.compile(r"^#+ (.+)$", re.MULTILINE)
SESSION = re.findall(r"^    (POST .+)\n    (\{.+\})$", PAGE, re.MULTILINE)
EXCHANGES = [
    pytest.param(*match.groups(), id=TITLES.findall(PAGE, 0, match.start())[-1])
    for match in EXCHANGE.finditer(PAGE)
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service with the folder of presets that the page describes."""
    folder: Path = tmp_path_factory.mktemp("presets")
    name, contents = re.search(r"a file `(\w+\.json)` that ends after `(.+?)`", PAGE).groups()
    (folder / name).write_text(contents)
    settings = Settings(device="cpu", log_level="error", presets_dir=folder)
    num_threads = torch.get_num_threads()
    with TestClient(create_app(settings, Lifecycle())) as client:
        yield client
    torch.set_num_threads(num_threads)


def send(client: httpx.Client, request: str) -> httpx.Response:
    """Send a request: the route, fields of the header, and the body from its first brace on."""
    head, brace, body = request.partition("\n{")
    route, *fields = head.splitlines()
    headers = {"content-type": "application/json", **dict(f.split(": ") for f in fields)}
    return client.request(*route.split(), content=(brace + body).strip(), headers=headers)


@pytest.fixture
def session_id(client) -> Iterator[str]:
    """The session that the page describes; it is deleted afterwards."""
    create, *others = SESSION
    session_id = send(client, "\n".join(create)).json()["id"]
    for route, body in others:
        answer = send(client, f"{route.replace('ID', session_id)}\n{body}")
        assert answer.status_code == 200, answer.text
    yield session_id
    client.delete(f"/v1/sessions/{session_id}")


def check_part(answer: object, part: object) -> None:
    """Assert that `part` is in `answer`: objects may have more members."""
    if isinstance(part, dict):
        assert isinstance(answer, dict)
        for name in part:
            check_part(answer[name], part[name])
    elif isinstance(part, list):
        assert isinstance(answer, list)
        assert len(answer) == len(part)
        for of_answer, of_part in zip(answer, part, strict=True):
            check_part(of_answer, of_part)
    else:
        assert answer == (pytest.approx(part, rel=1e-5) if isinstance(part, float) else part)


@pytest.mark.parametrize(("request_text", "kind", "answer"), EXCHANGES)
def test_a_request_of_the_page_is_answered_as_the_page_says(
    client, session_id, request_text, kind, answer
):
    response = send(client, request_text.replace("/ID", f"/{session_id}"))
    if kind == "text":
        status, _, text = " ".join(answer.split()).partition(": ")
        assert (str(response.status_code), response.json()["error"]) == (status, text)
    else:
        assert response.status_code in (200, 201), response.text
        check_part(response.json(), json.loads(answer))


def test_every_request_of_the_page_has_an_answer():
    assert len(EXCHANGES) == PAGE.count("```http") == PAGE.count("```") // 4 > 40


def test_each_entry_says_why_and_what_to_send():
    entries = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    assert len(entries) >= 18
    for entry in entries:
        title = entry.partition("\n")[0]
        seen, why, rest = entry.partition("**Why.** ")
        assert why, title
        assert "\n" in seen.strip(), title
        assert "**Send** " in rest, title


def test_the_index_leads_from_each_text_to_the_entry_that_has_it():
    entries = {}
    for entry in re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]:
        title = re.sub(r"[^a-z0-9 -]", "", entry.partition("\n")[0].lower())
        entries[title.replace(" ", "-")] = " ".join(entry.split())
    rows = re.findall(r"^\| (.+) \| \[.+\]\(#(.+)\) \|$", PAGE, re.MULTILINE)
    assert [anchor for _, anchor in rows] == [*entries]
    for seen, anchor in rows:
        for words in re.findall("`(.+?)`", seen):
            assert words in entries[anchor]
