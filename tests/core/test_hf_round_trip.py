"""What a configuration class of transformers writes is read again: a slice of tools/parity."""

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from rope_core.errors import ConfigError
from rope_core.hf import resolve
from tools.parity import round_trip

MODEL_TYPES = (
    *("efficientloftr", "esmfold2", "gemma3_text", "gemma4", "gpt_oss", "granite4_vision_text"),
    *("kimi_k25", "llama4", "mimo_v2_flash", "modernbert", "qwen3_vl", "step3p7", "wav2vec2-bert"),
)
"""Kinds of classes: own steps, nested parts, parameters by layer type, composite models."""


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_what_a_class_writes_is_read_again(model_type):
    assert round_trip.differences(CONFIG_MAPPING[model_type]) == []


def test_the_list_of_differences_names_classes_and_reasons():
    assert all(name and part and why for name, part, why in round_trip.ON_PURPOSE)
    assert round_trip.reason("glm4_moe", "no multiple of 96 heads, got none")
    assert round_trip.reason("glm4_moe", "frequencies 3") is None


def test_efficientloftr_writes_a_share_of_four_heads():
    """Two axes of 4 heads of 32 channels fill the 256 channels of the hidden states."""
    written = CONFIG_MAPPING["efficientloftr"]().to_dict()
    assert written["rope_parameters"]["partial_rotary_factor"] == 4.0
    rope = resolve(written).rope
    assert (rope.head_dim, rope.rotary_dim, rope.inv_freq.unique().numel()) == (256, 256, 64)
    assert resolve(written).attention.scale == 32**-0.5
    written["rope_parameters"]["partial_rotary_factor"] = 2.0
    with pytest.raises(ConfigError, match=r"partial_rotary_factor must be 4\.0"):
        resolve(written)


def test_a_vision_part_ignores_a_share():
    """The vision classes have axial frequencies of the whole head."""
    written = CONFIG_MAPPING["qwen2_5_vl"]().vision_config.to_dict()
    written["rope_parameters"]["partial_rotary_factor"] = 0.5
    resolved = resolve(written)
    assert resolved.rope == resolve({"model_type": "qwen2_5_vl_vision"}).rope
    assert "rope_parameters.partial_rotary_factor is ignored" in str(resolved.warnings)


@pytest.mark.parametrize("inner", ["clip_vision_model", "qwen2_vl", None])
def test_the_class_of_a_composite_model_fixes_that_of_its_vision_part(inner):
    """transformers reads `vision_config` with Qwen2.5-VL's class, whatever its model_type."""
    vision = {"model_type": inner, "hidden_size": 1280, "num_heads": 16, "embed_dim": 640}
    own = CONFIG_MAPPING["qwen2_5_vl"].from_dict({"vision_config": {**vision}}).vision_config
    rope = resolve({"model_type": "qwen2_5_vl", "vision_config": vision}, part="vision").rope
    assert rope.head_dim == own.hidden_size // own.num_heads == 80
