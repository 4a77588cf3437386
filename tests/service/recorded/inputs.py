"""Tensors, ropes and presets of the recorded requests."""

from typing import Any

from tests.service.recorded.tensors import heads

QKV = {"q": heads(1, 3, 4, 8), "k": heads(1, 3, 2, 8), "v": heads(1, 3, 2, 8)}
PACKED = {"q": heads(5, 4, 8), "k": heads(5, 2, 8), "v": heads(5, 2, 8)}
LEARNED = heads(3, 4, 4)
CONFIG = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "rope_theta": 5e5}

ROPES: dict[str, Any] = {
    "theta": {"theta": 500.0},
    "interleaved": {"layout": "interleaved", "rotary_dim": 4},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "ntk": {"rope_type": "ntk", "factor": 2.0},
    "dynamic": {
        "rope_type": "dynamic",
        "factor": 2.0,
        "max_position_embeddings": 2,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "axial": {"axes": "axial", "axes_dim": [4, 4]},
    "mrope": {"axes": "mrope", "mrope_section": [1, 1, 2]},
    "config": {"config": CONFIG},
    "float64": {"arithmetic": "float64"},
}

WARNED = {**CONFIG, "rope_scaling": {"type": "linear", "factor": 2.0, "x": 1}}
"""A config of which a key is ignored, with a warning."""

PRESETS = {
    "llama-3.1-8b": 128,
    "qwen2-vl-7b-instruct": 128,
    "qwen2.5-7b-instruct-yarn": 128,
    "gpt-j-6b": 256,
    "deepseek-v3": 64,
    "phi-3.5-mini-instruct": 96,
}
"""Widths of their heads."""
