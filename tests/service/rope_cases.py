"""Ropes of every form, and what the library makes of them."""

import json

import httpx
import torch

from rope_core import RopeConfig, resolve
from service.wire import Message
from tests.service.messages import params

D, TOKENS = 16, 5


ORIGINAL = {"original_max_position_embeddings": 64}


OF_VARIANTS = {
    "default": {},
    "linear": {"factor": 4},
    "ntk": {"factor": 4.0},
    "ntk_alpha": {"alpha": 1000},
    "ntk_mixed": {"factor": 8, "mixed_b": 0.625},
    "dynamic": {"factor": 2, "max_position_embeddings": 64},
    "dynamic_alpha": ORIGINAL,
    "yarn": {"factor": 4, "beta_fast": 20, **ORIGINAL},
    "longrope": {
        "short_factor": [1] * 7 + [2],
        "long_factor": list(range(1, 9)),
        "factor": 8,
        **ORIGINAL,
    },
    "llama3": {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, **ORIGINAL},
    "proportional": {"partial_rotary_factor": 0.5},
    "xpos": {"scale_base": 100},
    "inv_freq": {"inv_freq": [1, 0.5, 0, -0.25, 0.1, 0.05, 0.01, 3], "attention_factor": 1.5},
    "freq_factors": {"freq_factors": [1, 1, 1, 2.5, 8, 8, 8, 1e30], "attention_factor": 0.5},
}


OF_SCHEMES = {
    "mrope": {"mrope_section": [2, 3, 3]},
    "mrope_interleaved": {"mrope_section": [4, 2, 2]},
    "mrope_hw_t": {"mrope_section": [3, 3, 2]},
    "alternating": {},
    "xdrope": {"xdrope_section": [2, 2, 2, 2]},
    "axial": {"axes_dim": [4, 8, 4], "axes_order": [2, 0, 1]},
    "axial_ntk": {"axes_dim": [4, 6, 6], "rope_scale": [1.0, 2.0, 3.0]},
    "axial_alternating": {"axes_order": [1, 0]},
    "axial_split": {},
    "axial_centred": {},
    "axial_log": {"rotary_dim": 12},
    "axial_pixel": {"max_freq": 10},
    "atoms": {
        "num_spatial_pairs": 2,
        "num_uid_pairs": 1,
        "spatial_theta": 100.0,
        "uid_theta": 10.0,
    },
    "timestamps": {},
    "interpolated": {"interpolate_factor": 2.0},
}


PARAMETERS = [
    *({"rope_type": name, **own} for name, own in OF_VARIANTS.items()),
    *({"axes": name, **own} for name, own in OF_SCHEMES.items()),
    {"axes": "mrope", "rope_type": "linear", "factor": 2, "mrope_section": [2, 3, 3]},
    {"theta": 500.0, "rotary_dim": 6, "trailing": True, "negative": True},
    *({"layout": layout} for layout in ("interleaved", "interleaved_to_half", "interleaved_tiled")),
    {"rope_type": "yarn", "factor": 4, "layout": "interleaved", "arithmetic": "hf", **ORIGINAL},
]


LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
LLAMA |= {"max_position_embeddings": 2048, "num_hidden_layers": 4}


SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


LONG = {"short_factor": [1] * 8, "long_factor": [1] * 8}


GEMMA = {"model_type": "gemma3_text", "head_dim": D, "num_hidden_layers": 12}
GEMMA |= {"hidden_size": 64, "num_attention_heads": 4, "sliding_window": 3}


MODELS = {
    "4.x": {"config": LLAMA | {"rope_theta": 5e5, "rope_scaling": SCALED | ORIGINAL}},
    "5.x": {"config": LLAMA | {"rope_parameters": SCALED | ORIGINAL | {"rope_theta": 5e5}}},
    "float64": {"config": LLAMA, "arithmetic": "float64"},
    "layer": {"config": GEMMA, "layer": 5},
    "layer type": {"config": GEMMA, "layer_type": "sliding_attention"},
    "4.57": {"config": GEMMA, "layer": 0, "compat": "4.57"},
    "model type": {"config": {**LLAMA, "model_type": None}, "model_type": "gpt_neox"},
    "nested": {"config": {"model_type": "gemma3", "text_config": GEMMA}, "layer": 5},
    "length": {
        "config": LLAMA | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        "length": 5000,
    },
    "axes": {
        "config": {
            "model_type": "qwen2_vl",
            "hidden_size": 64,
            "num_attention_heads": 4,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        }
    },
}


def library_rope(given: dict, num_axes: int | None = None) -> RopeConfig:
    """Return what the library makes of a rope, told by its own functions."""
    if "config" not in given:
        rounding = {"rounding": "activation"} if given.get("arithmetic") == "hf" else {}
        return RopeConfig.of(D, **given, **rounding)
    asked = {name: each for name, each in given.items() if name != "length"}
    rope = resolve(asked.pop("config"), **asked, head_dim=D, num_axes=num_axes).rope
    return rope.for_length(given["length"]) if "length" in given else rope


def heads(num_heads: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_heads)
    return torch.randn(TOKENS, num_heads, D, generator=generator).to(dtype)


def positions_for(rope: RopeConfig) -> torch.Tensor:
    shape = (TOKENS,) if rope.num_axes == 1 else (rope.num_axes, TOKENS)
    return torch.randint(0, 300, shape, generator=torch.Generator().manual_seed(1))


def case_id(given: object) -> str:
    return json.dumps(given)[:60] if isinstance(given, dict) else str(given)


def message(**named: object) -> Message:
    return Message({}, params(**named))


async def resolved(client: httpx.AsyncClient, rope: object) -> httpx.Response:
    return await client.post("/v1/resolve", json={"rope": rope})


def check_refused(response: httpx.Response, *names: str) -> None:
    """The answer is a 422 whose text has all of these."""
    problem = response.json()
    assert response.status_code == 422, problem
    for name in names:
        assert name in problem["detail"]
    assert len(response.content) < 4096
