"""Layers: their types, which of them rotate, and how they attend."""

import pytest

from rope_core.errors import ConfigError
from rope_core.hf import resolve
from rope_core.presets import built_in

GEMMA3 = {"model_type": "gemma3_text", "num_hidden_layers": 12, "sliding_window": 512}


def types_of(config):
    """Return the type of each layer, and the layers that rotate."""
    groups = resolve(config, layer=0).layers
    types = {layer: group.layer_type for group in groups for layer in group.layers}
    rotating = {layer for group in groups for layer in group.layers if group.nope is None}
    return [types[layer] for layer in sorted(types)], sorted(rotating)


def initials(config):
    """Return the first letter of each layer's type."""
    return "".join((layer_type or "-")[0] for layer_type in types_of(config)[0])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama", "num_hidden_layers": 3}, "---"),
        (GEMMA3, "sssssfsssssf"),
        ({**GEMMA3, "sliding_window_pattern": 4}, "sssfsssfsssf"),
        ({**GEMMA3, "layer_types": ["full_attention"] * 3}, "fff"),
        (
            {"model_type": "exaone4", "num_hidden_layers": 5, "sliding_window_pattern": "LLG"},
            "ssfss",
        ),
        ({"model_type": "modernbert", "num_hidden_layers": 7}, "fssfssf"),
        (
            {"model_type": "modernbert", "num_hidden_layers": 4, "global_attn_every_n_layers": 2},
            "fsfs",
        ),
        ({"model_type": "llama4_text", "num_hidden_layers": 5}, "cccfc"),
        ({"model_type": "llama4_text", "num_hidden_layers": 3, "no_rope_layers": [0, 1, 1]}, "fcc"),
        ({"model_type": "qwen2", "num_hidden_layers": 3}, "fff"),
        (
            {"model_type": "qwen2", "num_hidden_layers": 3, "use_sliding_window": True}
            | {"max_window_layers": 1},
            "fss",
        ),
        ({"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": None}, "fff"),
        ({"model_type": "qwen2_moe", "num_hidden_layers": 3, "use_sliding_window": True}, "sfs"),
        (
            {"model_type": "smollm3", "num_hidden_layers": 3, "no_rope_layers": [0, 1, 0]}
            | {"use_sliding_window": True, "sliding_window": 4},
            "sfs",
        ),
        ({"model_type": "lfm2", "num_hidden_layers": 3, "full_attn_idxs": [1]}, "cfc"),
        ({"model_type": "ministral", "num_hidden_layers": 2, "sliding_window": None}, "ff"),
        ({"model_type": "muse_glimmer_text", "num_hidden_layers": 6}, "sfsssf"),
        ({"model_type": "deepseek_v4", "num_hidden_layers": 4}, "hhhc"),
        (
            {"model_type": "deepseek_v4", "num_hidden_layers": 3, "compress_ratios": [0, 4, 128]},
            "sch",
        ),
        ({"model_type": "qwen3_next", "num_hidden_layers": 4}, "lllf"),
        (
            {
                "model_type": "bamba",
                "num_hidden_layers": 2,
                "layers_block_type": ["mamba", "attention"],
            },
            "lf",
        ),
    ],
    ids=str,
)
def test_layer_types(config, expected):
    assert initials(config) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama", "num_hidden_layers": 3}, [0, 1, 2]),
        ({"model_type": "llama4_text", "num_hidden_layers": 5}, [0, 1, 2, 4]),
        ({"model_type": "llama4_text", "num_hidden_layers": 5, "no_rope_layers": []}, [0, 1, 2, 4]),
        ({"model_type": "smollm3", "num_hidden_layers": 3, "no_rope_layers": [0, 1, 0]}, [1]),
        ({"model_type": "cohere2", "num_hidden_layers": 5}, [0, 1, 2, 4]),
        ({"model_type": "exaone4", "num_hidden_layers": 5}, [0, 1, 2, 4]),
        (
            {"model_type": "exaone4", "num_hidden_layers": 5, "sliding_window": None},
            [0, 1, 2, 3, 4],
        ),
        ({"model_type": "beam", "num_hidden_layers": 6}, [0, 1, 2, 3, 4]),
        ({"model_type": "qwen3_next", "num_hidden_layers": 4}, [3]),
        (
            {
                "model_type": "granitemoehybrid",
                "num_hidden_layers": 2,
                "layer_types": ["attention"] * 2,
            },
            [],
        ),
        ({"model_type": "zamba2", "num_hidden_layers": 2}, []),
        (
            {
                "model_type": "granite_swa",
                "num_hidden_layers": 3,
                "layer_rope_theta": [1e4, 0, 1e4],
            },
            [0, 2],
        ),
    ],
    ids=str,
)
def test_rotating_layers(config, expected):
    assert types_of(config)[1] == expected


def test_nope_reasons():
    resolved = resolve({"model_type": "llama4_text"}, layer=3)
    assert resolved.rope is None
    assert resolved.nope == "every 4th layer does not rotate"
    assert resolved.parameters == {}
    assert resolved.attention.chunk is None
    assert (
        resolve({"model_type": "beam"}, layer=5).nope
        == "rope parameters of full_attention are null"
    )
    assert "position_embedding_type" in resolve({"model_type": "granitemoehybrid"}).nope


def test_rope_parameters_by_layer_type():
    local, full = (resolve(GEMMA3, layer=layer) for layer in (0, 5))
    assert (local.layer_type, local.rope.theta) == ("sliding_attention", 1e4)
    assert (full.layer_type, full.rope.theta) == ("full_attention", 1e6)
    scaled = {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    assert resolve(scaled, layer_type="sliding_attention").rope == local.rope
    assert resolve(scaled, layer_type="full_attention").rope.rope_type == "linear"


def test_nested_rope_parameters_of_the_file():
    block = {"full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e5}}
    config = {**GEMMA3, "rope_parameters": block}
    assert resolve(config, layer=5).rope.theta == 2e5
    assert resolve(config, layer=0).rope.theta == 1e4, "this family fills in what is left out"
    other = {"model_type": "gemma4_text", "rope_parameters": block}
    with pytest.raises(ConfigError, match="layer_type must be one of"):
        resolve(other, layer_type="sliding_attention")
    block["sliding_attention"] = None
    assert resolve(config, layer=0).nope == "rope parameters of sliding_attention are null"


def test_layer_type_is_optional_if_all_layers_have_one():
    assert resolve({"model_type": "laguna"}).rope.theta == 5e5
    with pytest.raises(ConfigError, match="or layer an index"):
        resolve({"model_type": "modernbert"})


def test_layer_rope_theta():
    config = {
        "model_type": "granite_swa",
        "layer_rope_theta": [1e4, 5e5, 0, 1e4],
        "num_hidden_layers": 4,
    }
    assert [resolve(config, layer=layer).rope.theta for layer in (0, 1, 3)] == [1e4, 5e5, 1e4]
    with pytest.raises(ConfigError, match="layer must be given, because layer_rope_theta"):
        resolve(config)
    assert resolve({**config, "layer_rope_theta": [5e5, 5e5, 0, 5e5]}).rope.theta == 5e5
    step = {"model_type": "step3p5", "layer_types": ["full_attention", "sliding_attention"] * 2}
    step |= {"rope_theta": [1.0, 2.0, 3.0, 4.0], "partial_rotary_factors": [0.5, 1.0, 0.25, 1.0]}
    assert resolve(step, layer=2).rope.theta == 1.0, "the first layer of a type counts"
    ultra = {"model_type": "ultrabert", "rope_theta": [1.0, 2.0, 3.0], "num_hidden_layers": 3}
    assert resolve(ultra, layer=0).rope.theta == 2.0, "the last layer of a type counts"


def test_rope_scaling_layers():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    config = {"model_type": "molmo2_text", "rope_scaling": scaling, "rope_scaling_layers": [0]}
    assert resolve(config, layer=0).rope.rope_type == "yarn"
    assert resolve(config, layer=1).rope.rope_type == "default"
    assert any("rope_scaling_layers" in text for text in resolve(config).warnings)


@pytest.mark.parametrize(
    ("config", "layer", "expected"),
    [
        ({"model_type": "llama"}, 0, {}),
        ({"model_type": "mistral"}, 0, {"window": 4096}),
        ({"model_type": "mistral", "sliding_window": None}, 0, {}),
        ({"model_type": "qwen3_moe", "sliding_window": 64}, 0, {}),
        (GEMMA3, 0, {"window": 512, "scale": 256**-0.5}),
        (GEMMA3, 5, {"scale": 256**-0.5}),
        (
            {**GEMMA3, "use_bidirectional_attention": True},
            *(0, {"causal": False, "window": 257, "window_ahead": 256, "scale": 256**-0.5}),
        ),
        ({"model_type": "gemma2"}, 1, {"softcap": 50.0, "scale": 256**-0.5}),
        ({"model_type": "gemma2", "attn_logit_softcapping": None}, 1, {"scale": 256**-0.5}),
        ({"model_type": "granite", "attention_multiplier": 0.25}, 0, {"scale": 0.25}),
        ({"model_type": "llama4_text"}, 0, {"chunk": 8192}),
        ({"model_type": "llama4_text"}, 3, {}),
        ({"model_type": "modernbert"}, 0, {"causal": False}),
        (
            {"model_type": "modernbert", "local_attention": 64},
            *(1, {"causal": False, "window": 33, "window_ahead": 32}),
        ),
        ({"model_type": "eurobert"}, 0, {"causal": False}),
        ({"model_type": "deepseek_v3"}, 0, {"scale": 192**-0.5}),
    ],
    ids=str,
)
def test_attention_of_a_layer(config, layer, expected):
    attention = resolve(config, layer=layer).attention
    usual = {"causal": True, "window": None, "window_ahead": 0, "chunk": None}
    expected = {**usual, "softcap": None, "scale": None, **expected}
    assert {key: getattr(attention, key) for key in expected} == expected


def test_softmax_scale_of_mla_with_yarn():
    resolved = resolve(built_in()["deepseek-v3"].config)
    assert resolved.attention.scale == pytest.approx(192**-0.5 * 1.8738542)
    assert resolved.rope.attention_scaling == 1.0


def test_mla_head_with_its_unrotated_part():
    resolved = resolve({"model_type": "deepseek_v3"}, head_dim=192)
    assert (resolved.rope.head_dim, resolved.rope.rotary_dim, resolved.rope.trailing) == (
        192,
        64,
        True,
    )


@pytest.mark.parametrize("layer_type", ["slidng_attention", "sliding", "bananas"])
@pytest.mark.parametrize("model_type", ["gemma2", "cohere2", "llama", "gpt_oss"])
def test_unknown_layer_type_is_refused(model_type, layer_type):
    with pytest.raises(ConfigError, match=r"layer_type must be one of .*attention"):
        resolve({}, model_type=model_type, layer_type=layer_type)


def test_missing_layer_warns_if_layers_differ():
    assert resolve({}, model_type="cohere2").differ
    assert "layers differ" in str(resolve({}, model_type="gpt_oss").warnings)
    assert not resolve({}, model_type="gpt_oss", layer=1).differ
    assert not resolve({}, model_type="llama").differ
