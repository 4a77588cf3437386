"""The oracle agrees with vectors that transformers made."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.diagnosis_oracle.attention import Inputs, Port, attend
from tests.diagnosis_oracle.presets import rope_of
from tests.diagnosis_oracle.rope import Array

GOLDEN = Path(__file__).parents[1] / "golden"
ROTATIONS = [
    *("llama2_7b", "llama3_1_8b", "cohere_command_r", "deepseek_v3", "deepseek_v2", "gptj_6b"),
    *("gpt_oss_20b", "phi3_mini_128k_long", "phi4_mini_long", "qwen2_vl_mrope", "linear_x4"),
    *("qwen3_vl_mrope_interleaved", "qwen3_5_mrope_partial", "yarn_mscale_pair", "stablelm_3b"),
    *("qwen2_5_yarn_x4", "hunyuan_dense_alpha", "dynamic_above", "dynamic_below", "llama4_scout"),
    *("glm4_9b_0414", "gemma3_4b_global", "yarn_mscale_only", "phi3_mini_128k_short"),
]
ATTENTIONS = ["llama_gqa_causal", "llama_mqa_decode", "gpt_oss_sinks", "gemma2_softcap"]
FAMILIES = {"llama4": "llama4_text", "gemma3": "gemma3_text"}


def read(kind: str, name: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the description and the tensors of a golden file."""
    text = (GOLDEN / kind / f"{name}.json").read_text()
    return json.loads(text), load_file(GOLDEN / kind / f"{name}.safetensors")


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotation(name: str) -> None:
    described, tensors = read("rope", name)
    module = described["source"]["module"]
    rope = rope_of(described["config"], FAMILIES.get(module, module))
    at = tensors["position_ids"]
    at = at[None] if at.ndim == 2 else at
    q, expected = (tensors[x].transpose(0, 2, 1, 3).astype(np.float64) for x in ("q", "q_rot"))
    at = np.broadcast_to(at, (len(at), len(q), q.shape[1]))
    off = np.linalg.norm(rope.rotate(q, at) - expected) / np.linalg.norm(expected)
    assert off <= 2e-5 + 5e-9 * at.max(), off


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention(name: str) -> None:
    described, tensors = read("attention", name)
    layer = described["layers"][0]
    given = {key[2:]: x.astype(np.float64) for key, x in tensors.items() if key.startswith("0.")}
    q, k, v = (given[x].transpose(0, 2, 1, 3) for x in ("query", "key", "value"))
    at = np.zeros((1, *q.shape[:2])), np.zeros((1, *k.shape[:2]))
    rope = replace(rope_of(described["config"], described["family"]), times=0)
    kwargs = layer["eager_kwargs"]
    port = Port(
        q=rope,
        k=rope,
        scale=kwargs["scaling"],
        softcap=kwargs.get("softcap"),
        window=kwargs.get("sliding_window"),
        sinks=given.get("sinks"),
    )
    out = attend(port, Inputs(q=q, k=k, v=v, q_positions=at[0], k_positions=at[1]))["out"]
    expected = given["out"].reshape(out.shape)
    assert np.linalg.norm(out - expected) <= 1e-5 * np.linalg.norm(expected)
