"""The key or the formula of each value, and the lengths of a config."""

import json

import pytest

from rope_core import layer_kinds
from rope_core.hf import resolve
from rope_core.hf.lengths import Lengths
from rope_core.presets import built_in
from tests.conftest import ROOT

REAL_CONFIGS = ROOT / "tests" / "real_configs" / "configs"
LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}
LINEAR = {"type": "linear", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
DICTS = {"sliding_attention": {"rope_theta": 10.0}, "full_attention": {"rope_theta": 20.0}}
GEMMA = {"model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 1, "head_dim": 64}
FULL = {"layer_type": "full_attention"}


@pytest.mark.parametrize(
    ("config", "options", "name", "why"),
    [
        ({"rope_theta": 5e5}, {}, "rope_theta", "rope_theta"),
        ({"rope_parameters": {"rope_theta": 5e5}}, {}, "rope_theta", "rope_parameters.rope_theta"),
        ({}, {}, "rope_theta", "class of llama"),
        ({}, {}, "head_dim", "hidden_size / num_attention_heads"),
        ({"rope_scaling": LINEAR}, {}, "rope_type", "rope_scaling.type"),
        ({"rope_scaling": LINEAR}, {}, "factor", "rope_scaling.factor"),
        ({"rope_scaling": YARN}, {}, "attention_factor", "0.1 * ln(factor) + 1"),
        ({"rope_scaling": YARN}, {}, "beta_fast", "default of yarn"),
        (
            {"rope_scaling": {"type": "yarn"}, "max_position_embeddings": 64},
            *({}, "factor", "max_position_embeddings / original_max_position_embeddings"),
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}, "max_position_embeddings": 64},
            *({}, "original_max_position_embeddings", "max_position_embeddings"),
        ),
        ({"model_type": "gpt_neox", "rotary_emb_base": 5}, {}, "rope_theta", "rotary_emb_base"),
        (
            {"model_type": "gpt_neox", "rotary_pct": 0.5, "head_dim": None},
            *({}, "partial_rotary_factor", "rotary_pct"),
        ),
        (
            {**GEMMA, "rope_parameters": DICTS},
            *(FULL, "rope_theta", "rope_parameters.full_attention.rope_theta"),
        ),
        ({**GEMMA, "rope_theta": 5.0}, FULL, "rope_theta", "rope_theta"),
        (
            {**GEMMA, "rope_local_base_freq": 5.0},
            *({"layer_type": "sliding_attention"}, "rope_theta", "rope_local_base_freq"),
        ),
        (
            {**GEMMA, "rope_scaling": {**LINEAR, "rope_type": "linear"}},
            FULL,
            "factor",
            "rope_scaling.factor",
        ),
        (
            {
                "model_type": "internlm",
                "max_position_embeddings": 64,
                "rotary": {"type": "dynamic", "scaling_factor": 2.0},
            },
            *({}, "factor", "rotary.scaling_factor"),
        ),
    ],
)
def test_keys_and_formulas(config, options, name, why):
    assert resolve({**LLAMA, **config}, **options).why[name] == why


def test_keys_of_a_nested_config_have_its_path():
    text = {**LLAMA, "rope_theta": 5e5}
    resolved = resolve({"model_type": "llava", "text_config": text})
    assert resolved.why["rope_theta"] == "text_config.rope_theta"
    assert resolved.why["head_dim"] == "hidden_size / num_attention_heads"


def has_path(config, path):
    for key in path.split("."):
        if not isinstance(config, dict) or key.partition("[")[0] not in config:
            return False
        config = config[key.partition("[")[0]]
    return True


@pytest.mark.parametrize("compat", ["5.23", "4.57"])
def test_every_given_value_has_a_key_of_its_config(compat):
    configs = [preset.config for preset in built_in().values()][::12]
    configs += [json.loads(file.read_text()) for file in sorted(REAL_CONFIGS.glob("*.json"))[::12]]
    for config in configs:
        (resolved, *_) = [kind.resolved for kind in layer_kinds({"config": config}, compat=compat)]
        assert resolved.why.keys() == resolved.provenance.keys()
        for name, source in resolved.provenance.items():
            assert resolved.why[name]
            if source == "given":
                assert has_path(config, resolved.why[name]), (name, resolved.why[name])


@pytest.mark.parametrize(
    ("config", "lengths"),
    [
        ({}, Lengths(2048, 2048)),  # of the class
        ({"max_position_embeddings": 64}, Lengths(64, 64)),
        ({"rope_scaling": YARN, "max_position_embeddings": 4096}, Lengths(1024, 4096)),
        ({"rope_scaling": LINEAR, "max_position_embeddings": 64}, Lengths(64, 64)),
        (
            {
                "rope_scaling": {"type": "dynamic", "factor": 2.0},
                "max_position_embeddings": 64,
            },
            Lengths(64, 64),
        ),
        ({"max_position_embeddings": 64, "model_type": "my_model"}, Lengths(64, 64)),
        ({"model_type": "my_model"}, Lengths(None, None)),
    ],
)
def test_lengths(config, lengths):
    assert resolve({**LLAMA, **config}).lengths == lengths
