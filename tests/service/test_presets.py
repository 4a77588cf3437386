"""Presets, built in and of the operator, and the lists of presets and variants."""

import json
import math

import httpx
import pytest
import torch

import rope_core
from rope_core import SCHEMES, VARIANTS, CosSin, positions, resolve
from rope_core.presets import MAX_BYTES, built_in
from service.lifecycle import Lifecycle
from service.server.app import create_app
from service.settings import Settings
from service.wire import Message
from tests.service import rope_formulas
from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import answered, params
from tests.service.rope_cases import LLAMA, D, resolved

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


async def test_presets_and_variants_are_listed(client):
    presets = (await client.get("/v1/presets")).json()["presets"]
    assert [entry["name"] for entry in presets] == list(built_in())
    catalog = (await client.get("/v1/variants")).json()
    assert [entry["name"] for entry in catalog["variants"]] == list(VARIANTS)
    assert [entry["name"] for entry in catalog["schemes"]] == list(SCHEMES)
    assert [entry["name"] for entry in catalog["builders"]] == list(positions.BUILDERS)
    (yarn,) = [entry for entry in catalog["variants"] if entry["name"] == "yarn"]
    (factor,) = [entry for entry in yarn["parameters"] if entry["name"] == "factor"]
    assert (factor["type"], factor["required"]) == ("number or null", False)
    (grid,) = [entry for entry in catalog["builders"] if entry["name"] == "grid_positions"]
    start = {"name": "start", "type": "integer", "required": False, "default": 0}
    assert start in grid["arguments"]
    float64, hf = (catalog["largest_error_of_cos"][name] for name in ("float64", "hf"))
    assert max(float64.values()) < 1e-7 < hf["131071"]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b", "qwen2.5-7b-instruct-yarn"])
async def test_a_preset_is_its_config(client, codec, name):
    at = torch.tensor([0, 3, 40_000])
    resolved = resolve(built_in()[name].config)
    expected = rope_core.cos_sin(CosSin(at, resolved.rope))
    gain = 0.1 * math.log(4) + 1 if name.endswith("yarn") else 1.0
    for rope in (name, {"preset": name}, {"config": dict(built_in()[name].config)}):
        message = Message({"positions": at}, params(rope=rope))
        answer = await answered(client, codec, "/v1/cos_sin", message)
        assert torch.equal(answer.tensors["cos"], expected.cos)
        assert torch.equal(answer.tensors["sin"], expected.sin)
        # the frequencies of the fastest pair, 1 radian per position, are never scaled
        torch.testing.assert_close(answer.tensors["cos"][:2, 0] / gain, at[:2].cos())


@pytest.mark.parametrize("rope", ["meta-llama/Llama-3.1-8B", {"preset": "META-LLAMA/llama-3.1-8b"}])
async def test_a_preset_by_its_id_on_hugging_face(client, rope):
    answer, expected = await resolved(client, rope), await resolved(client, "llama-3.1-8b")
    assert answer.status_code == 200
    assert answer.json() == expected.json()


@pytest.mark.parametrize("name", ["llama3.1-8b", "meta-llama/Llama-3.1-8B-Instruct"])
async def test_an_unknown_preset_proposes_the_nearest(client, name):
    for rope in (name, {"preset": name}):
        answer = await resolved(client, rope)
        assert answer.status_code == 422
        assert "the nearest is 'llama-3.1-8b'" in answer.json()["detail"]


async def test_a_head_of_deepseek_says_its_widths(client):
    def body(width):
        return {"q": [[[1.0] * width]], "rope": "deepseek-ai/DeepSeek-V3"}

    answer = await client.post("/v1/rotate", json=body(128))
    assert answer.status_code == 422
    assert "rope.head_dim must be 64: " in answer.json()["detail"]
    assert "; or 192: " in answer.json()["detail"]
    for width in (64, 192):
        assert (await client.post("/v1/rotate", json=body(width))).status_code == 200


@pytest.mark.parametrize("name", built_in())
async def test_every_preset_resolves(client, name):
    answer = await resolved(client, {"preset": name, "layer": 0})
    if answer.status_code == 422 and "layer" in answer.json()["detail"]:
        answer = await resolved(client, name)
    values, config = answer.json(), built_in()[name].config
    config = config.get("text_config", config)
    if not values["rotates"]:
        assert values["nope"]
        return
    rope, inv_freq = values["rope"], values["inv_freq"]["data"]
    assert len(inv_freq) == rope["rotary_dim"] / 2 <= rope["head_dim"] / 2
    if "rope_theta" in config and not values["layer_type"]:
        assert rope["theta"] == config["rope_theta"]
    if rope["rope_type"] == "default" and rope["axes"] is None:
        expected = rope_formulas.inv_freq(rope["head_dim"], rope)
        torch.testing.assert_close(torch.tensor(inv_freq).double(), expected, rtol=1e-6, atol=0)


def create_app_with_presets(folder, monkeypatch):
    monkeypatch.setenv("ROPE_PRESETS_DIR", str(folder))
    return create_app(Settings(device="cpu", log_level="error"), Lifecycle())


async def test_presets_of_the_operator(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text(json.dumps(LLAMA | {"rope_theta": 77.0}))
    (tmp_path / "ours").mkdir()
    infinite = {"time_step_limit": [0.0, float("inf")]}  # as the files of Mamba have it
    (tmp_path / "ours" / "config.json").write_text(json.dumps(LLAMA | infinite))
    (tmp_path / "llama-3.1-8b.json").write_text(json.dumps(LLAMA))
    app = create_app_with_presets(tmp_path, monkeypatch)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        assert (await resolved(client, "mine")).json()["rope"]["theta"] == 77.0
        assert (await resolved(client, {"preset": "ours"})).json()["rope"]["head_dim"] == D
        values = (await resolved(client, "llama-3.1-8b")).json()
        assert values["rope"]["head_dim"] == D, "the operator's preset replaces the built-in one"
        assert (await resolved(client, "meta-llama/Llama-3.1-8B")).json() == values
        listed = (await client.get("/v1/presets")).json()["presets"]
        presets = {entry["name"]: entry for entry in listed}
        assert presets["mine"]["config"]["rope_theta"] == 77.0
        assert presets["ours"]["config"]["time_step_limit"] == [0.0, None]
        assert presets["ours"]["source"] == "ours/config.json"
        assert presets.keys() > built_in().keys()


def write_bad_presets(folder):
    """Write a file of each bad kind; return the beginning of the reason of each, by name."""
    (folder / "good.json").write_text(json.dumps(LLAMA))
    (folder / "cut.json").write_text('{"model_type": "llama"')
    (folder / "list.json").write_text("[]")
    (folder / "large.json").write_bytes(b"{}".ljust(MAX_BYTES + 1))
    (folder / "deep.json").write_text('{"a": ' + "[" * 300 + "]" * 300 + "}")
    (folder / "half.json").write_text('{"a": "\\ud800"}')
    (folder / "Bad Name.json").write_text("{}")
    (folder / "link.json").symlink_to("nowhere")
    (folder / "twice.json").write_text("{}")
    (folder / "twice").mkdir()
    (folder / "twice" / "config.json").write_text("{}")
    (folder / "llama-3.1-8b.json").write_text("{")
    return {
        "cut": "cut.json must be a JSON object, got none: ",
        "list": "list.json must be a JSON object, got a list",
        "large": f"large.json must be of at most {MAX_BYTES} bytes, got more",
        "deep": "deep.json must be writable as JSON, got: ",
        "half": "half.json must be writable as JSON, got: ",
        "Bad Name": "Bad Name.json must be named like ",
        "link": "link.json must be readable, got No such file",
        "twice": "twice/config.json must be the only preset of its name",
        "llama-3.1-8b": "llama-3.1-8b.json must be a JSON object, got none: ",
    }


async def test_a_bad_preset_is_refused_with_its_reason(tmp_path, monkeypatch, caplog):
    reasons = write_bad_presets(tmp_path)
    app = create_app_with_presets(tmp_path, monkeypatch)
    logged = {r.fields["preset"]: r for r in caplog.records if r.msg == "a preset is refused"}
    assert logged.keys() == reasons.keys()
    assert {record.levelname for record in logged.values()} == {"WARNING"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        answer = (await client.get("/v1/presets")).json()
        assert {"good", *built_in()} - {"llama-3.1-8b"} == {p["name"] for p in answer["presets"]}
        refused = {entry["name"]: entry for entry in answer["refused"]}
        assert refused.keys() == reasons.keys()
        for name, reason in reasons.items():
            assert refused[name]["reason"].startswith(reason)
            assert logged[name].fields["reason"] == refused[name]["reason"]
            for rope in (name, {"preset": name, "layer": 0}):
                response = await resolved(client, rope)
                assert (response.status_code, response.json()["code"]) == (422, "config")
                assert f"got {name!r}: {reason}" in response.json()["detail"]
        by_id = await resolved(client, "meta-llama/Llama-3.1-8B")
        assert by_id.status_code == 422, "not the numbers of the built-in preset"
        assert (await resolved(client, "good")).json()["rope"]["head_dim"] == D


async def test_a_preset_that_resolves_to_nothing_is_refused_when_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text(json.dumps(LLAMA | {"rope_scaling": {"type": "new"}}))
    (tmp_path / "base.json").write_text(json.dumps(LLAMA | {"rope_theta": math.inf}))
    app = create_app_with_presets(tmp_path, monkeypatch)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        for name, key in (("mine", "rope_type"), ("base", "rope_theta")):
            response = await resolved(client, name)
            assert response.status_code == 422
            assert key in response.json()["detail"]
        assert (await client.get("/v1/presets")).json()["refused"] == []


async def test_a_missing_folder_of_presets_stops_the_start(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"ROPE_PRESETS_DIR: .* must be readable"):
        create_app_with_presets(tmp_path / "nowhere", monkeypatch)


async def test_the_process_ends_without_its_folder_of_presets(tmp_path, serve):
    with pytest.raises(RuntimeError, match=r"ROPE_PRESETS_DIR: the folder of presets must be"):
        serve(ROPE_PRESETS_DIR=str(tmp_path / "nowhere")).__enter__()
