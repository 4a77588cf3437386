"""The routes of `/v2` that do not infer."""

from functools import partial

import pytest

from service.lifecycle import Phase

MODELS = ["rope", "rope_attention", "rope_cos_sin"]


async def test_server_metadata_lists_only_what_is_served(client):
    server = (await client.get("/v2")).json()
    assert [*server] == ["name", "version", "extensions"]
    assert server["name"] == "rope-service"
    assert {"binary_tensor_data", "statistics", "schedule_policy"} <= {*server["extensions"]}
    assert "system_shared_memory" not in server["extensions"]


@pytest.mark.parametrize("version", ["", "/versions/1"])
@pytest.mark.parametrize("name", MODELS)
async def test_metadata_and_configuration_of_a_model_agree(client, name, version):
    metadata = (await client.get(f"/v2/models/{name}{version}")).json()
    config = (await client.get(f"/v2/models/{name}{version}/config")).json()
    assert metadata["name"] == config["name"] == name
    assert metadata["inputs"]
    assert metadata["outputs"]
    for key, config_key in (("inputs", "input"), ("outputs", "output")):
        for tensor, tensor_config in zip(metadata[key], config[config_key], strict=True):
            assert tensor["name"] == tensor_config["name"]
            assert f"TYPE_{tensor['datatype']}" == tensor_config["data_type"]
            assert tensor["shape"] == tensor_config["dims"]
    assert metadata["versions"] == ["1"]
    assert config["max_batch_size"] == 0


async def test_the_query_string_is_ignored(client):
    for path in ("/v2/models/rope", "/v2/models/rope/ready", "/v2/trace/setting"):
        plain, with_query = await client.get(path), await client.get(path + "?version=9&name=nope")
        assert (plain.status_code, plain.json()) == (with_query.status_code, with_query.json())
        assert "error" not in plain.json()


async def test_health_and_index_follow_the_phase(client, lifecycle):
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
        assert [entry["name"] for entry in index] == MODELS
        assert {entry["state"] for entry in index} == {"READY" if ready == 200 else "UNAVAILABLE"}
        ready_only = (await client.post("/v2/repository/index", json={"ready": True})).json()
        assert len(ready_only) == (3 if ready == 200 else 0)


async def test_settings_of_tracing_and_logging_are_read_only(client):
    for path in ("/v2/trace/setting", "/v2/models/rope/trace/setting", "/v2/logging"):
        settings = (await client.get(path)).json()
        assert settings
        assert (await client.post(path, content=b"{}")).json() == settings
        refused = await client.post(path, json={"log_verbose_level": 1})
        assert refused.status_code == 501
        assert [*refused.json()] == ["error"]
        assert (await client.get(path)).json() == settings
    assert (await client.get("/v2/trace/setting")).json()["trace_level"] == ["OFF"]


REFUSED = [
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


@pytest.mark.parametrize(("method", "path", "status"), REFUSED)
async def test_unknown_and_unsupported_requests_are_refused(client, method, path, status):
    response = await client.request(method, path)
    assert response.status_code == status
    if path != "/V2":
        assert [*response.json()] == ["error"]
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"ready": 1}', b"\xff", b"[" * 10_000])
async def test_a_malformed_body_is_refused(client, content):
    response = await client.post("/v2/repository/index", content=content)
    assert response.status_code == 400
    assert [*response.json()] == ["error"]


async def test_a_body_above_the_limit_is_refused(client):
    response = await client.post("/v2/repository/index", content=b" " * 2**17)
    assert response.status_code == 413


async def test_there_are_no_regions_of_cuda_memory(client):
    assert (await client.get("/v2/cudasharedmemory/status")).json() == []
    assert (await client.post("/v2/cudasharedmemory/unregister")).content == b""
    assert (await client.post("/v2/cudasharedmemory/region/r/unregister")).status_code == 200
    assert (await client.get("/v2/cudasharedmemory/region/r/status")).status_code == 404


async def test_a_refusal_precedes_the_body(client):
    """Shared memory is off, so whether the body is good does not matter."""
    path = "/v2/systemsharedmemory/region/r/register"
    for content in (b"", b"{", b" " * 2**17):
        assert (await client.post(path, content=content)).status_code == 501
