"""`inspect`: the sentence, the table and the sources of a config, from the answer of the route."""

import csv
import io
import json
import math
import sys
from collections import Counter

import httpx
import pytest

import rope_core
from rope_core.presets import built_in
from rope_core.sentences import summary
from service.cli.commands.inspect import layer_kinds
from service.cli.frequency_rows import frequency_rows
from service.cli.rope_argument import read_rope
from service.cli.service_calls import InProcess

BANDS = ("kept", "blended", "divided")
LLAMA = dict(built_in()["llama-3.1-8b"].config)


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "my-llama" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps(LLAMA))
    return file


def test_the_sentence_the_table_and_the_sources(cli):
    shown = cli("inspect", "llama-3.1-8b")
    lines = shown.out.splitlines()
    header = "llama-3.1-8b  llama · llama3 · theta 500 000 · head_dim 128 · layout half"
    assert lines[0] == f"{header} · 32 layers alike"
    assert lines[1] == summary(rope_core.resolve("llama-3.1-8b"))
    heading = ["pair", "rad/position", "positions/turn", "÷", "turns in 8 192"]
    assert [cell.strip() for cell in lines[3].split("  ") if cell.strip()] == heading
    rows = [line.split("  ") for line in lines[4:25]]
    cells = {row[0]: row for row in ([c.strip() for c in row if c.strip()] for row in rows)}
    assert cells["28"] == ["28", "0.003211", "1 956", "1.000", "4.19", "kept"]
    assert cells["32"] == ["32", "0.0005248", "11 971", "2.695", "0.684", "blended"]
    assert cells["63"] == ["63", "3.069e-07", "20 473 565", "8.000", "0.0004", "divided"]
    assert {*map(str, (0, 1, 2, 3, *range(28, 37), 62))} <= cells.keys()
    assert any(line.startswith("given: rope_type, ") for line in lines)
    assert (shown.code, shown.err) == (0, "")
    assert "\x1b" not in shown.out


@pytest.mark.parametrize("name", ["llama-3.1-8b", "phi-3.5-mini-instruct", "qwen2-vl-7b-instruct"])
def test_json_is_what_the_route_answers(cli, server_url, name):
    answer = httpx.post(f"{server_url}/v1/resolve", json={"rope": name}).json()
    assert json.loads(cli("inspect", name, "--json").out) == answer
    assert json.loads(cli("inspect", name, "--json", "--url", server_url).out) == answer


def test_a_service_shows_the_same(cli, server_url, config):
    local = cli("inspect", config, "--all")
    assert cli("inspect", config, "--all", "--url", server_url) == local
    refused = cli("inspect", "no-model", "--url", server_url)
    assert refused == cli("inspect", "no-model")
    assert refused.code == 2


def test_forms_of_a_config(cli, config, monkeypatch):
    from_file = cli("inspect", config).out
    assert from_file.startswith("my-llama  llama · llama3")
    assert cli("inspect", config.parent).out == from_file
    text = json.dumps(LLAMA)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    rest = from_file.partition("\n")[2]
    assert cli("inspect", "-").out.partition("\n")[2] == rest
    assert cli("inspect", text).out.partition("\n")[2] == rest
    assert cli("inspect", "meta-llama/Llama-3.1-8B").out.partition("\n")[2] == rest
    parameters = cli("inspect", '{"head_dim": 8, "theta": 100, "layout": "interleaved"}')
    assert parameters.out.startswith("parameters  default · theta 100 · head_dim 8 · layout inter")


def test_a_config_with_infinity_is_read(cli, tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"model_type": "llama", "head_dim": 64, "initializer_range": Infinity}')
    assert cli("inspect", file).code == 0


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"\xff", "is not valid JSON"),
        (b"[]", "must be a JSON object, got list"),
        (b"null", "must be a JSON object, got NoneType"),
        (b'{"rope_theta": 5}', "unknown parameter rope.rope_theta"),
        (b"{" * 9999, "is not valid JSON"),
        (b'{"model_type": "llama", "head_dim": "x"}', "head_dim"),
    ],
)
def test_a_file_that_is_no_config_gets_a_sentence(cli, tmp_path, text, error):
    (tmp_path / "x.json").write_bytes(text)
    ended = cli("inspect", tmp_path / "x.json")
    assert (ended.code, ended.out) == (2, "")
    assert error in ended.err
    assert ended.err.count("\n") == 1


def test_csv_has_a_line_for_each_pair(cli):
    rows = list(csv.DictReader(io.StringIO(cli("inspect", "llama-3.1-8b", "--csv").out)))
    rope = rope_core.resolve("llama-3.1-8b").require_rope()
    assert [float(row["frequency"]) for row in rows] == rope.inv_freq.tolist()
    assert Counter(row["band"] for row in rows) == {"kept": 29, "blended": 6, "divided": 29}
    assert float(rows[0]["positions_per_turn"]) == 2 * math.pi
    assert [int(row["pair"]) for row in rows] == list(range(64))


def test_layers_that_differ_have_a_table_each(cli):
    shown = cli("inspect", "gemma-3-27b-it").out
    header = "gemma-3-27b-it  gemma3_text · 62 layers: 52 sliding_attention, 10 full_attention\n"
    assert shown.startswith(header)
    assert "\nsliding_attention  52 layers: 0, 1, 2, 3, 4, 6, …, 61\n" in shown
    assert "\nfull_attention  10 layers: 5, 11, " in shown
    assert shown.count("\npair ") == 2
    one = cli("inspect", "gemma-3-27b-it", "--layer", "5").out
    assert one == cli("inspect", "gemma-3-27b-it", "--layer-type", "full_attention").out
    assert one.count("\npair ") == 1
    assert cli("inspect", "gemma-3-27b-it", "--json").code == 2


def test_options_change_the_answer(cli):
    options = [(), ("--length", "131072"), ("--compat", "4.57"), ("--all",)]
    shown = [cli("inspect", "phi-3.5-mini-instruct", *option).out for option in options]
    assert len(set(shown)) >= 3
    assert "key or formula" in shown[3]


def test_a_model_without_rotation_has_a_sentence_and_no_table(cli):
    shown = cli("inspect", '{"model_type": "bloom", "n_head": 4, "hidden_size": 64}')
    assert shown.code == 0
    assert "No layer rotates" in shown.out
    assert "rad/position" not in shown.out


def test_each_preset_has_the_bands_that_its_answer_counts():
    caller, seen = InProcess(), Counter()
    for name in built_in():
        for kind in layer_kinds(caller, read_rope(name), {}):
            bands = Counter(row.band for row in frequency_rows(kind.answer) if row.band)
            if bands:
                counts = {band: kind.values["scaling"][band] for band in BANDS}
                assert bands == {band: count for band, count in counts.items() if count}, name
            seen += bands
    assert all(seen[band] for band in BANDS)


def test_pairs_that_do_not_turn(cli):
    text = '{"rope_type": "inv_freq", "inv_freq": [1.0, 0.0], "head_dim": 4}'
    row = cli("inspect", text).out.splitlines()[5]
    assert row.split() == ["1", "0", "—"]
