"""Presets: those of the library, and those of an operator's folder."""

import errno
import json
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from rope_core.errors import ConfigError
from rope_core.hf.config_forms import PARAMS_JSON
from rope_core.presets import MAX_BYTES, NAME, Preset, built_in, from_folder
from rope_core.presets.lookup import find, hugging_face_ids, nearest

MODEL = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}


@pytest.fixture
def write(tmp_path):
    def write(name, content=MODEL):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return tmp_path

    return write


def leaves(value):
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, list) else [value]


def test_built_in_presets_are_cached():
    assert len(built_in()) >= 60
    assert built_in() is built_in()
    assert list(built_in()) == sorted(built_in())


@pytest.mark.parametrize("name", list(built_in()))
def test_built_in_has_a_model_and_a_source(name):
    preset = built_in()[name]
    assert preset.name == name
    assert NAME.fullmatch(name)
    assert re.match(r"https://huggingface\.co/[\w.-]+/[\w.-]+[/#]", preset.source)
    assert {"model_type", "_class_name"} & set(preset.config) or set(preset.config) >= PARAMS_JSON
    texts = [leaf for leaf in leaves(preset.config) if isinstance(leaf, str)]
    assert not [text for text in texts if "/" in text or "\\" in text]


@pytest.mark.parametrize("name", list(built_in()))
def test_sizes_of_a_built_in_are_consistent(name):
    config = built_in()[name].config
    text = config.get("text_config", config)
    layers = text.get("num_hidden_layers")
    for each in ("layer_types", "no_rope_layers"):
        assert len(text.get(each) or [0] * (layers or 0)) == (layers or 0)
    heads, kv = text.get("num_attention_heads"), text.get("num_key_value_heads")
    assert heads is None or kv is None or heads % kv == 0
    width = text.get("head_dim") or (text.get("hidden_size", 0) // (heads or 1))
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    assert sum(scaling.get("mrope_section", [])) in (0, width // 2 * text_share(text))
    for each in ("short_factor", "long_factor"):
        assert len(scaling.get(each, [])) in (0, width // 2 * text_share(text))


def text_share(text):
    """Return the rotated share of a head."""
    block = text.get("rope_parameters") or {}
    return text.get("partial_rotary_factor", block.get("partial_rotary_factor", 1))


def test_well_known_values():
    presets = built_in()
    llama = presets["llama-3.1-8b"].config
    assert llama["rope_theta"] == 500_000
    assert llama["rope_scaling"]["factor"] == 8
    assert presets["llama-3.2-1b"].config["rope_scaling"]["factor"] == 32
    assert presets["gemma-2-27b"].config["query_pre_attn_scalar"] == 144
    assert presets["phi-4-mini-instruct"].config["rope_scaling"]["long_factor"][-1] == 47.77
    assert presets["qwen2.5-vl-7b-instruct"].config["rope_scaling"]["mrope_section"] == [16, 24, 24]


def test_ids_on_hugging_face():
    ids = hugging_face_ids()
    assert ids["meta-llama/llama-3.1-8b"] == "llama-3.1-8b"
    assert ids["qwen/qwen2.5-7b-instruct"] == "qwen2.5-7b-instruct", "and not the one with yarn"
    assert len(ids) == len(set(ids.values())) == len(built_in()) - 1


@pytest.mark.parametrize(
    "name", ["llama-3.1-8b", "Llama-3.1-8B", "meta-llama/Llama-3.1-8B", "META-LLAMA/LLAMA-3.1-8b"]
)
def test_a_preset_is_found_by_name_and_id(name):
    assert find(name, built_in()) is built_in()["llama-3.1-8b"]
    mine = Preset("llama-3.1-8b", MODEL, "llama-3.1-8b.json")
    assert find(name, {mine.name: mine}) is mine, "the operator's replaces the built-in one"


@pytest.mark.parametrize("name", ["", "llama-3.1", "other/llama-3.1-8b", "mine", "x" * 10**6])
def test_other_names_are_not_found(name):
    assert find(name, built_in()) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3.1-8b", "llama-3.1-8b"),
        ("llama3.1", "llama-3.1-8b"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b"),
        ("google/gemma-3-4b-pt", "gemma-3-4b-pt"),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-v3"),
        ("xyz", None),
        ("", None),
        ("x" * 10**6, None),
    ],
)
def test_the_nearest_name(name, expected):
    assert nearest(name, built_in()) == expected


def test_preset_is_frozen():
    with pytest.raises(FrozenInstanceError):
        built_in()["llama-3-8b"].name = "other"
    with pytest.raises(TypeError):
        built_in()["mine"] = Preset("mine", {}, "")


def test_empty_folder(tmp_path):
    assert from_folder(tmp_path) == {}


def test_files_and_folders_are_presets(write):
    write("mine-7b.json", MODEL | {"rope_theta": 1e6})
    folder = write("theirs.v2/config.json")
    assert from_folder(folder) == {
        "mine-7b": Preset("mine-7b", MODEL | {"rope_theta": 1e6}, "mine-7b.json"),
        "theirs.v2": Preset("theirs.v2", MODEL, "theirs.v2/config.json"),
    }


def test_folder_can_reuse_a_built_in_name(write):
    folder = write("llama-3-8b.json")
    assert from_folder(folder)["llama-3-8b"].config == MODEL
    assert built_in()["llama-3-8b"].config != MODEL


@pytest.mark.parametrize(
    "name", ["README.md", ".hidden.json", "..data/config.json", "lost+found/x"]
)
def test_other_entries_are_ignored(write, name):
    assert from_folder(write(name, b"no JSON")) == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe\xfa", b"[" * 100_000, b"9" * 10_000],
    ids=["empty", "cut", "list", "text", "null", "bytes", "deep", "long number"],
)
@pytest.mark.parametrize("name", ["mine.json", "mine/config.json"])
def test_invalid_file_is_named(write, name, content):
    folder = write(name, content)
    with pytest.raises(ConfigError, match=f"^{name} must be a JSON object, got ") as caught:
        from_folder(folder)
    assert str(folder) not in str(caught.value)


def test_file_above_the_limit_is_refused(write):
    folder = write("mine.json", {"text": "a" * MAX_BYTES})
    with pytest.raises(ConfigError, match=r"^mine.json must be of at most 1048576 bytes"):
        from_folder(folder)


def test_file_at_the_limit_is_read(write):
    folder = write("mine.json", b"{}".ljust(MAX_BYTES))
    assert from_folder(folder)["mine"].config == {}


@pytest.mark.parametrize(
    "name", ["Mine.json", "my model.json", "-x.json", "ä.json", "A/config.json"]
)
def test_invalid_preset_name_is_refused(write, name):
    folder = write(name)
    with pytest.raises(ConfigError, match="must be named like"):
        from_folder(folder)


def test_duplicate_name_is_refused(write):
    write("mine.json")
    folder = write("mine/config.json")
    with pytest.raises(ConfigError, match=r"mine/config.json must be the only .* also mine.json"):
        from_folder(folder)


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must be readable, got No such file") as caught:
        from_folder(tmp_path / "none")
    assert str(tmp_path) not in str(caught.value)


def closed(*_):
    raise PermissionError(errno.EACCES, "Permission denied", "/var/presets/mine")


@pytest.mark.parametrize("file", ["mine.json", "mine/config.json"])
def test_unreadable_file_is_named(write, monkeypatch, file):
    folder = write(file)
    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(ConfigError, match=f"^{file} must be readable, got Permission denied$"):
        from_folder(folder)


def test_unreadable_folder_is_named(write, monkeypatch):
    folder = write("mine/config.json")
    monkeypatch.setattr(Path, "is_file", closed)
    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(ConfigError, match=r"^mine/config.json must be readable"):
        from_folder(folder)


def test_unreadable_lost_and_found_is_ignored(write, monkeypatch):
    folder = write("lost+found/x")
    monkeypatch.setattr(Path, "is_file", closed)
    assert from_folder(folder) == {}
