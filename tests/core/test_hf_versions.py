"""Configs that transformers 4.57 and 5.23 read differently, and the warnings about them."""

import pytest

from rope_core.errors import ConfigError
from rope_core.hf import resolve

FACTORS = {"short_factor": [1.0] * 16, "long_factor": [2.0] * 16}
SMALL = {"hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 1024}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


def both(config, **arguments):
    """Resolve a config as 5.23 and as 4.57 do."""
    return [resolve(config, compat=compat, **arguments) for compat in ("5.23", "4.57")]


def warns(resolved, start):
    """Return whether a warning starts with `start`."""
    return any(text.startswith(start) for text in resolved.warnings)


def test_olmo3_rope_theta():
    config = {"model_type": "olmo3", "rope_theta": 7e5}
    new, old = both(config, layer_type="sliding_attention")
    assert (new.rope.theta, old.rope.theta) == (5e5, 7e5)
    assert warns(new, "olmo3: rope_theta")
    assert warns(old, "olmo3: rope_theta")
    assert [resolved.rope.theta for resolved in both(config, layer_type="full_attention")] == [
        7e5,
        7e5,
    ]


def test_phimoe_long_factor():
    scaling = {"type": "longrope", **FACTORS, "short_mscale": 1.1, "long_mscale": 1.3}
    scaling |= {"original_max_position_embeddings": 64}
    new, old = both({**SMALL, "model_type": "phimoe", "rope_scaling": scaling})
    long = [resolved.rope.for_length(65) for resolved in (new, old)]
    assert [rope.attention_scaling for rope in long] == [1.3, 1.3]
    assert long[0].frequency_table.inv_freq[1] == 2 * long[1].frequency_table.inv_freq[1]
    assert warns(new, "phimoe: 5.23 never uses long_factor")
    assert warns(old, "phimoe: 5.23 never uses long_factor")


def test_phimoe_trained_length_is_that_of_rope_scaling():
    scaling = {"type": "longrope", **FACTORS, "short_mscale": 1.1, "long_mscale": 1.3}
    config = {**SMALL, "model_type": "phimoe", "rope_scaling": scaling}
    new = resolve({**config, "original_max_position_embeddings": 64})
    assert new.rope.for_length(500).attention_scaling == 1.1


def test_longrope_factor_with_a_trained_length():
    scaling = {"type": "longrope", **FACTORS, "factor": 2.0}
    config = {**SMALL, "model_type": "llama", "rope_scaling": scaling}
    new, old = both({**config, "original_max_position_embeddings": 128})
    assert new.parameters["factor"] == 2.0
    assert old.parameters["factor"] == 8.0
    assert warns(new, "longrope: 5.23 takes the explicit factor")
    assert warns(old, "longrope: 5.23 takes the explicit factor")


def test_su_needs_its_trained_length_in_rope_scaling():
    config = {**SMALL, "model_type": "phi3", "original_max_position_embeddings": 64}
    config["rope_scaling"] = {"type": "su", **FACTORS}
    with pytest.raises(ConfigError, match=r"^rope_scaling\.original_max_position_embeddings"):
        resolve(config)
    old = resolve(config, compat="4.57")
    assert old.rope.rope_type == "longrope"
    assert warns(old, '"su" means longrope')


def test_deepseek_v2_softmax_scale():
    scaling = {**YARN, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707}
    new, old = both({"model_type": "deepseek_v2", "rope_scaling": scaling})
    assert old.attention.scale == 192**-0.5
    assert new.attention.scale == pytest.approx(old.attention.scale * 1.5896, rel=1e-4)
    assert warns(new, "deepseek_v2: 5.23 multiplies")
    assert warns(old, "deepseek_v2: 5.23 multiplies")


def test_hunyuan_alpha_in_long_calls():
    config = {**SMALL, "model_type": "hunyuan_v1_dense", "head_dim": 32}
    config["rope_scaling"] = {"type": "dynamic", "alpha": 50.0, "factor": 2.0}
    new, old = both(config)
    assert not new.rope.needs_length
    short, long = (old.rope.for_length(length).frequency_table.inv_freq for length in (1024, 1025))
    assert short.equal(new.rope.frequency_table.inv_freq)
    assert not long.equal(short)
    assert warns(new, "hunyuan: beyond max_position_embeddings")
    assert warns(old, "hunyuan: beyond max_position_embeddings")
    assert new.parameters["rope_type"] == old.parameters["rope_type"] == "dynamic"


def test_truncate_in_nested_rope_parameters():
    block = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}
    blocks = {"full_attention": {**block, "rope_theta": 5e5, "truncate": False}}
    resolved = resolve(
        {"model_type": "olmo3", "rope_parameters": blocks}, layer_type="full_attention"
    )
    assert resolved.parameters["truncate"] is True
    assert warns(resolved, "rope_parameters.full_attention.truncate is ignored")
    outer = {**blocks, "truncate": False}
    resolved = resolve(
        {"model_type": "olmo3", "rope_parameters": outer}, layer_type="full_attention"
    )
    assert resolved.parameters["truncate"] is False


@pytest.mark.parametrize("rope_type", ["yarn", "dynamic"])
def test_null_head_dim_warns(rope_type):
    config = {**SMALL, "model_type": "mixtral", "head_dim": None}
    config["rope_scaling"] = {**YARN, "type": rope_type}
    for resolved in both(config):
        assert resolved.rope.head_dim == 32
        assert warns(resolved, f"head_dim is null: transformers fails on it with {rope_type}")


def test_olmo2_with_yarn_warns():
    for resolved in both({"model_type": "olmo2", "rope_scaling": YARN}):
        assert warns(resolved, "olmo2: transformers 4.57 refuses yarn")


def test_4_57_reads_theta_and_partial_rotary_factor_outside_of_rope_scaling():
    block = {"type": "linear", "factor": 2.0, "rope_theta": 777.0, "partial_rotary_factor": 0.25}
    config = {**SMALL, "model_type": "phi", "rope_theta": 5e5, "rope_scaling": block}
    new, old = both(config)
    assert (new.rope.theta, new.rope.rotary_dim) == (777.0, 8)
    assert (old.rope.theta, old.rope.rotary_dim) == (5e5, 16)
    assert warns(old, "rope_scaling.rope_theta is ignored")
    assert warns(old, "rope_scaling.partial_rotary_factor is ignored")


def test_4_57_does_not_read_rope_parameters():
    config = {"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    new, old = both(config)
    assert (new.rope.theta, old.rope.theta) == (5e5, 1e4)
    assert warns(old, "rope_parameters is ignored")


def test_class_missing_in_4_57_warns():
    new, old = both({"model_type": "ministral3"})
    assert new.rope == old.rope
    assert warns(old, "ministral3: transformers 4.57 has no such class")


@pytest.mark.parametrize(
    ("family", "new", "old"),
    [("cohere", 5e5, 1e4), ("falcon_h1", 1e4, 1e5), ("persimmon", 1e4, 25_000.0)],
)
def test_changed_default_of_rope_theta_warns(family, new, old):
    resolved = both({"model_type": family})
    assert [resolved.rope.theta for resolved in resolved] == [new, old]
    assert all(warns(resolved, f"{family}: rope_theta is the class's") for resolved in resolved)
    given = both({"model_type": family, "rope_theta": 123.0})
    assert [resolved.rope.theta for resolved in given] == [123.0, 123.0]
    assert not any(warns(resolved, family) for resolved in given)


def test_type_in_a_family_with_rope_parameters_by_type():
    config = {"model_type": "gemma3_text", "rope_scaling": {"type": "linear", "factor": 8.0}}
    new, old = both(config, layer_type="full_attention")
    assert (new.rope.rope_type, old.rope.rope_type) == ("default", "linear")
    assert warns(new, "rope_scaling.type is ignored")


def test_nemotron_rope_scaling():
    config = {"model_type": "nemotron", "rope_scaling": {"type": "linear", "factor": 2.0}}
    new, old = both(config)
    assert (new.rope.rope_type, old.rope.rope_type) == ("linear", "default")
    assert warns(new, "nemotron: transformers 4.57 ignores rope_scaling")
    assert warns(old, "nemotron: transformers 4.57 ignores rope_scaling")


@pytest.mark.parametrize(
    ("block", "start"),
    [
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
            | {"original_max_position_embeddings": 512},
            "high_freq_factor 1.0 is not above",
        ),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | {"original_max_position_embeddings": 1024},
            "original_max_position_embeddings 1024 is not below 1024",
        ),
        ({"rope_type": "linear", "factor": 0.5}, "factor is below 1"),
    ],
    ids=str,
)
def test_implausible_numbers_warn(block, start):
    assert warns(resolve({**SMALL, "model_type": "llama", "rope_scaling": block}), start)
