"""What the protocol tells beside inference, over HTTP."""

from functools import partial

import pytest

from service.lifecycle import Phase

MODELS = ["rope", "rope_attention", "rope_cos_sin"]


async def test_what_the_service_and_its_models_are(client):
    told = (await client.get("/v2")).json()
    assert [*told] == ["name", "version", "extensions"]
    assert told["name"] == "rope-service"
    assert {"binary_tensor_data", "statistics", "schedule_policy"} <= {*told["extensions"]}
    assert "system_shared_memory" not in told["extensions"]
    for name in MODELS:
        for version in ("", "/versions/1"):
            told = (await client.get(f"/v2/models/{name}{version}")).json()
            config = (await client.get(f"/v2/models/{name}{version}/config")).json()
            for of, kind in (("inputs", "input"), ("outputs", "output")):
                for one, other in zip(told[of], config[kind], strict=True):
                    assert one["name"] == other["name"]
                    assert f"TYPE_{one['datatype']}" == other["data_type"]
                    assert one["shape"] == other["dims"]
            assert told["versions"] == ["1"]
            assert config["max_batch_size"] == 0


async def test_a_query_has_no_meaning(client):
    for path in ("/v2/models/rope", "/v2/models/rope/ready", "/v2/trace/setting"):
        plain, asked = await client.get(path), await client.get(path + "?version=9&name=nope")
        assert (plain.status_code, plain.json()) == (asked.status_code, asked.json())


async def test_health_is_json_and_follows_the_life(client, lifecycle):
    path = "/v2/models/rope/ready"
    for enter, live, ready in [
        (lifecycle.warmed_up, 200, 200),
        (lifecycle.drain, 200, 503),
        (partial(lifecycle.fail, Phase.LOST), 503, 503),
    ]:
        enter()
        answer = await client.get("/v2/health/live")
        assert (answer.status_code, answer.json()) == (live, {"live": live == 200})
        answer = await client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()) == (ready, {"ready": ready == 200})
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (
            ready,
            {"name": "rope", "ready": ready == 200},
        )
        index = (await client.post("/v2/repository/index")).json()
        assert [each["name"] for each in index] == MODELS
        assert {each["state"] for each in index} == {"READY" if ready == 200 else "UNAVAILABLE"}
        only = (await client.post("/v2/repository/index", json={"ready": True})).json()
        assert len(only) == (3 if ready == 200 else 0)


async def test_settings_of_traces_and_of_the_log_are_told_and_not_changed(client):
    for path in ("/v2/trace/setting", "/v2/models/rope/trace/setting", "/v2/logging"):
        told = (await client.get(path)).json()
        assert told
        assert (await client.post(path, content=b"{}")).json() == told
        refused = await client.post(path, json={"log_verbose_level": 1})
        assert refused.status_code == 501
        assert [*refused.json()] == ["error"]
    assert (await client.get("/v2/trace/setting")).json()["trace_level"] == ["OFF"]


NOT_THERE = [
    ("GET", "/v2/models/nope", 404),
    ("GET", "/v2/models/rope/versions/2", 404),
    ("GET", "/v2/models/rope/versions/x/ready", 404),
    ("GET", "/v2/models/nope/config", 404),
    ("GET", "/v2/models/nope/stats", 404),
    ("GET", "/v2/models/nope/ready", 404),
    ("GET", "/v2/models/nope/trace/setting", 404),
    ("GET", "/v2/models/rope/versions/1/trace/setting", 404),
    ("POST", "/v2/models/nope/infer", 404),
    ("POST", "/v2/models/rope/versions/7/infer", 404),
    ("POST", "/v2/models/rope/generate", 404),
    ("GET", "/v2/nothing", 404),
    ("GET", "/v2/", 404),
    ("GET", "/V2", 404),
    ("GET", "/v2/models/rope/infer", 405),
    ("POST", "/v2", 405),
    ("GET", "/v2/repository/index", 405),
    ("POST", "/v2/repository/models/rope/load", 503),
    ("POST", "/v2/repository/models/rope/unload", 503),
    ("GET", "/v2/systemsharedmemory/status", 501),
    ("POST", "/v2/systemsharedmemory/region/r/register", 501),
    ("POST", "/v2/systemsharedmemory/unregister", 501),
    ("POST", "/v2/cudasharedmemory/region/r/register", 501),
]


@pytest.mark.parametrize(("method", "path", "status"), NOT_THERE)
async def test_what_there_is_not(client, method, path, status):
    response = await client.request(method, path)
    assert response.status_code == status
    if path != "/V2":
        assert [*response.json()] == ["error"]
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"ready": 1}', b"\xff", b"[" * 10_000])
async def test_a_broken_body_is_refused(client, content):
    response = await client.post("/v2/repository/index", content=content)
    assert response.status_code == 400
    assert [*response.json()] == ["error"]


async def test_a_huge_body_is_refused(client):
    response = await client.post("/v2/repository/index", content=b" " * 2**17)
    assert response.status_code == 413


async def test_cuda_memory_has_no_regions(client):
    assert (await client.get("/v2/cudasharedmemory/status")).json() == []
    assert (await client.post("/v2/cudasharedmemory/unregister")).content == b""
    assert (await client.post("/v2/cudasharedmemory/region/r/unregister")).status_code == 200
