"""What tritonclient's clients are told of the service and of its models."""

import time

import pytest
import torch

MODELS = {
    "rope": ({"x": "FP32", "positions": "INT64"}, {"rotated": "FP32"}),
    "rope_attention": (
        {"q": "FP32", "k": "FP32", "v": "FP32", "positions": "INT64"},
        {"output": "FP32", "lse": "FP32"},
    ),
    "rope_cos_sin": ({"positions": "INT64"}, {"cos": "FP32", "sin": "FP32"}),
}
SPANS = ("queue", "compute_input", "compute_infer", "compute_output")
VERSIONS = ("", "1")


def test_lives_and_is_ready(client):
    assert client.is_server_live() is True
    assert client.is_server_ready() is True


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", MODELS)
def test_each_model_is_ready(client, model, version):
    assert client.is_model_ready(model, version) is True


@pytest.mark.parametrize(("model", "version"), [("nope", ""), ("nope", "1"), ("rope", "2")])
def test_what_is_unknown_is_not_ready(client, model, version):
    assert client.is_model_ready(model, version) is False


def test_the_service_tells_its_name_and_what_it_serves(client):
    told = client.get_server_metadata()
    assert told["name"]
    assert told["version"]
    extensions = {"model_repository", "schedule_policy", "model_configuration"}
    extensions |= {"binary_tensor_data", "parameters", "statistics"}
    assert extensions <= {*told["extensions"]}
    absent = {"classification", "sequence", "system_shared_memory", "cuda_shared_memory"}
    assert not absent & {*told["extensions"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", MODELS)
def test_metadata_and_configuration_agree(client, model, version):
    told = client.get_model_metadata(model, version)
    config = client.get_model_config(model, version)
    config = config.get("config", config)
    assert told["name"] == config["name"] == model
    assert told["versions"] == ["1"]
    assert config["max_batch_size"] == 0
    assert config["model_transaction_policy"]["decoupled"] is False
    assert config["response_cache"]["enable"] is False
    for of, within, datatypes in zip(
        ("inputs", "outputs"), ("input", "output"), MODELS[model], strict=True
    ):
        described = {each["name"]: each for each in told[of]}
        assert [*described] == [each["name"] for each in config[within]]
        for each in config[within]:
            slot = described[each["name"]]
            assert each["data_type"] == f"TYPE_{slot['datatype']}"
            assert [*each["dims"]] == slot["shape"]
            assert all(type(dim) is int for dim in slot["shape"])
        assert datatypes.items() <= {n: s["datatype"] for n, s in described.items()}.items()
    optional = {each["name"] for each in config["input"] if each["optional"]}
    assert not optional & {"x", "q", "k", "v"}
    assert model == "rope_cos_sin" or "positions" in optional


@pytest.mark.parametrize(("model", "version"), [("nope", ""), ("rope", "2")])
@pytest.mark.parametrize(
    "method", ["get_model_metadata", "get_model_config", "get_inference_statistics"]
)
def test_what_is_unknown_is_not_told_of(client, refused, method, model, version):
    with refused("404"):
        getattr(client, method)(model, version)


def statistics(client, *named):
    return client.get_inference_statistics(*named)["model_stats"]


def test_statistics_have_every_field(client):
    told = statistics(client)
    assert {*MODELS} <= {each["name"] for each in told}
    assert [each["name"] for each in statistics(client, "rope")] == ["rope"]
    assert [each["name"] for each in statistics(client, "rope", "1")] == ["rope"]
    for each in told:
        assert each["version"] == "1"
        for name in ("last_inference", "inference_count", "execution_count"):
            assert type(each[name]) is int
        assert {"batch_stats", "memory_usage"} <= {*each}
        assert not each.get("response_stats")
        durations = each["inference_stats"]
        assert {"success", "fail", *SPANS, "cache_hit", "cache_miss"} <= {*durations}
        for duration in durations.values():
            assert {*duration} == {"count", "ns"}
            assert all(type(value) is int for value in duration.values())


def test_statistics_grow_by_what_was_asked(client):
    ask = client.ask("rope", {"x": torch.ones(1, 3, 2, 8)})
    (before,) = statistics(client, "rope")
    client.together([ask] * 7)
    (after,) = statistics(client, "rope")
    assert after["inference_count"] - before["inference_count"] == 7
    assert 1 <= after["execution_count"] - before["execution_count"] <= 7
    assert abs(after["last_inference"] / 1000 - time.time()) < 10
    old, new = before["inference_stats"], after["inference_stats"]
    for name in ("success", *SPANS):
        assert new[name]["count"] - old[name]["count"] == 7
    assert new["success"]["ns"] > old["success"]["ns"]
    assert new["compute_infer"]["ns"] > old["compute_infer"]["ns"]
    assert new["fail"] == old["fail"]
    runs = sum(batch["compute_infer"]["count"] for batch in after["batch_stats"])
    assert runs == after["execution_count"]


def test_what_is_refused_is_no_success(client, refused):
    (before,) = statistics(client, "rope")
    with refused("400"):
        client.infer("rope", {"x": torch.ones(3)})
    (after,) = statistics(client, "rope")
    assert after["inference_count"] == before["inference_count"]
    assert after["inference_stats"]["success"] == before["inference_stats"]["success"]


def test_the_repository_has_each_model_ready(client):
    index = client.get_model_repository_index()
    index = index["models"] if client.wire == "grpc" else index
    found = {each["name"]: each for each in index}
    assert {*MODELS} <= {*found}
    for each in found.values():
        assert (each["version"], each["state"]) == ("1", "READY")
        assert not each.get("reason")


def test_models_are_neither_loaded_nor_unloaded(client, refused):
    with refused("503"):
        client.load_model("rope")
    with refused("503"):
        client.load_model("rope", config='{"name":"rope"}', files={"file:1/x": b"abc"})
    with refused("503"):
        client.unload_model("rope")
    with refused("503"):
        client.unload_model("rope", unload_dependents=True)
    assert client.is_model_ready("rope")


def test_traces_are_off(client, refused):
    told = client.get_trace_settings()
    of_model = client.get_trace_settings("rope")
    if client.wire == "grpc":
        told, of_model = (
            {name: each["value"] for name, each in of["settings"].items()}
            for of in (told, of_model)
        )
    assert told["trace_level"] == ["OFF"]
    assert {"trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode"} <= {*told}
    assert of_model == told
    for model in (None, "rope"):
        with refused("501"):
            client.update_trace_settings(model, {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    with refused("404"):
        client.get_trace_settings("nope")


def test_logs_are_as_they_are(client, refused):
    told = client.get_log_settings()
    if client.wire == "grpc":
        told = {name: next(iter(each.values())) for name, each in told["settings"].items()}
    assert {"log_file", "log_verbose_level", "log_format"} <= {*told}
    assert all(type(told[f"log_{level}"]) is bool for level in ("info", "warning", "error"))
    with refused("501"):
        client.update_log_settings({"log_file": "/tmp/nowhere.log"})


def test_headers_and_queries_of_ones_own_are_no_matter(client):
    assert client.is_server_live(headers={"x-anything": "at all"})
    if client.wire == "http":
        assert client.is_server_live(query_params={"a": 1, "b": ["c", "d"]})
        assert client.get_server_metadata(query_params={"test": "1"})["name"]
    else:
        assert client.get_server_metadata(as_json=True)["name"]
        assert client.get_model_config("rope", as_json=True)["config"]["name"] == "rope"
