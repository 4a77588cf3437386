"""Presets, built in and of the operator, and the lists of presets and variants."""

import json

import httpx
import pytest
import torch

import rope_core
from rope_core import SCHEMES, VARIANTS, CosSin, positions, resolve
from rope_core.presets import built_in
from service.lifecycle import Lifecycle
from service.server.app import create_app
from service.settings import Settings
from service.wire import Message
from tests.service.conftest import every_test_in_one_loop
from tests.service.messages import answered, params
from tests.service.rope_cases import LLAMA, D, resolved

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


async def test_presets_and_variants_are_listed(client):
    presets = (await client.get("/v1/presets")).json()["presets"]
    assert [each["name"] for each in presets] == list(built_in())
    known = (await client.get("/v1/variants")).json()
    assert [each["name"] for each in known["variants"]] == list(VARIANTS)
    assert [each["name"] for each in known["schemes"]] == list(SCHEMES)
    assert [each["name"] for each in known["builders"]] == list(positions.BUILDERS)
    (yarn,) = [each for each in known["variants"] if each["name"] == "yarn"]
    (factor,) = [each for each in yarn["parameters"] if each["name"] == "factor"]
    assert (factor["type"], factor["required"]) == ("number or null", False)
    truth, theirs = (known["largest_error_of_cos"][name] for name in ("float64", "hf"))
    assert max(truth.values()) < 1e-7 < theirs["131071"]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b", "qwen2.5-7b-instruct-yarn"])
async def test_a_preset_is_its_config(client, codec, name):
    at = torch.tensor([0, 3, 40_000])
    resolved = resolve(built_in()[name].config)
    expected = rope_core.cos_sin(CosSin(at, resolved.rope))
    for rope in (name, {"preset": name}, {"config": dict(built_in()[name].config)}):
        message = Message({"positions": at}, params(rope=rope))
        answer = await answered(client, codec, "/v1/cos_sin", message)
        assert torch.equal(answer.tensors["cos"], expected.cos)
        assert torch.equal(answer.tensors["sin"], expected.sin)


@pytest.mark.parametrize("name", built_in())
async def test_every_preset_resolves(client, name):
    answer = await resolved(client, {"preset": name, "layer": 0})
    if answer.status_code == 422 and "layer" in answer.json()["detail"]:
        answer = await resolved(client, name)
    assert answer.status_code == 200, answer.text


def in_folder(folder, monkeypatch):
    monkeypatch.setenv("ROPE_PRESETS_DIR", str(folder))
    return create_app(Settings(device="cpu", log_level="error"), Lifecycle())


async def test_presets_of_the_operator(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text(json.dumps(LLAMA | {"rope_theta": 77.0}))
    (tmp_path / "ours").mkdir()
    unwritable = {"time_step_limit": [0.0, float("inf")]}  # as Mamba's files have it
    (tmp_path / "ours" / "config.json").write_text(json.dumps(LLAMA | unwritable))
    (tmp_path / "llama-3.1-8b.json").write_text(json.dumps(LLAMA))
    app = in_folder(tmp_path, monkeypatch)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.app.router.lifespan_context(app.app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        said = (await resolved(client, "mine")).json()
        assert said["rope"]["theta"] == 77.0
        assert (await resolved(client, {"preset": "ours"})).json()["rope"]["head_dim"] == D
        said = (await resolved(client, "llama-3.1-8b")).json()
        assert said["rope"]["head_dim"] == D, "the operator's wins"
        listed = (await client.get("/v1/presets")).json()["presets"]
        presets = {each["name"]: each for each in listed}
        assert presets["mine"]["config"]["rope_theta"] == 77.0
        assert presets["ours"]["config"]["time_step_limit"] == [0.0, None]
        assert presets["ours"]["source"] == "ours/config.json"
        assert presets.keys() > built_in().keys()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("bad.json", "{", "bad.json must be a JSON object"),
        ("list.json", "[]", "list.json must be a JSON object"),
        ("Bad Name.json", "{}", "named like"),
        (".json/config.json", "{}", None),
    ],
)
async def test_a_bad_folder_of_presets_stops_the_start(tmp_path, monkeypatch, name, text, why):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    if why is None:
        in_folder(tmp_path, monkeypatch)
        return
    with pytest.raises(SystemExit, match=f"presets_dir: .*{why}"):
        in_folder(tmp_path, monkeypatch)
    with pytest.raises(SystemExit, match=r"presets_dir: .* must be readable"):
        in_folder(tmp_path / "nowhere", monkeypatch)


async def test_the_process_says_so_and_ends(tmp_path, serve):
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(RuntimeError, match=r"presets_dir: bad.json must be"):
        serve(ROPE_PRESETS_DIR=str(tmp_path)).__enter__()
