"""Requests of each route, which the description shows."""

from typing import Any

_ONE_HEAD = [[[1.0, 2.0, 3.0, 4.0]], [[1.0, 2.0, 3.0, 4.0]]]
_CONFIG = {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 4, "rope_theta": 5e5}
_WIDE = [[[1.0] * 128], [[1.0] * 128]]
_IMAGE = {"image_grid_thw": [[1, 4, 4]], "token_types": [0, 1, 1, 1, 1, 0]}
EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "/v1/rotate": {
        "parameters": {"q": _ONE_HEAD, "positions": [0, 1], "rope": {"theta": 10000}},
        "variant": {"q": _ONE_HEAD, "rope": {"rope_type": "linear", "factor": 4}},
        "axes": {
            "q": _ONE_HEAD,
            "positions": [[0, 0], [0, 1]],
            "rope": {"axes": "axial", "axes_dim": [2, 2]},
        },
        "config": {"q": _ONE_HEAD, "rope": {"config": _CONFIG}},
        "preset": {"q": _WIDE, "rope": {"preset": "llama-3.1-8b", "arithmetic": "float64"}},
        "name": {"q": _WIDE, "rope": "llama-3.1-8b"},
    },
    "/v1/attention": {
        "parameters": {
            **dict.fromkeys("qkv", _ONE_HEAD),
            "sinks": [0.5],
            "mask": [[True, False], [True, True]],
            "return_lse": True,
        },
        "config": {**dict.fromkeys("qkv", _ONE_HEAD), "rope": {"config": _CONFIG}, "window": 1},
        "some of the keys": {
            **dict.fromkeys("qkv", _ONE_HEAD),
            "k_positions": [1, 5],
            "q_positions": [4, 5],
            "q_offset": 4,
            "k_offset": 1,
            "k_stride": 4,
            "return_lse": True,
            "out_dtype": "float32",
        },
        "no rotation": {**dict.fromkeys("qkv", _ONE_HEAD), "rope": None},
    },
    "/v1/cos_sin": {
        "parameters": {"positions": [0, 1, 2], "rope": {"head_dim": 4}},
        "preset": {"positions": [0, 1, 2], "rope": "llama-3.1-8b"},
    },
    "/v1/shift": {
        "by one": {"k": _ONE_HEAD, "delta": -1},
        "to other frequencies": {
            "k": _ONE_HEAD,
            "delta": 0,
            "positions": [0, 1],
            "to": {"rope_type": "linear", "factor": 2},
        },
    },
    "/v1/resolve": {
        "preset": {"rope": {"preset": "llama-3.1-8b"}},
        "config": {"rope": {"config": _CONFIG}},
        "layer": {"rope": {"preset": "smollm3-3b", "layer": 3}},
    },
    "/v1/positions": {
        "grid": {"builder": "grid_positions", "arguments": {"sizes": [2, 3]}},
        "images": {"builder": "mrope_index", "arguments": {"family": "qwen2_vl"}, **_IMAGE},
    },
    "/v1/merge": {"two halves": {"out": [[[1.0, 2.0]], [[3.0, 4.0]]], "lse": [[0.0], [0.0]]}},
}
