"""A config.json read: what counts, where it came from, and what was left unread."""

import dataclasses

import pytest

from rope_core import RopeConfig
from rope_core.hf import resolve
from rope_core.presets import built_in

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_a_model_as_it_is_published():
    found = resolve(built_in()["llama-3.1-8b"].config)
    assert found.rope == RopeConfig.of(
        128, theta=500_000.0, arithmetic="hf", rounding="activation", **LLAMA3
    )
    assert found.parameters == {**LLAMA3, "rope_theta": 500_000.0}
    assert (found.model_type, found.nope, found.layer_type) == ("llama", None, None)
    assert [group.layers for group in found.layers] == [tuple(range(32))]


def test_float64_is_the_truth_and_rounds_once():
    rope = resolve(LLAMA, arithmetic="float64").rope
    assert rope == RopeConfig.of(128)
    assert resolve(LLAMA).rope == dataclasses.replace(rope, arithmetic="hf", rounding="activation")


@pytest.mark.parametrize(
    ("config", "key", "value", "source"),
    [
        ({"rope_theta": 5e5}, "rope_theta", 5e5, "given"),
        ({"rope_parameters": {"rope_theta": 5e5}}, "rope_theta", 5e5, "given"),
        ({}, "rope_theta", 1e4, "class default"),
        ({"model_type": "mixtral"}, "rope_theta", 1e6, "class default"),
        ({"model_type": "gpt_oss"}, "rope_theta", 150_000.0, "class default"),
        ({"model_type": "gpt_neox", "rotary_emb_base": 500}, "rope_theta", 500.0, "given"),
        ({}, "rope_type", "default", "class default"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type", "linear", "given"),
        ({"model_type": "gpt_oss"}, "rope_type", "yarn", "class default"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "factor", 2.0, "given"),
        ({"model_type": "gpt_oss"}, "factor", 32.0, "class default"),
        ({"rope_scaling": {"type": "yarn"}}, "factor", 1.0, "derived"),
        ({"rope_scaling": YARN}, "original_max_position_embeddings", 1024, "given"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}, "max_position_embeddings": 512},
            *("original_max_position_embeddings", 512, "derived"),
        ),
        ({"model_type": "gpt_oss"}, "original_max_position_embeddings", 4096, "class default"),
        ({"rope_scaling": YARN}, "attention_factor", 1.138629436111989, "derived"),
        ({"rope_scaling": {**YARN, "attention_factor": 1.0}}, "attention_factor", 1.0, "given"),
        ({"rope_scaling": YARN}, "beta_fast", 32.0, "class default"),
        ({"model_type": "phi"}, "partial_rotary_factor", 0.5, "class default"),
        (
            {"model_type": "phi", "partial_rotary_factor": 0.25},
            *("partial_rotary_factor", 0.25, "given"),
        ),
        ({"model_type": "gpt_neox", "rotary_pct": 0.5}, "partial_rotary_factor", 0.5, "given"),
        (
            {"model_type": "minimax_m2", "rotary_dim": 64, "head_dim": 128},
            *("partial_rotary_factor", 0.5, "derived"),
        ),
    ],
    ids=str,
)
def test_where_a_parameter_comes_from(config, key, value, source):
    found = resolve({**LLAMA, **config})
    assert found.parameters[key] == value
    assert found.provenance[key] == source


@pytest.mark.parametrize(
    ("config", "width", "source"),
    [
        ({}, 128, "derived"),
        ({"head_dim": 64}, 64, "given"),
        ({"head_dim": None}, 128, "derived"),
        ({"model_type": "qwen3"}, 128, "class default"),
        (
            {"model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 4},
            128,
            "class default",
        ),
        (
            {"model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 4, "head_dim": None},
            16,
            "derived",
        ),
        ({"model_type": "deepseek_v3"}, 64, "class default"),
        ({"model_type": "deepseek_v3", "qk_rope_head_dim": 32}, 32, "given"),
        ({"model_type": "deepseek_v3", "head_dim": None}, 64, "class default"),
        ({"model_type": "deepseek_v3", "head_dim": 192}, 64, "class default"),
        ({"model_type": "zamba2", "use_mem_rope": True}, 256, "derived"),
    ],
    ids=str,
)
def test_where_the_width_of_a_head_comes_from(config, width, source):
    found = resolve({**LLAMA, **config})
    assert found.rope.head_dim == width
    assert found.provenance["head_dim"] == source


def test_a_block_wins_over_the_config_and_that_over_the_class():
    block = {"rope_type": "default", "rope_theta": 7.0}
    config = {**LLAMA, "rope_theta": 8.0, "rope_parameters": block}
    assert resolve(config).rope.theta == 7.0
    del block["rope_theta"]
    assert resolve(config).rope.theta == 8.0
    del config["rope_theta"]
    assert resolve(config).rope.theta == 10_000.0


def test_rope_scaling_wins_over_rope_parameters():
    config = {**LLAMA, "rope_scaling": YARN, "rope_parameters": {"rope_type": "default"}}
    assert resolve(config).rope.rope_type == "yarn"
    for nothing in (None, {}):
        assert resolve({**config, "rope_scaling": nothing}).rope.rope_type == "default"


def test_an_empty_block_is_not_the_block_of_the_class():
    assert resolve({"model_type": "gpt_oss"}).rope.rope_type == "yarn"
    empty = resolve({"model_type": "gpt_oss", "rope_parameters": {}})
    assert (empty.rope.rope_type, empty.rope.theta) == ("default", 150_000.0)


@pytest.mark.parametrize(
    ("family", "key"),
    [("gpt_neox", "rope_theta"), ("bamba", "partial_rotary_factor"), ("esm", "rope_scaling")],
)
def test_a_key_that_the_class_does_not_read(family, key):
    value = {"rope_scaling": YARN, "rope_theta": 5e5}.get(key, 0.125)
    found = resolve({"model_type": family, key: value})
    assert found.rope == resolve({"model_type": family}).rope
    assert key in found.keys_ignored
    assert any(text.startswith(f"{key} is ignored") for text in found.warnings)


def test_keys_that_were_read_and_those_that_were_not():
    config = {**LLAMA, "rope_scaling": None, "vocab_size": 9, "rope_ratio": 3.0}
    found = resolve(config)
    assert {"hidden_size", "num_attention_heads", "rope_scaling"} <= set(found.keys_read)
    assert found.keys_ignored == ("rope_ratio", "vocab_size")
    inner = resolve(
        {"model_type": "gemma3", "text_config": config, "x": 1}, layer_type="full_attention"
    )
    assert "text_config.hidden_size" in inner.keys_read
    assert "text_config.rope_ratio" in inner.keys_ignored


def test_an_unknown_key_of_a_block_is_told():
    (text,) = resolve({**LLAMA, "rope_scaling": {**YARN, "finetuned": True}}).warnings
    assert text == "rope_scaling.finetuned is ignored: yarn has no such parameter"


def test_an_unknown_model_is_read_as_a_llama_and_says_so():
    config = {**LLAMA, "model_type": "my_llama", "rope_theta": 5e5}
    found = resolve(config)
    assert found.rope == resolve({**config, "model_type": "llama"}).rope
    assert found.model_type == "unknown"
    assert any("'my_llama' is unknown" in text for text in found.warnings)


@pytest.mark.parametrize(
    ("named", "family"),
    [
        ("kimi_k2", "deepseek_v3"),
        ("internlm2", "llama"),
        ("internlm3", "internlm3"),
        ("gemma3", "gemma3_text"),
        ("modernbert-decoder", "modernbert-decoder"),
        ("modernbert_decoder", "modernbert-decoder"),
    ],
)
def test_names_that_mean_a_family(named, family):
    found = resolve({"model_type": named}, layer_type="full_attention")
    assert found.model_type == family
    assert not any("unknown" in text for text in found.warnings)


def test_parts_of_a_composite_model():
    config = {
        "model_type": "qwen2_vl",
        "text_config": {"hidden_size": 3584, "num_attention_heads": 28},
        "vision_config": {"embed_dim": 1280, "num_heads": 16, "patch_size": 14},
    }
    assert resolve(config).rope.axes == "mrope"
    assert resolve(config).rope.head_dim == 128
    tower = resolve(config, part="vision").rope
    assert (tower.axes, tower.head_dim, tower.num_axes) == ("axial", 80, 2)
    assert not resolve(config, part="vision").attention.causal
    llava = {"model_type": "llava", "text_config": {**LLAMA, "rope_theta": 5e5}}
    assert resolve(llava).rope.theta == 5e5
    omni = {"model_type": "qwen2_5_omni", "thinker_config": {"text_config": {"rope_theta": 3e6}}}
    assert resolve(omni).rope.theta == 3e6


def test_a_transformer_of_diffusers():
    rope = resolve({"_class_name": "FluxTransformer2DModel"}).rope
    assert (rope.head_dim, rope.num_axes, rope.arithmetic) == (128, 3, "float64")
    assert resolve({"_class_name": "Flux2Transformer2DModel"}).rope.num_axes == 4


@pytest.mark.parametrize("compat", ["5.23", "4.57"])
@pytest.mark.parametrize("name", list(built_in()))
def test_every_layer_of_every_preset(name, compat):
    config = built_in()[name].config
    groups = resolve(config, layer=0, compat=compat).layers or resolve(config).layers
    for group in groups:
        found = resolve(config, layer=group.layers[-1], compat=compat)
        assert (found.nope is None) == (found.rope is not None) == (group.nope is None)
    if "vision_config" in config:
        assert resolve(config, part="vision", compat=compat).rope.num_axes == 2


BY_TYPE = ("gemma3_text", "modernbert", "olmo3")
LATER = ("original_max_position_embeddings", "rotary_emb_base", "rotary_emb_fraction")


@pytest.mark.parametrize("name", list(built_in()))
def test_parameters_say_the_same_as_the_file(name):
    config = dict(built_in()[name].config)
    config = dict(config.get("text_config", config))
    if config.get("model_type") in (None, "gptj", *BY_TYPE):
        pytest.skip("keys of its own, or a block for each layer type")
    found = resolve(config)
    for key in ("rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_pct", *LATER):
        config.pop(key, None)
    again = resolve({**config, "rope_parameters": found.parameters})
    assert again.rope.frequency_table.inv_freq.equal(found.rope.frequency_table.inv_freq)
    assert again.rope.attention_scaling == found.rope.attention_scaling
    assert again.attention == found.attention
    assert again.parameters == found.parameters


def test_queries_that_a_model_scales_by_position_are_told():
    """Attention leaves that to the caller, who may do it before the rotation."""
    assert "1 + attn_scale" in str(resolve({"model_type": "llama4_text"}, layer=3).warnings)
    assert not resolve({"model_type": "llama4_text"}, layer=0).warnings
    assert "llama_4_scaling_beta" in str(resolve({"model_type": "ministral3"}).warnings)
