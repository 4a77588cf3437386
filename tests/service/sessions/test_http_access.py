"""Who may have sessions, what logs and metrics show of them, and limits of requests."""

import time
from typing import Any
from unittest.mock import patch

import httpx
import pytest

from service.batching.admission import Admission, Charge
from service.errors import ShuttingDown
from service.inference.handler import RequestContext
from service.lifecycle import Lifecycle
from service.observability import logs
from service.sessions.build import build_sessions
from service.sessions.handler import SessionHandler
from service.sessions.paths import hash_of_id
from service.wire import Message
from tests.service.access.keys_files import table
from tests.service.conftest import asking, running
from tests.service.messages import check_problem
from tests.service.sessions.http_sessions import SMALL, HttpSessions, http_sessions, kv, qkv


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    """Lines of the log."""
    written: list[str] = []
    monkeypatch.setattr(logs.output, "write", written.extend)
    return written


@pytest.mark.parametrize(
    ("settings", "is_on"),
    [
        ({"sessions": "off"}, False),
        ({"sessions": "on"}, True),
        ({"sessions": "on", "http_host": "0.0.0.0"}, False),
        ({"sessions": "open", "http_host": "0.0.0.0"}, True),
    ],
)
async def test_sessions_are_on_or_off(settings, is_on):
    async with http_sessions(**settings) as http:
        answers = [
            await http.client.post("/v1/sessions", json=SMALL),
            await http.client.get("/v1/sessions"),
            await http.client.post("/v1/step", json={}),
            await http.client.get("/v1/sessions/x"),
        ]
    if is_on:
        assert [answer.status_code for answer in answers] == [201, 200, 422, 404]
        assert answers[3].json()["code"] == "no_session"
    else:
        for answer in answers:
            check_problem(answer, 404, "sessions_off", "ROPE_SESSIONS")


async def test_tenants_do_not_see_each_other(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text(
        table("a", ["key of a"], 'scopes = ["infer", "sessions"]')
        + table("b", ["key of b"], 'scopes = ["sessions"]')
        + table("c", ["key of c"], 'scopes = ["infer"]')
    )
    async with running(Lifecycle(), keys_file=file, kv_bytes=2**22) as app, asking(app) as client:

        async def ask(tenant: str, method: str, path: str, body: Any = None) -> httpx.Response:
            headers = {"authorization": f"Bearer key of {tenant}"}
            return await client.request(method, path, json=body, headers=headers)

        mine = await ask("a", "POST", "/v1/sessions", SMALL | {"name": "same"})
        assert mine.status_code == 201, mine.text
        path = f"/v1/sessions/{mine.json()['id']}"
        for method, where in (("GET", path), ("DELETE", path), ("POST", f"{path}/truncate")):
            check_problem(await ask("b", method, where, {}), 404, "no_session", "no session")
        theirs = await ask("b", "POST", "/v1/sessions", SMALL | {"name": "same"})
        assert theirs.status_code == 201
        assert len((await ask("b", "GET", "/v1/sessions")).json()["sessions"]) == 1
        for where in ("/v1/sessions", "/v1/step"):
            check_problem(await ask("c", "POST", where, {}), 403, "forbidden", "")
        check_problem(await client.get(path), 401, "unauthenticated", "")


async def test_ids_are_not_in_logs_and_metrics(lines):
    async with http_sessions(log_level="info") as http:
        session = await http.new()
        await http.ok(session, "append", kv(1))
        await http.call(session, "append", {})
        await http.client.get(f"/v1/sessions/{session}/nowhere")
        await http.client.get(f"/v1/sessions/{session}")
        metrics = (await http.client.get("/metrics")).text
    secret = session.split(".")[3]
    assert secret not in metrics
    assert 'route="/v1/sessions/{id}/append"' in metrics
    assert 'route="/v1/sessions/{id}"' in metrics
    logged = "".join(lines)
    assert secret not in logged
    assert f'"/v1/sessions/{hash_of_id(session)}/append"' in logged


@pytest.fixture
async def http():
    async with http_sessions() as http:
        yield http


async def test_the_order_of_refusals(http: HttpSessions):
    session = await http.new()
    path = f"/v1/sessions/{session}/step"
    gone = await http.new()
    await http.client.delete(f"/v1/sessions/{gone}")
    text = {"content-type": "text/plain"}
    refused = await http.client.post(
        f"/v1/sessions/{gone}/step", content=b"x", headers=text | {"x-session-id": session}
    )
    check_problem(refused, 400, "bad_header", "X-Session-Id")
    refused = await http.client.post(f"/v1/sessions/{gone}/step", content=b"x", headers=text)
    check_problem(refused, 410, "session_gone", "deleted")
    check_problem(
        await http.client.post(path, content=b"x", headers=text), 415, "unsupported_media_type", ""
    )
    await http.client.patch(f"/v1/sessions/{session}", json={"frozen": True})
    json_type = {"content-type": "application/json"}
    refused = await http.client.post(path, content=b"{", headers=json_type)
    check_problem(refused, 400, "bad_message", "")
    check_problem(await http.client.post(path, json={"x": 1}), 423, "frozen", "")


async def test_limits_of_requests(http: HttpSessions):
    session = await http.new()
    path = f"/v1/sessions/{session}/append"
    refused = await http.client.post(
        path, content=b" " * 2**21, headers={"content-type": "application/json"}
    )
    check_problem(refused, 413, "too_large", "a body in JSON")
    refused = await http.client.post(f"{path}?layer=0", json={})
    check_problem(refused, 400, "bad_query", "no parameters in the query")
    refused = await http.client.post(path, json={}, headers={"x-rope-params": "{}"})
    check_problem(refused, 400, "bad_header", "X-Rope-Params")
    refused = await http.client.post(path, json={}, headers={"x-request-timeout-ms": "0"})
    check_problem(refused, 400, "bad_header", "X-Request-Timeout-Ms")


async def test_json_in_and_out(http: HttpSessions):
    session = await http.new()
    tokens = {name: x.tolist() for name, x in qkv(1).items()}
    path = f"/v1/sessions/{session}/step"
    answer = (
        await http.client.post(path, json={**tokens, "rows": [0], "expected_length": [0]})
    ).json()
    assert answer["out"]["shape"] == [1, 1, 4, 8]
    assert answer["length"] == [1]
    accept = {"accept": "application/x-safetensors"}
    answer = await http.client.post(path, json=tokens, headers=accept)
    assert answer.headers["content-type"] == "application/x-safetensors"
    forked = await http.client.post(f"/v1/sessions/{session}/fork", json={}, headers=accept)
    assert forked.headers["content-type"] == "application/json", "documents are JSON"


async def test_a_stream_forks_nothing_once_the_service_ends():
    handlers: list[SessionHandler] = []

    def build(*arguments: Any) -> SessionHandler:
        handlers.append(build_sessions(*arguments))
        return handlers[-1]

    lifecycle = Lifecycle()
    context = RequestContext(time.monotonic() + 60, Charge(Admission(2**20)), None)
    with patch("service.oip.state.build_sessions", build):
        async with running(lifecycle, kv_bytes=2**22) as app, asking(app) as client:
            session = await HttpSessions(client).new()
            await handlers[0].call(session, "fork", Message({}), context)
            lifecycle.drain()
            with pytest.raises(ShuttingDown):
                await handlers[0].call(session, "fork", Message({}), context)
