"""Configs of own code under a model_type of transformers, and attention that is told or read."""

import pytest

from rope_core import ConfigError
from rope_core.hf import resolve

SIZES = {"hidden_size": 512, "num_attention_heads": 8}
PIXTRAL = {"dim": 5120, "n_layers": 2, "n_heads": 32, "head_dim": 128, "rope_theta": 1e9}
PIXTRAL |= {"vision_encoder": {"hidden_size": 1024, "num_attention_heads": 16}}
HUNYUAN = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 0}
HUNYUAN |= {"beta_fast": 32, "beta_slow": 1}


def test_local_layers_of_gpt_neo_have_a_window():
    config = {"model_type": "gpt_neo", "num_layers": 5, "window_size": 64}
    config |= {"attention_types": [[["global", "local"], 2], [["local"], 9]]}
    windows = [resolve(config, layer=i).attention.window for i in range(5)]
    assert windows == [None, 64, None, 64, 64]
    assert resolve({"model_type": "gpt_neo"}, layer=23).attention.window == 256
    assert "layers differ" in str(resolve(config).warnings)


@pytest.mark.parametrize(
    "types",
    [
        "x",
        [3],
        [["global", 24]],
        [[["x"], 24]],
        [[["global"], True]],
        [[["local"], 3]],
        [[[], 10**30]],
    ],
)
def test_attention_types_that_are_no_pairs(types):
    with pytest.raises(ConfigError, match="attention_types must be"):
        resolve({"model_type": "gpt_neo", "attention_types": types})


@pytest.mark.parametrize("model_type", ["longformer", "big_bird", "reformer", "canine"])
def test_attention_to_a_part_of_the_keys_is_told(model_type):
    assert "see a part of the keys only" in str(resolve({"model_type": model_type}).warnings)


def test_alibi_of_both_sides_is_that_of_the_distance():
    resolved = resolve({"model_type": "bert", "position_embedding_type": "alibi", **SIZES})
    assert not resolved.attention.causal
    assert not resolved.position_keys_not_applied
    assert "[1, H, Sq, Sk]: -slope of the head * distance" in str(resolved.warnings)
    assert "[1, H, 1, Sk]" in str(resolve({"model_type": "bloom"}).warnings)
    plain = resolve({"model_type": "bert", "position_embedding_type": "absolute", **SIZES})
    assert plain.nope == "no rotary embedding: learned absolute"


def test_slopes_of_mpt_that_differ_are_told():
    told = [
        str(resolve({"model_type": "mpt", "attn_config": {"alibi_bias_max": most}}).warnings)
        for most in (8, 16)
    ]
    assert "alibi_bias_max" not in told[0]
    assert "the slopes have 16 in place of 8" in told[1]


def test_scale_of_xpos_is_refused():
    config = {"model_type": "xlm-roberta", "position_embedding_type": "rotary", **SIZES}
    with pytest.raises(ConfigError, match="rotary_emb_scale_base must be null"):
        resolve(config | {"rotary_emb_scale_base": 512})
    assert resolve(config | {"rotary_emb_dim": 32}).rope.rotary_dim == 32


def test_single_names_of_another_family_are_named():
    config = {"model_type": "foo", "hidden_size": 512, "n_head": 8, "n_layer": 2}
    with pytest.raises(ConfigError, match="num_attention_heads for n_head, num_hidden_layers for"):
        resolve(config)


def test_keys_of_text_are_not_missing_in_vision():
    assert not resolve(PIXTRAL, part="vision").position_keys_not_applied
    text = {"model_type": "minimax_m3_vl", "vocab_size": 9, "rope_theta": 5e6, "head_dim": 128}
    resolved = resolve(text, part="vision")
    assert not resolved.position_keys_not_applied
    assert "the file has no config of its vision part" in str(resolved.warnings)
    tower = {"hidden_size": 1280, "num_attention_heads": 16, "rope_mode": "3d"}
    assert not resolve(text | {"vision_config": tower}, part="vision").position_keys_not_applied


def test_the_width_of_heads_is_not_missing_in_the_indexer():
    config = {"model_type": "glm_moe_dsa", "head_dim": 192}
    assert not resolve(config, part="indexer").position_keys_not_applied


def test_usual_values_are_not_told():
    config = {"model_type": "hunyuan_v1_dense", "rope_scaling": HUNYUAN, **SIZES}
    assert not resolve(config).position_keys_not_applied
    assert "is ignored" not in str(resolve(config).warnings)
    config["rope_scaling"] = HUNYUAN | {"beta_fast": 16, "mscale_all_dim": 0.7}
    names = ("rope_scaling.beta_fast", "rope_scaling.mscale_all_dim")
    assert resolve(config).position_keys_not_applied == names
    glm = {"model_type": "glm_moe_dsa", "indexer_rope_interleave": True}
    assert not resolve(glm).position_keys_not_applied
    glm["indexer_rope_interleave"] = False
    assert resolve(glm).position_keys_not_applied == ("indexer_rope_interleave",)


def test_an_object_under_a_position_key_is_told():
    chunks = {"dual_chunk_attention_config": {"chunk_size": 8}}
    config = {"model_type": "llama", **SIZES, "rope_scaling": {"type": "linear", "factor": 2.0}}
    config["rope_scaling"] |= chunks
    resolved = resolve(config)
    assert resolved.rope.rope_type == "linear"
    assert resolved.position_keys_not_applied == ("rope_scaling.dual_chunk_attention_config",)


def test_positions_of_detr_are_sines_unless_learned():
    kinds = [
        resolve({"model_type": "detr", "position_embedding_type": kind}).nope
        for kind in (None, "sine", "learned")
    ]
    assert [kind.rpartition(": ")[2] for kind in kinds] == [*["sinusoidal"] * 2, "learned absolute"]
