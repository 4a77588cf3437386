"""Control calls of the clients of tritonclient: health, metadata, statistics, settings."""

import time

import pytest
import torch

MODELS = {
    "rope": ({"q": "FP32", "k": "FP32", "positions": "INT64"}, {"q": "FP32", "k": "FP32"}),
    "rope_attention": (
        {"q": "FP32", "k": "FP32", "v": "FP32", "positions": "INT64"},
        {"out": "FP32", "lse": "FP32"},
    ),
    "rope_cos_sin": ({"positions": "INT64"}, {"cos": "FP32", "sin": "FP32"}),
}
STEPS = ("queue", "compute_input", "compute_infer", "compute_output")
VERSIONS = ("", "1")


def test_the_server_is_live_and_ready(client):
    assert client.is_server_live() is True
    assert client.is_server_ready() is True


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", MODELS)
def test_each_model_is_ready(client, model, version):
    assert client.is_model_ready(model, version) is True


@pytest.mark.parametrize(("model", "version"), [("nope", ""), ("nope", "1"), ("rope", "2")])
def test_an_unknown_model_is_not_ready(client, model, version):
    assert client.is_model_ready(model, version) is False


def test_server_metadata_lists_the_extensions(client):
    metadata = client.get_server_metadata()
    assert metadata["name"]
    assert metadata["version"]
    extensions = {"model_repository", "schedule_policy", "model_configuration"}
    extensions |= {"binary_tensor_data", "parameters", "statistics"}
    assert extensions <= {*metadata["extensions"]}
    absent = {"classification", "sequence", "system_shared_memory", "cuda_shared_memory"}
    assert not absent & {*metadata["extensions"]}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("model", MODELS)
def test_metadata_and_configuration_agree(client, model, version):
    metadata = client.get_model_metadata(model, version)
    config = client.get_model_config(model, version)
    config = config.get("config", config)
    assert metadata["name"] == config["name"] == model
    assert metadata["versions"] == ["1"]
    assert config["max_batch_size"] == 0
    assert config["model_transaction_policy"]["decoupled"] is False
    assert config["response_cache"]["enable"] is False
    for key, config_key, datatypes in zip(
        ("inputs", "outputs"), ("input", "output"), MODELS[model], strict=True
    ):
        tensors = {tensor["name"]: tensor for tensor in metadata[key]}
        assert [*tensors] == [tensor["name"] for tensor in config[config_key]]
        for tensor_config in config[config_key]:
            tensor = tensors[tensor_config["name"]]
            assert tensor_config["data_type"] == f"TYPE_{tensor['datatype']}"
            assert [*tensor_config["dims"]] == tensor["shape"]
            assert all(type(dim) is int for dim in tensor["shape"])
        assert datatypes.items() <= {n: t["datatype"] for n, t in tensors.items()}.items()
    optional = {tensor["name"] for tensor in config["input"] if tensor["optional"]}
    assert optional & {"q", "k", "v"} == ({"q", "k"} if model == "rope" else set())
    assert model == "rope_cos_sin" or "positions" in optional


@pytest.mark.parametrize(("model", "version"), [("nope", ""), ("rope", "2")])
@pytest.mark.parametrize(
    "method", ["get_model_metadata", "get_model_config", "get_inference_statistics"]
)
def test_an_unknown_model_has_no_metadata(client, refused, method, model, version):
    with refused("404"):
        getattr(client, method)(model, version)


def statistics(client, *model):
    return client.get_inference_statistics(*model)["model_stats"]


def test_statistics_have_every_field(client):
    all_models = statistics(client)
    assert {*MODELS} <= {model["name"] for model in all_models}
    assert [model["name"] for model in statistics(client, "rope")] == ["rope"]
    assert [model["name"] for model in statistics(client, "rope", "1")] == ["rope"]
    for model in all_models:
        assert model["version"] == "1"
        for name in ("last_inference", "inference_count", "execution_count"):
            assert type(model[name]) is int
        assert {"batch_stats", "memory_usage"} <= {*model}
        assert not model.get("response_stats")
        durations = model["inference_stats"]
        assert {"success", "fail", *STEPS, "cache_hit", "cache_miss"} <= {*durations}
        for duration in durations.values():
            assert {*duration} == {"count", "ns"}
            assert all(type(value) is int for value in duration.values())


def test_statistics_count_requests(client):
    request = client.request("rope", {"q": torch.ones(1, 3, 2, 8)})
    (before,) = statistics(client, "rope")
    client.infer_all([request] * 7)
    (after,) = statistics(client, "rope")
    assert after["inference_count"] - before["inference_count"] == 7
    assert 1 <= after["execution_count"] - before["execution_count"] <= 7
    assert abs(after["last_inference"] / 1000 - time.time()) < 10
    old, new = before["inference_stats"], after["inference_stats"]
    for name in ("success", *STEPS):
        assert new[name]["count"] - old[name]["count"] == 7
    assert new["success"]["ns"] > old["success"]["ns"]
    assert new["compute_infer"]["ns"] > old["compute_infer"]["ns"]
    assert new["fail"] == old["fail"]
    runs = sum(batch["compute_infer"]["count"] for batch in after["batch_stats"])
    assert runs == after["execution_count"]


def test_a_refused_request_is_no_success(client, refused):
    (before,) = statistics(client, "rope")
    with refused("400"):
        client.infer("rope", {"q": torch.ones(3)})
    (after,) = statistics(client, "rope")
    assert after["inference_count"] == before["inference_count"]
    assert after["inference_stats"]["success"] == before["inference_stats"]["success"]


def test_the_index_has_each_model_ready(client):
    index = client.get_model_repository_index()
    index = index["models"] if client.wire == "grpc" else index
    entries = {entry["name"]: entry for entry in index}
    assert {*MODELS} <= {*entries}
    for entry in entries.values():
        assert (entry["version"], entry["state"]) == ("1", "READY")
        assert not entry.get("reason")


def test_loading_and_unloading_are_refused(client, refused):
    with refused("503"):
        client.load_model("rope")
    with refused("503"):
        client.load_model("rope", config='{"name":"rope"}', files={"file:1/x": b"abc"})
    with refused("503"):
        client.unload_model("rope")
    with refused("503"):
        client.unload_model("rope", unload_dependents=True)
    assert client.is_model_ready("rope")


def test_tracing_is_off_and_cannot_be_changed(client, refused):
    settings, of_model = client.get_trace_settings(), client.get_trace_settings("rope")
    if client.wire == "grpc":
        settings, of_model = (
            {name: setting["value"] for name, setting in response["settings"].items()}
            for response in (settings, of_model)
        )
    assert settings["trace_level"] == ["OFF"]
    assert {"trace_rate", "trace_count", "log_frequency", "trace_file", "trace_mode"} <= {*settings}
    assert of_model == settings
    for model in (None, "rope"):
        with refused("501"):
            client.update_trace_settings(model, {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    with refused("404"):
        client.get_trace_settings("nope")


def test_log_settings_cannot_be_changed(client, refused):
    settings = client.get_log_settings()
    if client.wire == "grpc":
        settings = {name: next(iter(v.values())) for name, v in settings["settings"].items()}
    assert {"log_file", "log_verbose_level", "log_format"} <= {*settings}
    assert all(type(settings[f"log_{level}"]) is bool for level in ("info", "warning", "error"))
    with refused("501"):
        client.update_log_settings({"log_file": "/tmp/nowhere.log"})


def test_additional_headers_and_query_parameters_are_ignored(client):
    assert client.is_server_live(headers={"x-anything": "at all"})
    if client.wire == "http":
        assert client.is_server_live(query_params={"a": 1, "b": ["c", "d"]})
        assert client.get_server_metadata(query_params={"test": "1"})["name"]
    else:
        assert client.get_server_metadata(as_json=True)["name"]
        assert client.get_model_config("rope", as_json=True)["config"]["name"] == "rope"
