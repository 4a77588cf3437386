"""Requests of each model, which the description shows."""

from collections.abc import Mapping
from typing import Any


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


_HEADS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
_QKV = [_tensor(name, "FP32", [1, 2, 1, 4], _HEADS) for name in "qkv"]
_X = _tensor("x", "FP32", [1, 2, 1, 4], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
_POSITIONS = _tensor("positions", "INT64", [1, 2], [0, 1])

EXAMPLES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "rope": {
        "positions": {"id": "r1", "inputs": [_X, _POSITIONS], "outputs": [{"name": "rotated"}]},
        "parameters": {
            "inputs": [_X],
            "parameters": {"theta": 500000.0, "layout": "interleaved", "inverse": True},
        },
        "variant": {"inputs": [_X], "parameters": {"rope_type": "linear", "factor": 4.0}},
        "preset": {
            "inputs": [_tensor("x", "BF16", [1, 1, 1, 128], [1.0] * 128)],
            "parameters": {"rope": "llama-3.1-8b"},
        },
        "packed": {
            "inputs": [
                _tensor("x", "FP16", [3, 1, 2], [[[1, 2]], [[3, 4]], [[5, 6]]]),
                _tensor("cu_seqlens", "INT32", [3], [0, 1, 3]),
            ],
            "parameters": {"rope": '{"rotary_dim": 2}'},
        },
    },
    "rope_attention": {
        "all outputs": {"inputs": _QKV},
        "parameters": {
            "inputs": _QKV,
            "parameters": {"causal": True, "window": 2, "softcap": 30.0, "scale": 0.5},
            "outputs": [{"name": "output"}],
        },
        "no rotation": {"inputs": _QKV, "parameters": {"rope": "null", "lse": False}},
    },
    "rope_cos_sin": {
        "parameters": {
            "inputs": [_tensor("positions", "INT64", [3], [0, 1, 2])],
            "parameters": {"head_dim": 4},
        },
        "axes": {
            "inputs": [_tensor("positions", "INT64", [2, 1], [0, 5])],
            "parameters": {"axes": "axial", "axes_dim": "[2, 2]", "rotary_dim": 4},
        },
    },
}
