"""Configs whose classes compute layer types, windows and bases, against those classes.

`make parity` does this for all classes of transformers, and for many more changes.
"""

from random import Random
from typing import Any

import pytest

from rope_core.errors import ConfigError
from rope_core.hf import resolve
from tools.parity.classes import Entry, entries
from tools.parity.comparison import compare
from tools.parity.config_changes import change
from tools.parity.sweep import known_differences, reason

FULL, SLIDING = "full_attention", "sliding_attention"
NESTED = {FULL: {"rope_type": "default"}, SLIDING: {"rope_type": "default"}}

CONFIGS: list[dict[str, Any]] = [
    {"model_type": "bailing_hybrid", "num_hidden_layers": 4, "layer_group_size": 2,
     "rope_interleave": False},
    {"model_type": "bamba", "num_hidden_layers": 12, "attn_layer_indices": [3, 9]},
    {"model_type": "cohere2_moe", "num_hidden_layers": 6, "first_k_dense_replace": 3,
     "prefix_dense_sliding_window_pattern": 2},
    {"model_type": "dots3_note_text", "num_hidden_layers": 3, "layer_types": [FULL, SLIDING, FULL]},
    {"model_type": "dots3_note_text", "num_hidden_layers": 4, "use_dsa": False},
    {"model_type": "dots3_note_text", "num_hidden_layers": 4, "swa_qk_nope_head_dim": 224,
     "sliding_window_size": 16},
    {"model_type": "gemma4_text", "num_hidden_layers": 3, "layer_types": [SLIDING] * 3},
    {"model_type": "gemma4_text", "num_hidden_layers": 2, "layer_types": [SLIDING, FULL],
     "per_layer_config": {"01": {"head_dim": 128}}},
    {"model_type": "falcon_mamba", "num_hidden_layers": 2},
    {"model_type": "inkling_text", "num_hidden_layers": 7},
    {"model_type": "inkling_text", "num_hidden_layers": 3, "local_layer_ids": [1],
     "swa_head_dim": 64},
    {"model_type": "jamba", "num_hidden_layers": 9},
    {"model_type": "jamba", "num_hidden_layers": 6, "attn_layer_period": 3,
     "attn_layer_offset": 1},
    {"model_type": "kimi_linear", "num_hidden_layers": 6},
    {"model_type": "kimi_linear", "num_hidden_layers": 4,
     "linear_attn_config": {"full_attn_layers": [2, 4], "kda_layers": [1, 3]}},
    {"model_type": "lfm3_vl_vision", "num_hidden_layers": 5},
    {"model_type": "lfm3", "num_hidden_layers": 5, "rope_parameters": NESTED},
    {"model_type": "lfm3", "num_hidden_layers": 5, "rope_parameters": NESTED, "rope_theta": 777.0},
    {"model_type": "mimo_v2_flash", "num_hidden_layers": 2, "sliding_window_size": 16},
    {"model_type": "minimax", "num_hidden_layers": 2, "sliding_window": 16},
    {"model_type": "minimax_m3_vl_text", "num_hidden_layers": 2, "rotary_dim": 64,
     "sparse_attention_config": {"sparse_attention_freq": [0, 1]}},
    {"model_type": "mistral_large4_text", "num_hidden_layers": 3, "no_rope_layers": [1, 0, 1]},
    {"model_type": "smollm3", "num_hidden_layers": 2, "sliding_window": 16,
     "layer_types": [SLIDING, FULL]},
    {"model_type": "mllama_text_model", "num_hidden_layers": 4},
    {"model_type": "muse_spark_vision", "num_hidden_layers": 6},
    {"model_type": "nemotron_h"},
    {"model_type": "nemotron_h", "num_hidden_layers": 5, "hybrid_override_pattern": "M-M*E"},
    {"model_type": "nemotron_h", "layers_block_type": ["mamba", "attention", "moe"]},
    {"model_type": "deepseek_v4", "num_hidden_layers": 2,
     "rope_parameters": {"compress": {"rope_theta": 777.0, "rope_type": "default"}}},
    {"model_type": "dinov3_vit", "rope_parameters": {"rope_theta": 777.0}},
    {"model_type": "modernbert", "num_hidden_layers": 4, "rope_parameters": NESTED,
     "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    {"model_type": "neomme", "num_hidden_layers": 5},
    {"model_type": "olmo_hybrid", "num_hidden_layers": 3},
    {"model_type": "olmo_hybrid", "num_hidden_layers": 5},
    {"model_type": "openai_privacy_filter", "num_hidden_layers": 2, "sliding_window": 16},
    {"model_type": "qwen4_exp_text", "num_hidden_layers": 2,
     "layer_types": ["linear_attention", FULL]},
    {"model_type": "ultrabert", "num_hidden_layers": 3, "attention_windows": [64, None, 64]},
    {"model_type": "unlimited_ocr_text", "num_hidden_layers": 2},
    {"model_type": "zamba", "num_hidden_layers": 9},
]  # fmt: skip

SUFFIXES = ("_text", "_vision", "_text_model")

SWEPT = ("cohere2", "exaone4", "gemma4_text", "qwen2")


def entry_of(model_type: str) -> Entry:
    folder = model_type
    for suffix in SUFFIXES:
        folder = folder.removesuffix(suffix)
    return next(entry for entry in entries(folder) if entry.model_type == model_type)


def name_of(config: dict[str, Any]) -> str:
    return " ".join([config["model_type"], *sorted(config.keys() - {"model_type"})])


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_layers_are_those_of_the_class(config):
    result = compare(entry_of(config["model_type"]), config)
    assert result.status in ("layers", "frequencies", "types")
    known = known_differences()
    assert [str(found) for found in result.differences if reason(found, known) is None] == []


@pytest.mark.parametrize("model_type", SWEPT)
def test_changed_configs_are_read_as_by_the_class(model_type):
    entry, random = entry_of(model_type), Random(f"16 {model_type}")
    results = [compare(entry, change(entry, random)) for _ in range(4)]
    assert [str(d) for result in results for d in result.differences] == []
    assert any(result.status == "layers" for result in results)


def test_a_difference_is_found():
    config = {"model_type": "bamba", "num_hidden_layers": 2, "attn_layer_indices": [1]}
    entry = entry_of("bamba")
    assert compare(entry, {**config, "model_type": "llama"}).differences


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M?"}, "a text of M E [*] -"),
        ({"model_type": "kimi_linear", "num_hidden_layers": 2,
          "linear_attn_config": {"full_attn_layers": [3], "kda_layers": [1]}}, "from 1 to 2"),
        ({"model_type": "kimi_linear", "num_hidden_layers": 2,
          "linear_attn_config": {"full_attn_layers": [2], "kda_layers": []}}, "got no 1"),
    ],
)  # fmt: skip
def test_wrong_lists_of_layers_are_refused(config, expected):
    with pytest.raises(ConfigError, match=expected):
        resolve(config)


def test_layers_that_are_all_of_one_type_need_no_name():
    """The class gives each layer of Ministral a window."""
    config = {"model_type": "ministral", "num_hidden_layers": 2, "sliding_window": 64}
    assert compare(entry_of("ministral"), config).differences == ()
    assert resolve(config).attention == resolve(config, layer=1).attention
    assert resolve(config).attention.window == 64
    config = {"model_type": "cohere2", "num_hidden_layers": 2, "layer_types": [FULL, FULL]}
    assert resolve(config).rope is None


def test_a_short_list_of_flags_is_refused():
    with pytest.raises(ConfigError, match="no_rope_layers must be a list of 8 numbers"):
        resolve(
            {"model_type": "mistral_large4_text", "num_hidden_layers": 8, "no_rope_layers": [1, 0]},
            layer=0,
        )


def test_settings_of_layers_need_indices():
    with pytest.raises(ConfigError, match="per_layer_config must be an object with an object for"):
        resolve({"model_type": "llama", "per_layer_config": {"first": {"head_dim": 64}}}, layer=0)
