"""Families of remote code against the rules of their published code."""

import json
import math

import pytest
import torch

import rope_core
from rope_core import Attend, RopeConfig, Rotate, attend, rotate
from rope_core.errors import ConfigError
from rope_core.hf import resolve
from rope_core.hf.families import families
from rope_core.presets import built_in
from tests.core.remote_cases import (
    ATTN,
    CASES,
    GLM4,
    GTE,
    LARGE_3,
    LING,
    MISTRAL,
    MPT,
    MSCALES,
    NOMIC,
    PHI_SMALL,
    QWEN,
    SIZES,
    SU,
)
from tests.core.remote_oracle import check, grown, inv_freq


@pytest.mark.parametrize("name", CASES)
def test_rotation_is_that_of_the_published_code(name):
    config, frequencies, width, order, gain = CASES[name]
    check(config, frequencies, width=width, order=order, gain=gain)


def test_base_of_dbrx_is_that_of_its_published_code():
    """A class of transformers, which does not read the base."""
    config = {"model_type": "dbrx", "d_model": 6144, "n_heads": 48}
    check(config | {"attn_config": {"rope_theta": 5e5}}, inv_freq(128, 5e5), width=128)
    check(config, inv_freq(128), width=128)
    assert "5.23 has 10000" in str(resolve(config | {"attn_config": {"rope_theta": 5e5}}).warnings)


@pytest.mark.parametrize("keys", [{*MISTRAL}, {"dim", "n_heads", "head_dim", "rope_theta"}])
def test_a_params_json_is_one_in_each_form_of_the_library(keys, tmp_path):
    config = {key: MISTRAL[key] for key in keys}
    (tmp_path / "params.json").write_text(json.dumps(config))
    for form in (config, {"config": config}, tmp_path / "params.json"):
        resolved = rope_core.resolve(form)
        assert (resolved.model_type, resolved.rope.layout) == ("mistral_params", "interleaved")


def test_every_row_has_a_source_and_a_case():
    remote = {name: family for name, family in families().items() if family.source}
    assert all(family.source.startswith("https://") for family in remote.values())
    resolved = {resolve(config).model_type for config, *_ in CASES.values()}
    others = {name for name, family in remote.items() if family.part != "text"}
    assert {*remote} == {*resolved, *others, "jais", "step1", "bert_alibi"}


@pytest.mark.parametrize(
    ("length", "alpha"), [(1, 1), (8192, 1), (8193, 3), (16384, 3), (16385, 7), (32768, 7)]
)
def test_base_of_qwen_grows_in_steps(length, alpha):
    """get_ntk_alpha of Qwen's code: max(2 ** ceil(log2(length / seq_length) + 1) - 1, 1)."""
    assert alpha == max(2 ** math.ceil(math.log(length / 8192, 2) + 1) - 1, 1)
    rope = resolve(QWEN, arithmetic="float64").rope.for_length(length)
    torch.testing.assert_close(
        rope.inv_freq, inv_freq(128, grown(1e4, alpha, 128)), rtol=1e-13, atol=0
    )
    one_more = resolve(QWEN, arithmetic="float64").rope.for_length(length + 1)
    assert (rope == one_more) == (length not in (8192, 16384, 32768)), (
        "lengths of a step share a table"
    )


def test_scaling_of_queries_by_the_length_is_told():
    warnings = str(resolve(QWEN).warnings)
    assert "max(1, ln(position + 1) / ln(8192))" in warnings
    assert "decoding keeps the base of the prompt" in warnings
    quiet = QWEN | {"use_logn_attn": False, "use_dynamic_ntk": False}
    assert not resolve(quiet).warnings
    scaling = {"llama_4_scaling": {"original_max_position_embeddings": 8192, "beta": 0.1}}
    assert "1 + 0.1 * ln(1 + floor(position / 8192))" in str(resolve(MISTRAL | scaling).warnings)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "baichuan", "hidden_size": 5120, "num_attention_heads": 40}, "ALiBi"),
        (
            {"model_type": "baichuan", "model_max_length": 4096, **SIZES},
            "ALiBi (no max_position_embeddings, and hidden_size 512",
        ),
        (MPT, "ALiBi"),
        (MPT | {"attn_config": {"alibi": True, "rope": False}}, "ALiBi"),
        (MPT | {"attn_config": {"alibi": False}}, "learned absolute"),
        (
            MPT | {"attn_config": {"alibi": False}, "learned_pos_emb": False},
            "none (learned_pos_emb",
        ),
        ({"model_type": "hunyuan", "use_rotary_pos_emb": False, **SIZES}, "none (use_rotary_pos"),
        ({"model_type": "jais", "position_embedding_type": "alibi"}, "ALiBi"),
        ({"model_type": "jais"}, "learned absolute"),
        ({"model_type": "step1"}, "ALiBi"),
        ({"model_type": "RefinedWeb", "alibi": True, **SIZES}, "ALiBi"),
        ({"model_type": "bert", "position_embedding_type": "alibi"}, "ALiBi"),
        ({"model_type": "bert", "alibi_starting_size": 512}, "ALiBi"),
        (NOMIC | {"rotary_emb_fraction": 0}, "learned absolute"),
        (GTE | {"position_embedding_type": "absolute"}, "learned absolute"),
    ],
)
def test_models_that_do_not_rotate(config, reason):
    resolved = resolve(config)
    assert resolved.rope is None
    assert resolved.nope.startswith(f"no rotary embedding: {reason}")


def test_alibi_of_step_1_is_of_the_root_of_the_distance():
    (warning,) = resolve({"model_type": "step1", **SIZES}).warnings
    assert "mask, [1, H, Sq, Sk]: -slope of the head * sqrt(distance" in warning


def test_layers_of_phi_3_small_are_of_two_types():
    resolved = resolve(PHI_SMALL)
    assert resolved.differ
    assert not any("blocks of keys" in text for text in resolved.warnings)
    types = {group.layer_type: group.layers for group in resolved.layers}
    assert types == {
        "blocksparse_attention": (*range(0, 32, 2),),
        "full_attention": (*range(1, 32, 2),),
    }


def test_layers_of_ling_linear():
    """All rotate; the last of each group, and those after the last group, have a softmax."""
    config = LING | {"model_type": "bailing_moe_linear", "num_hidden_layers": 8}
    config |= {"layer_group_size": 3, "partial_rotary_factor": 0.5}
    layers = [resolve(config, layer=i) for i in range(8)]
    assert [layer.attends for layer in layers] == [False, False, True] * 2 + [True] * 2
    assert {layer.rope.rotary_dim for layer in layers} == {64}
    with pytest.raises(ConfigError, match="lightning_attention has no softmax"):
        layers[0].require_attention()
    off = config | {"linear_rope": False}
    assert [resolve(off, layer=i).rope is None for i in range(3)] == [True, True, False]


@pytest.mark.parametrize("model_type", ["bailing_moe_v2_5", "telechat", "codeshell", "yuan"])
def test_remote_code_without_a_rule_is_refused(model_type):
    config = {"model_type": model_type, **SIZES}
    with pytest.raises(ConfigError, match="one with known rules"):
        resolve(config)
    assert resolve(config, assume="llama").rope.head_dim == 64


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"model_type": "kimi_vl", "vision_config": {"model_type": "moonvit", **SIZES}}, "part"),
        ({"model_type": "foo", **SIZES}, "part"),
        ({"model_type": "llama", **SIZES}, "part"),
        (MISTRAL, "vision_encoder"),
        ({"dim": 512, "n_heads": 8}, "vision_encoder"),
    ],
)
def test_a_vision_part_that_is_missing_or_unknown_is_refused(config, key):
    with pytest.raises(ConfigError) as caught:
        resolve(config, part="vision")
    assert caught.value.parameter == key


def test_baichuan_7b_by_its_architecture():
    config = {"model_type": "baichuan", "architectures": ["BaiChuanForCausalLM"], **SIZES}
    assert resolve(config).rope.head_dim == 64


def test_layers_of_nemotron_nas_without_attention():
    blocks = [{"attention": {"no_op": i == 1, "replace_with_linear": i == 2}} for i in range(4)]
    config = {
        "model_type": "nemotron-nas",
        "num_hidden_layers": 4,
        **SIZES,
        "block_configs": blocks,
    }
    rotating = [resolve(config, layer=i).rope is not None for i in range(4)]
    assert rotating == [True, False, False, True]
    with pytest.raises(ConfigError, match="block_configs"):
        resolve(config | {"block_configs": blocks[:2]}, layer=3)


def test_xpos_of_mpt_is_that_of_flash_attention():
    attention = ATTN | {"rope_dail_config": {"type": "xpos", "xpos_scale_base": 256}}
    rope = resolve(MPT | {"attn_config": attention}, arithmetic="float64").rope
    q, k = (torch.randn(6, 2, 64, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    rotated = rotate(Rotate(q, k, rope))
    powers = (torch.arange(6).double() - 3) / 256
    zeta = (torch.arange(0, 64, 2).double() + 0.4 * 64) / (1.4 * 64)
    scale = (zeta ** powers[:, None]).repeat(1, 2)[:, None]
    plain = rotate(Rotate(q, k, RopeConfig.of(64, theta=5e5)))
    torch.testing.assert_close(rotated.q.double(), plain.q.double() * scale, rtol=0, atol=1e-5)
    torch.testing.assert_close(rotated.k.double(), plain.k.double() / scale, rtol=0, atol=1e-5)


def test_gains_of_phi_3_small_are_its_own():
    rope = resolve(PHI_SMALL | {"rope_scaling": SU | MSCALES}).rope
    assert [rope.for_length(n).attention_scaling for n in (8192, 8193)] == [1.1, 1.25]


def test_softmax_scales():
    assert resolve(PHI_SMALL, layer=1).attention.scale == 1 / 128
    assert resolve(PHI_SMALL | {"mup_use_scaling": False}, layer=1).attention.scale is None
    assert "blocks of keys" in str(resolve(PHI_SMALL, layer=0).warnings)
    assert not resolve(PHI_SMALL, layer=1).warnings, "every second layer sees all keys"
    assert resolve(LARGE_3).attention.scale == 192**-0.5
    scaled = LARGE_3 | {"yarn": LARGE_3["yarn"] | {"apply_scale": True}}
    assert resolve(scaled).attention.scale == pytest.approx(
        192**-0.5 * (0.1 * math.log(36) + 1) ** 2
    )
    assert resolve(scaled).rope.attention_scaling == 1


def test_windows_of_params_json():
    windows = MISTRAL | {"n_layers": 8, "sliding_window": [None, 4096, 4096, 4096]}
    assert [resolve(windows, layer=i).attention.window for i in range(5)] == [
        *(None, 4096, 4096, 4096, None)
    ]
    assert resolve(MISTRAL | {"sliding_window": 4096}, layer=0).attention.window == 4096
    assert resolve(MISTRAL, layer=0).attention.window is None
    with pytest.raises(ConfigError, match="sliding_window"):
        resolve(MISTRAL | {"sliding_window": [1, 2]}, layer=0)


def test_vision_encoder_of_params_json():
    """mistral-inference: even frequencies for rows, odd ones for columns, neighbours as pairs."""
    tower = {"hidden_size": 1024, "num_attention_heads": 16, "patch_size": 14}
    config = MISTRAL | {"vision_encoder": tower | {"rope_theta": 10000.0}}
    rope = resolve(config, part="vision", arithmetic="float64").rope
    rows, columns = torch.tensor([0, 3, 7]), torch.tensor([5, 1, 2])
    x = torch.randn(3, 2, 64, generator=torch.Generator().manual_seed(0))
    rotated = rotate(Rotate(x, None, rope, positions=torch.stack((rows, columns)))).q
    w = inv_freq(64)
    angles = torch.cat((rows[:, None] * w[::2], columns[:, None] * w[1::2]), -1)[:, None]
    z = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    expected = torch.view_as_real(z * torch.polar(torch.ones_like(angles), angles)).flatten(-2)
    torch.testing.assert_close(rotated.double(), expected, rtol=0, atol=1e-6)
    assert not resolve(config, part="vision").attention.causal


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (GLM4 | {"position_encoding_2d": True}, "position_encoding_2d"),
        (GLM4 | {"rope_ratio": 0}, "rope_ratio"),
        (GLM4 | {"rope_ratio": "500"}, "rope_ratio"),
        (GLM4 | {"kv_channels": 1.5}, "kv_channels"),
        (QWEN | {"seq_length": None}, "seq_length"),
        (QWEN | {"rotary_pct": 2.0}, "head_dim"),
        (NOMIC | {"rotary_emb_fraction": "all"}, "rotary_emb_fraction"),
        (
            NOMIC | {"rotary_scaling_factor": 2, "rotary_emb_scale_base": 512},
            "rotary_emb_scale_base",
        ),
        (GTE | {"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling.type"),
        (GTE | {"rope_scaling": {"type": "ntk", "factor": "2"}}, "rope_scaling.factor"),
        (GTE | {"rope_scaling": [1]}, "rope_scaling.type"),
        (MPT | {"attn_config": [1]}, "attn_config"),
        (MPT | {"attn_config": ATTN | {"rope_impl": "mine"}}, "attn_config.rope_impl"),
        (MPT | {"attn_config": ATTN | {"rope_dail_config": 3}}, "attn_config.rope_dail_config"),
        (MPT | {"attn_config": ATTN | {"rope_theta": -1}}, "rope_theta"),
        ({"model_type": "internlm", "rotary": {"type": "new"}, **SIZES}, "rotary.type"),
        (MISTRAL | {"yarn": 4}, "yarn"),
        (MISTRAL | {"yarn": {"beta": 32, "factor": 4}}, "original_max_position_embeddings"),
        (PHI_SMALL | {"rope_position_scale": 0}, "rope_position_scale"),
    ],
)
def test_bad_values_name_their_key(config, key):
    with pytest.raises(ConfigError) as caught:
        resolve(config)
    assert key in caught.value.parameter


def test_names_of_values_that_count_and_their_origin():
    resolved = resolve(GLM4)
    assert resolved.parameters["rope_theta"] == 5e6
    assert {"kv_channels", "rope_ratio"} <= {*resolved.keys_read}
    assert resolved.provenance["rope_ratio"] == "given"


def test_alibi_models_attend_without_rotation():
    """The bias is sent as `mask`; the attention itself rotates nothing."""
    resolved = resolve({"model_type": "jais", "position_embedding_type": "alibi"})
    q = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    out = attend(Attend(q, q, q, resolved.rope, resolved.attention)).out
    assert out.shape == q.shape


def test_presets_of_remote_code():
    remote = {}
    for name, preset in built_in().items():
        resolved = resolve(preset.config, layer=0)
        if (family := families().get(resolved.model_type)) and family.source:
            remote[name] = resolved
    assert len(remote) >= 12
    assert remote["glm-4-9b-chat-1m"].rope.theta == 1e8
    assert remote["qwen-7b"].rope.for_length(32768).rope_type == "dynamic_alpha"
    assert {name for name, resolved in remote.items() if resolved.rope is None} == {
        *("baichuan2-13b-chat", "mpt-7b")
    }
