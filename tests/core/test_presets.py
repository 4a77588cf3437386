"""Presets: what comes with the library, and what an operator puts in a folder."""

import errno
import json
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from rope_core.errors import ConfigError
from rope_core.presets import MAX_BYTES, NAME, Preset, built_in, from_folder

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


def test_there_are_many_and_they_are_read_once():
    assert len(built_in()) >= 60
    assert built_in() is built_in()
    assert list(built_in()) == sorted(built_in())


@pytest.mark.parametrize("name", list(built_in()))
def test_a_built_in_names_its_model_and_its_source(name):
    preset = built_in()[name]
    assert preset.name == name
    assert NAME.fullmatch(name)
    assert re.match(r"https://huggingface\.co/[\w.-]+/[\w.-]+[/#]", preset.source)
    assert {"model_type", "_class_name"} & set(preset.config)
    texts = [leaf for leaf in leaves(preset.config) if isinstance(leaf, str)]
    assert not [text for text in texts if "/" in text or "\\" in text]


@pytest.mark.parametrize("name", list(built_in()))
def test_the_numbers_of_a_built_in_agree_with_each_other(name):
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
    """Return the part of a head that is rotated."""
    block = text.get("rope_parameters") or {}
    return text.get("partial_rotary_factor", block.get("partial_rotary_factor", 1))


def test_numbers_known_by_heart():
    presets = built_in()
    llama = presets["llama-3.1-8b"].config
    assert llama["rope_theta"] == 500_000
    assert llama["rope_scaling"]["factor"] == 8
    assert presets["llama-3.2-1b"].config["rope_scaling"]["factor"] == 32
    assert presets["gemma-2-27b"].config["query_pre_attn_scalar"] == 144
    assert presets["phi-4-mini-instruct"].config["rope_scaling"]["long_factor"][-1] == 47.77
    assert presets["qwen2.5-vl-7b-instruct"].config["rope_scaling"]["mrope_section"] == [16, 24, 24]


def test_a_preset_is_a_value():
    with pytest.raises(FrozenInstanceError):
        built_in()["llama-3-8b"].name = "other"
    with pytest.raises(TypeError):
        built_in()["mine"] = Preset("mine", {}, "")


def test_an_empty_folder_has_none(tmp_path):
    assert from_folder(tmp_path) == {}


def test_files_and_folders_are_presets(write):
    write("mine-7b.json", MODEL | {"rope_theta": 1e6})
    folder = write("theirs.v2/config.json")
    assert from_folder(folder) == {
        "mine-7b": Preset("mine-7b", MODEL | {"rope_theta": 1e6}, "mine-7b.json"),
        "theirs.v2": Preset("theirs.v2", MODEL, "theirs.v2/config.json"),
    }


def test_a_name_that_is_built_in_may_be_used(write):
    folder = write("llama-3-8b.json")
    assert from_folder(folder)["llama-3-8b"].config == MODEL
    assert built_in()["llama-3-8b"].config != MODEL


@pytest.mark.parametrize(
    "name", ["README.md", ".hidden.json", "..data/config.json", "lost+found/x"]
)
def test_other_entries_are_left_alone(write, name):
    assert from_folder(write(name, b"no JSON")) == {}


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe\xfa", b"[" * 100_000, b"9" * 10_000],
    ids=["empty", "cut", "list", "text", "null", "bytes", "deep", "long number"],
)
@pytest.mark.parametrize("name", ["mine.json", "mine/config.json"])
def test_a_file_that_is_no_object_is_named(write, name, content):
    folder = write(name, content)
    with pytest.raises(ConfigError, match=f"^{name} must be a JSON object, got ") as caught:
        from_folder(folder)
    assert str(folder) not in str(caught.value)


def test_a_file_that_is_too_long(write):
    folder = write("mine.json", {"text": "a" * MAX_BYTES})
    with pytest.raises(ConfigError, match=r"^mine.json must be of at most 1048576 bytes"):
        from_folder(folder)


def test_the_longest_file(write):
    folder = write("mine.json", b"{}".ljust(MAX_BYTES))
    assert from_folder(folder)["mine"].config == {}


@pytest.mark.parametrize(
    "name", ["Mine.json", "my model.json", "-x.json", "ä.json", "A/config.json"]
)
def test_names_no_preset_has(write, name):
    folder = write(name)
    with pytest.raises(ConfigError, match="must be named like"):
        from_folder(folder)


def test_one_name_twice(write):
    write("mine.json")
    folder = write("mine/config.json")
    with pytest.raises(ConfigError, match=r"mine/config.json must be the only .* also mine.json"):
        from_folder(folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="must be readable, got No such file") as caught:
        from_folder(tmp_path / "none")
    assert str(tmp_path) not in str(caught.value)


def closed(*_):
    raise PermissionError(errno.EACCES, "Permission denied", "/var/presets/mine")


@pytest.mark.parametrize("file", ["mine.json", "mine/config.json"])
def test_a_file_that_may_not_be_read(write, monkeypatch, file):
    folder = write(file)
    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(ConfigError, match=f"^{file} must be readable, got Permission denied$"):
        from_folder(folder)


def test_a_folder_that_may_not_be_entered(write, monkeypatch):
    folder = write("mine/config.json")
    monkeypatch.setattr(Path, "is_file", closed)
    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(ConfigError, match=r"^mine/config.json must be readable"):
        from_folder(folder)


def test_a_closed_folder_of_the_file_system_is_left_alone(write, monkeypatch):
    folder = write("lost+found/x")
    monkeypatch.setattr(Path, "is_file", closed)
    assert from_folder(folder) == {}
