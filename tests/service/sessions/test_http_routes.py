"""Create, inspect, list, change and delete sessions over HTTP."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import check_problem
from tests.service.sessions.http_sessions import SMALL, Answer, HttpSessions, http_sessions

pytestmark = every_test_in_one_loop


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[HttpSessions]:
    async with http_sessions() as http:
        yield http


async def test_a_session_is_created_inspected_and_deleted(http):
    created = await http.create(**SMALL, max_tokens=8, name="one", labels=["x"])
    assert created.status == 201
    path = created.headers["location"]
    assert path == f"/v1/sessions/{created['id']}"
    assert created.headers["x-session-expires-in"] == "300"
    assert (created["length"], created["generation"]) == ([0], 0)
    assert created["reserved_bytes"] > 0
    (group,) = created["configuration"]["groups"]
    assert group["layers"] == [0]
    assert group["rope"]["theta"] == 500.0
    assert group["attention"] == {
        **dict.fromkeys(("window", "chunk", "softcap", "scale")),
        "causal": True,
    }
    inspected = await http.inspect(created["id"])
    assert inspected["configuration_digest"] == created["configuration_digest"]
    head = await http.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert (await http.client.delete(path)).status_code == 204
    assert (await http.client.delete(path)).status_code == 204
    gone = await http.client.get(path)
    check_problem(gone, 410, "session_gone", "deleted")
    assert gone.json()["reason"] == "deleted"


async def test_a_model_that_is_null_is_refused(http):
    for name in ("preset", "config"):
        refused = await http.create(**SMALL, **{name: None})
        check_problem(refused.response, 422, "config", f"{name} must be absent, or that of a model")
    refused = await http.create(**SMALL, layers=1025)
    check_problem(refused.response, 422, "config", "layers must be less than or equal to 1024")


async def test_lists_by_label_name_and_cursor(http):
    ids = [await http.new(labels=["listed", str(n)]) for n in range(3)]
    first = Answer(await http.client.get("/v1/sessions?label=listed&limit=2"))
    assert [each["id"] for each in first["sessions"]] == ids[:2]
    query = {"label": "listed", "cursor": first["next_cursor"]}
    rest = Answer(await http.client.get("/v1/sessions", params=query))
    assert [each["id"] for each in rest["sessions"]] == ids[2:]
    assert rest["next_cursor"] is None
    both = Answer(await http.client.get("/v1/sessions?label=listed&label=1"))
    assert [each["id"] for each in both["sessions"]] == ids[1:2]
    unknown = await http.client.get("/v1/sessions?labels=x")
    check_problem(unknown, 422, "unknown", "did you mean label?")


async def test_an_unknown_name_is_told_before_a_missing_one(http):
    for params in ({"heds": 2, "head_dim": 4}, {"groups": [{"heds": 2, "head_dim": 4}]}):
        refused = await http.client.post("/v1/sessions", json=params)
        check_problem(refused, 422, "unknown", "heads?")


async def test_changes(http):
    session = await http.new()
    path = f"/v1/sessions/{session}"
    changed = Answer(await http.client.patch(path, json={"name": "n", "ttl_s": 60, "frozen": True}))
    assert (changed["name"], changed["frozen"]) == ("n", True)
    assert 59 < changed["expires_in_s"] <= 60
    check_problem(await http.client.patch(path, json={"frozen": False}), 423, "frozen", "fork it")
    check_problem(await http.client.patch(path, json={"ttl": 1}), 422, "unknown", "ttl_s")
    other = await http.create(**SMALL, name="n")
    check_problem(other.response, 409, "name_taken", "n")


async def test_paths(http):
    session = await http.new()
    path = f"/v1/sessions/{session}"
    refusal = await http.client.post(f"{path}/trunkate", json={})
    check_problem(refusal, 404, "not_found", "did you mean truncate?")
    assert session not in refusal.text
    refusal = await http.client.get(f"{path}/step")
    check_problem(refusal, 405, "method_not_allowed", "/v1/sessions/{id}/step takes POST, got GET")
    assert refusal.headers["allow"] == "POST"
    headers = {"x-session-id": "another"}
    check_problem(await http.client.get(path, headers=headers), 400, "bad_header", "X-Session-Id")
    forged = path[:-1] + ("A" if path[-1] != "A" else "B")
    check_problem(await http.client.get(forged), 404, "no_session", "no session")
    near = await http.client.get("/v1/session")
    check_problem(near, 404, "not_found", "did you mean /v1/sessions?")


async def test_an_idempotency_key_creates_once(http):
    headers = {"idempotency-key": "k1"}
    first = await http.client.post("/v1/sessions", json=SMALL, headers=headers)
    again = await http.client.post("/v1/sessions", json=SMALL, headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    other = await http.client.post("/v1/sessions", json=SMALL | {"batch": 2}, headers=headers)
    check_problem(other, 422, "config", "Idempotency-Key")
