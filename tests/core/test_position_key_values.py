"""Which values of position keys change nothing: the usual ones, and those that are applied."""

import pytest
import torch

from rope_core import ConfigError, resolve
from rope_core.hf.families import families
from tests.core.position_key_cases import LLAMA, UNKNOWN

INERT = {
    "rotary_dim": None,
    "rotary_pct": 1.0,
    "rotary_emb_fraction": 1,
    "rotary_scaling_factor": 1.0,
    "rotary_emb_scale_base": None,
    "rotary_emb_interleaved": False,
    "rope_interleaved": False,
    "rope_ratio": 1,
    "mla_use_nope": False,
    "alibi": 0,
    "use_dynamic_ntk": False,
    "use_logn_attn": False,
    "use_mrope": False,
    "use_rope": True,
    "use_rotary_embedding": True,
    "rotary": True,
    "position_embedding_type": "rope",
    "pos_emb_type": "rotary",
    "no_rope_layers": [],
    "mrope_section": [],
    "layer_rope_theta": None,
    "dual_chunk_attention_config": {},
    "rope_scaling": None,
    "rope_parameters": {},
    "rope_scaling_type": "none",
    "rope_embedding_base": 10000,
    "rope_dim": 64,
    "use_rope_in_global": True,
    "rotate_half": True,
    "disable_rope": False,
    "rpe": False,
    "max_relative_positions": -1,
    "vision_config": {"rope_theta": 5},
    "quantization_config": {"rotary_dim": 3},
    "decoder": {"rope_theta": 10000.0, "hidden_size": 256, "rotary_pct": 1.0},
    "attention_dropout": 0.1,
    "hidden_act": "silu",
    "properties": {"a": 1},
    "memory_attention_rope_dropout": 0.1,
    "num_position_embeddings": 2304,
    "position_embedding_size": 10240,
    "partial_rotary_factor": 1.0,
    "head_dim": 64,
    "rope_theta": 10000.0,
}
"""Keys that change nothing, whatever the model."""

INERT_IF_KNOWN = {
    "rotary_dim": 64,
    "rotary_emb_base": 10000,
    "kv_channels": 64,
    "layer_rope_theta": [10000.0] * 4,
    "no_rope_layers": [1, 1, 1, 1],
    "original_max_position_embeddings": 1024,
    "max_trained_positions": 1024,
}
"""Keys that say what is applied anyhow."""


@pytest.mark.parametrize(("key", "value"), INERT.items(), ids=INERT)
def test_an_inert_key_changes_nothing(key, value):
    for plain in (LLAMA, UNKNOWN):
        resolved, expected = resolve({**plain, key: value}), resolve(plain)
        assert resolved.rope == expected.rope
        assert torch.equal(resolved.inv_freq, expected.inv_freq)
        assert resolved.position_keys_not_applied == ()
        assert resolved.warnings == expected.warnings


@pytest.mark.parametrize(("key", "value"), INERT_IF_KNOWN.items(), ids=INERT_IF_KNOWN)
def test_a_value_that_is_applied_anyhow_is_not_listed(key, value):
    resolved = resolve({**LLAMA, key: value})
    assert (resolved.position_keys_not_applied, resolved.warnings) == ((), ())


@pytest.mark.parametrize("value", [[1, 2, 3], [3], [1], [1, 1], [1, 1, 1, 2]])
def test_no_rope_layers_as_indices_of_layers(value):
    keys = {"no_rope_layers": value}
    assert resolve({**LLAMA, **keys}).position_keys_not_applied == ("no_rope_layers",)
    with pytest.raises(ConfigError, match=r"^no_rope_layers must be absent"):
        resolve({**UNKNOWN, **keys})
    assert resolve({**UNKNOWN, "no_rope_layers": [1, True, 1, 1]}).rope == resolve(UNKNOWN).rope


def test_a_type_that_says_that_no_layer_rotates():
    hybrid = {"model_type": "granitemoehybrid", "position_embedding_type": "nope"}
    assert resolve(hybrid, layer=5).warnings == ()


def test_defaults_of_a_class_are_inert():
    for name, family in families().items():
        try:
            resolved = resolve({"model_type": name, **family.defaults})
        except ConfigError:  # layers differ, or the class has no width of a head
            continue
        assert not set(resolved.position_keys_not_applied) & set(family.defaults), name
