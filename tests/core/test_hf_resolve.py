"""A resolved config.json: which key counts, where values come from, which keys are ignored."""

import dataclasses

import pytest

from rope_core import RopeConfig
from rope_core.hf import resolve
from rope_core.hf.families import families
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


def test_published_config():
    resolved = resolve(built_in()["llama-3.1-8b"].config)
    assert resolved.rope == RopeConfig.of(
        128, theta=500_000.0, arithmetic="hf", rounding="activation", **LLAMA3
    )
    assert resolved.parameters == {**LLAMA3, "rope_theta": 500_000.0}
    assert (resolved.model_type, resolved.nope, resolved.layer_type) == ("llama", None, None)
    assert [group.layers for group in resolved.layers] == [tuple(range(32))]


def test_float64_rounds_once():
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
def test_provenance_of_rope_parameters(config, key, value, source):
    resolved = resolve({**LLAMA, **config})
    assert resolved.parameters[key] == value
    assert resolved.provenance[key] == source


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
def test_provenance_of_head_dim(config, width, source):
    resolved = resolve({**LLAMA, **config})
    assert resolved.rope.head_dim == width
    assert resolved.provenance["head_dim"] == source


def test_rope_parameters_win_over_config_keys_and_those_over_the_class():
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


def test_empty_rope_parameters_are_not_those_of_the_class():
    assert resolve({"model_type": "gpt_oss"}).rope.rope_type == "yarn"
    empty = resolve({"model_type": "gpt_oss", "rope_parameters": {}})
    assert (empty.rope.rope_type, empty.rope.theta) == ("default", 150_000.0)


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("gpt_neox", "rope_theta"),
        ("bamba", "partial_rotary_factor"),
        ("evolla_saprot", "rope_scaling"),
    ],
)
def test_ignored_key_warns(family, key):
    value = {"rope_scaling": YARN, "rope_theta": 5e5}.get(key, 0.125)
    resolved = resolve({"model_type": family, key: value})
    assert resolved.rope == resolve({"model_type": family}).rope
    assert key in resolved.keys_ignored
    assert any(text.startswith(f"{key} is ignored") for text in resolved.warnings)


def test_keys_read_and_ignored():
    config = {**LLAMA, "rope_scaling": None, "vocab_size": 9, "rope_ratio": 3.0}
    resolved = resolve(config)
    assert {"hidden_size", "num_attention_heads", "rope_scaling"} <= set(resolved.keys_read)
    assert resolved.keys_ignored == ("rope_ratio", "vocab_size")
    inner = resolve(
        {"model_type": "gemma3", "text_config": config, "x": 1}, layer_type="full_attention"
    )
    assert "text_config.hidden_size" in inner.keys_read
    assert "text_config.rope_ratio" in inner.keys_ignored


def test_unknown_rope_parameter_warns():
    (text,) = resolve({**LLAMA, "rope_scaling": {**YARN, "finetuned": True}}).warnings
    assert text == "rope_scaling.finetuned is ignored: yarn has no such parameter"


def test_unknown_model_type_is_read_as_llama_with_a_warning():
    config = {**LLAMA, "model_type": "my_llama", "rope_theta": 5e5}
    resolved = resolve(config)
    assert resolved.rope == resolve({**config, "model_type": "llama"}).rope
    assert resolved.model_type == "unknown"
    assert any("'my_llama' is unknown" in text for text in resolved.warnings)


@pytest.mark.parametrize(
    ("model_type", "family"),
    [
        ("exaone", "llama"),
        ("internlm3", "internlm3"),
        ("gemma3", "gemma3_text"),
        ("modernbert-decoder", "modernbert-decoder"),
        ("modernbert_decoder", "modernbert-decoder"),
    ],
)
def test_model_type_aliases(model_type, family):
    resolved = resolve({"model_type": model_type}, layer_type="full_attention")
    assert resolved.model_type == family
    assert not any("unknown" in text for text in resolved.warnings)


def test_composite_model():
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


def test_diffusers_class_name():
    rope = resolve({"_class_name": "FluxTransformer2DModel"}).rope
    assert (rope.head_dim, rope.num_axes, rope.arithmetic) == (128, 3, "float64")
    assert resolve({"_class_name": "Flux2Transformer2DModel"}).rope.num_axes == 4


@pytest.mark.parametrize("compat", ["5.23", "4.57"])
@pytest.mark.parametrize("name", list(built_in()))
def test_every_layer_of_every_preset_resolves(name, compat):
    config = built_in()[name].config
    groups = resolve(config, layer=0, compat=compat).layers or resolve(config).layers
    for group in groups:
        resolved = resolve(config, layer=group.layers[-1], compat=compat)
        assert (resolved.nope is None) == (resolved.rope is not None) == (group.nope is None)
    if "vision_config" in config:
        assert resolve(config, part="vision", compat=compat).rope.num_axes == 2


BY_TYPE = ("gemma3_text", "modernbert", "olmo3")
LATER = ("original_max_position_embeddings",)


@pytest.mark.parametrize("name", list(built_in()))
def test_resolved_parameters_resolve_to_the_same(name):
    config = dict(built_in()[name].config)
    config = dict(config.get("text_config", config))
    if config.get("model_type") in (None, "gptj", *BY_TYPE):
        pytest.skip("keys of its own, or a block for each layer type")
    resolved = resolve(config)
    if families()[resolved.model_type].source:
        pytest.skip("remote code, which does not read the spelling of transformers 5")
    for key in ("rope_scaling", "rope_theta", "partial_rotary_factor", "rotary_pct", *LATER):
        config.pop(key, None)
    again = resolve({**config, "rope_parameters": resolved.parameters})
    assert again.rope.frequency_table.inv_freq.equal(resolved.rope.frequency_table.inv_freq)
    assert again.rope.attention_scaling == resolved.rope.attention_scaling
    assert again.attention == resolved.attention
    assert again.parameters == resolved.parameters


def test_query_scaling_by_position_warns():
    """The caller has to scale queries, before or after the rotation."""
    assert "1 + attn_scale" in str(resolve({"model_type": "llama4_text"}, layer=3).warnings)
    assert not resolve({"model_type": "llama4_text"}, layer=0).warnings
    assert "llama_4_scaling_beta" in str(resolve({"model_type": "ministral3"}).warnings)


def test_the_softmax_scale_of_step_follows_the_width_of_a_head():
    config = {"model_type": "step3p5", "head_dim": 32}
    assert resolve(config, layer=0).attention.scale == 32**-0.5
    config["query_pre_attn_scalar"] = 64
    assert resolve(config, layer=0).attention.scale == 64**-0.5
