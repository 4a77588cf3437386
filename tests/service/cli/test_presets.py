"""`presets` and `variants`: what the routes list."""

import json

import httpx
import orjson
import pytest

from rope_core.presets import built_in
from service.endpoints.catalog import list_presets, list_variants
from service.endpoints.rope_resolver import RopeResolver


def test_json_is_what_the_routes_answer(cli, server_url):
    presets, variants = cli("presets", "--json"), cli("variants", "--json")
    assert presets.out == httpx.get(f"{server_url}/v1/presets").text + "\n"
    assert variants.out == httpx.get(f"{server_url}/v1/variants").text + "\n"
    assert cli("presets", "--json", "--url", server_url) == presets
    assert cli("variants", "--json", "--url", server_url) == variants


def test_each_preset_has_a_line(cli):
    shown = cli("presets").out.splitlines()
    assert [line.split()[0] for line in shown[1:]] == list(built_in())
    line = next(line for line in shown if line.startswith("llama-3.1-8b "))
    assert line.split()[1:3] == ["llama", "llama3"]
    assert max(map(len, shown)) < 200


@pytest.mark.parametrize("word", ["QWEN3", "qwen/", "qwen3_moe"])
def test_a_word_chooses_by_name_source_or_family(cli, word):
    shown = cli("presets", word)
    assert shown.code == 0
    assert all("qwen" in line for line in shown.out.lower().splitlines()[1:])
    assert "qwen3-30b-a3b" in shown.out


def test_a_word_that_is_nowhere_ends_with_1(cli):
    assert cli("presets", "no-such-model") == (1, "", "")


def test_the_folder_of_the_operator(cli, tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text('{"model_type": "llama", "head_dim": 64}')
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.setenv("ROPE_PRESETS_DIR", str(tmp_path))
    listed = json.loads(cli("presets", "--json").out)
    assert {preset["name"] for preset in listed["presets"]} == {"mine", *built_in()}
    shown = cli("presets", "broken")
    assert shown.out.startswith("refused: broken: broken.json must be a JSON object")
    assert cli("inspect", "mine").out.startswith("mine  llama · default")


def test_a_variant_is_described(cli):
    shown = cli("variants", "llama3").out
    entry = next(each for each in list_variants()["variants"] if each["name"] == "llama3")
    assert shown.startswith(f"llama3  {entry['summary']}\n")
    assert all(each["name"] in shown for each in entry["parameters"])
    names = [each["name"] for kind in ("variants", "schemes") for each in list_variants()[kind]]
    listed = cli("variants").out
    assert all(f"\n{name} " in listed for name in names)


def test_the_list_without_torch_is_that_of_the_library(cli):
    assert orjson.loads(cli("presets", "--json").out) == orjson.loads(
        list_presets(RopeResolver(built_in()))
    )
