"""Presets: those of the library, and those of an operator's folder."""

import errno
import json
import os
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from rope_core.errors import ConfigError
from rope_core.hf.config_forms import PARAMS_JSON
from rope_core.presets import MAX_BYTES, NAME, Preset, built_in
from rope_core.presets.folder import RefusedPreset, read_folder
from rope_core.presets.lookup import find, hugging_face_ids, nearest

NO_FILE = os.strerror(errno.ENOENT)
LSTAT = Path.lstat

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
    assert read_folder(tmp_path) == {}


def test_files_and_folders_are_presets(write):
    write("mine-7b.json", MODEL | {"rope_theta": 1e6})
    folder = write("theirs.v2/config.json")
    assert read_folder(folder) == {
        "mine-7b": Preset("mine-7b", MODEL | {"rope_theta": 1e6}, "mine-7b.json"),
        "theirs.v2": Preset("theirs.v2", MODEL, "theirs.v2/config.json"),
    }


def test_folder_can_reuse_a_built_in_name(write):
    folder = write("llama-3-8b.json")
    assert read_folder(folder)["llama-3-8b"].config == MODEL
    assert built_in()["llama-3-8b"].config != MODEL


@pytest.mark.parametrize(
    "name", ["README.md", ".hidden.json", "..data/config.json", "lost+found/x"]
)
def test_other_entries_are_ignored(write, name):
    assert read_folder(write(name, b"no JSON")) == {}


def refused(folder, name):
    """Return why a file is refused; the file beside it is read."""
    (folder / "good.json").write_text(json.dumps(MODEL))
    presets = read_folder(folder)
    assert presets.pop("good") == Preset("good", MODEL, "good.json")
    assert [*presets] == [name]
    assert isinstance(presets[name], RefusedPreset)
    assert str(folder) not in presets[name].reason
    return presets[name]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe\xfa", b"[" * 100_000, b"9" * 10_000],
    ids=["empty", "cut", "list", "text", "null", "bytes", "deep", "long number"],
)
@pytest.mark.parametrize("source", ["mine.json", "mine/config.json"])
def test_invalid_file_is_refused(write, source, content):
    preset = refused(write(source, content), "mine")
    assert preset.reason.startswith(f"{source} must be a JSON object, got ")
    assert preset.source == source


def test_file_above_the_limit_is_refused(write):
    folder = write("mine.json", {"text": "a" * MAX_BYTES})
    assert (
        refused(folder, "mine").reason
        == f"mine.json must be of at most {MAX_BYTES} bytes, got more"
    )


def test_file_at_the_limit_is_read(write):
    folder = write("mine.json", b"{}".ljust(MAX_BYTES))
    assert read_folder(folder)["mine"].config == {}


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", "\ufeff"), ("utf-16", ""), ("utf-16-le", "\ufeff")]
)
def test_file_in_other_encodings_is_read(write, encoding, mark):
    text = mark + json.dumps(MODEL | {"name": "ä"}, ensure_ascii=False)
    assert read_folder(write("mine.json", text.encode(encoding)))["mine"].config["name"] == "ä"


def test_the_last_of_equal_keys_counts(write):
    folder = write("mine.json", b'{"rope_theta": 1, "rope_theta": 2}')
    assert read_folder(folder)["mine"].config == {"rope_theta": 2}


def test_whole_numbers_beyond_64_bits_are_floats(write):
    numbers = {"a": 2**64 - 1, "b": 2**64, "c": -(2**63), "d": -(2**63) - 1}
    config = read_folder(write("mine.json", numbers))["mine"].config
    assert config == numbers | {"b": 2.0**64, "d": -(2.0**63)}
    assert [*map(type, config.values())] == [int, float, int, float]


@pytest.mark.parametrize("name", ["Mine", "my model", "-x", "ä"])
@pytest.mark.parametrize("form", ["{}.json", "{}/config.json"])
def test_invalid_preset_name_is_refused(write, name, form):
    source = form.format(name)
    reason = f"{source} must be named like {NAME.pattern}, got {name!r}"
    assert refused(write(source), name).reason == reason


def test_a_name_that_is_no_unicode_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"m\xff.json")).write_text("{}")
    preset = refused(tmp_path, "m\ufffd")
    assert preset.source == "m\ufffd.json"
    assert preset.reason.encode()  # text without halves of surrogate pairs


def test_duplicate_name_is_refused(write):
    write("mine.json")
    folder = write("mine/config.json")
    reason = "mine/config.json must be the only preset of its name, got also mine.json"
    assert refused(folder, "mine").reason == reason


@pytest.mark.parametrize(
    ("source", "link"),
    [
        ("mine.json", "mine.json"),
        ("mine/config.json", "mine/config.json"),
        ("mine/config.json", "mine"),
    ],
)
def test_a_broken_link_is_refused(tmp_path, source, link):
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to("nowhere")
    assert refused(tmp_path, "mine").reason == f"{source} must be readable, got {NO_FILE}"


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "mine.json").symlink_to("mine.json")
    assert refused(tmp_path, "mine").reason.startswith("mine.json must be readable, got ")


def test_a_broken_link_of_another_name_is_ignored(tmp_path):
    (tmp_path / "README").symlink_to("nowhere")
    assert read_folder(tmp_path) == {}


@pytest.mark.parametrize("source", ["mine.json", "mine/config.json"])
def test_a_pipe_is_refused(tmp_path, source):
    (tmp_path / source).parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / source)
    reason = f"{source} must be a regular file, got a file of another kind"
    assert refused(tmp_path, "mine").reason == reason


def test_a_folder_in_place_of_a_config_is_refused(tmp_path):
    (tmp_path / "mine" / "config.json").mkdir(parents=True)
    assert (
        refused(tmp_path, "mine").reason == "mine/config.json must be readable, got Is a directory"
    )


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="must be readable, got No such file") as caught:
        read_folder(tmp_path / "none")
    assert str(tmp_path) not in str(caught.value)


def closed(path, *_):
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize("source", ["mine.json", "mine/config.json"])
def test_unreadable_file_is_refused(write, monkeypatch, source):
    folder = write(source)
    monkeypatch.setattr(Path, "open", closed)
    assert read_folder(folder)["mine"].reason == f"{source} must be readable, got Permission denied"


def lstat_of_closed(path):
    if path.name == "config.json":
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return LSTAT(path)


def test_unreadable_folder_is_refused(write, monkeypatch):
    folder = write("mine/config.json")
    monkeypatch.setattr(Path, "lstat", lstat_of_closed)
    monkeypatch.setattr(Path, "open", closed)
    assert read_folder(folder)["mine"].reason.startswith("mine/config.json must be readable")


def test_unreadable_lost_and_found_is_ignored(write, monkeypatch):
    folder = write("lost+found/x")
    monkeypatch.setattr(Path, "lstat", lstat_of_closed)
    assert read_folder(folder) == {}
