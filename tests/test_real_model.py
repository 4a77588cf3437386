"""Attention of a real model, SmolLM2-135M, recorded from transformers, comes out of the service.

golden/real holds q and k before RoPE, v, and the output of causal attention, of three layers.
"""

import base64
import json
from pathlib import Path

import httpx
import numpy as np
import pytest
import safetensors.numpy

from rope_client import Client

REAL = Path(__file__).parent / "golden" / "real"
LAYERS = [0, 14, 29]
TOLERANCE = 1e-5

PARAMS = {
    "rope": {"theta": json.loads((REAL / "smollm2-135m.json").read_text())["config"]["rope_theta"]}
}


@pytest.fixture(scope="module")
def recorded():
    return safetensors.numpy.load_file(REAL / "smollm2-135m.safetensors")


@pytest.fixture(params=LAYERS, ids="layer{}".format)
def layer(request, recorded):
    """q, k, v and out of one layer."""
    return {name: recorded[f"layer{request.param}.{name}"] for name in ("q", "k", "v", "out")}


@pytest.fixture
def qkv(layer):
    return {name: layer[name] for name in "qkv"}


def post(server_url, **body):
    response = httpx.post(f"{server_url}/v1/attention", timeout=60, **body)
    assert response.status_code == 200, response.text
    return response


def assert_close(out, layer):
    np.testing.assert_allclose(out, layer["out"], rtol=0, atol=TOLERANCE)


def test_over_json_with_nested_lists(server_url, layer, qkv):
    lists = {name: tensor.tolist() for name, tensor in qkv.items()}
    out = post(server_url, json={**lists, **PARAMS}).json()["out"]
    assert_close(np.array(out["data"], out["dtype"]).reshape(out["shape"]), layer)


def test_over_json_with_base64(server_url, layer, qkv):
    def as_base64(tensor):
        data = base64.b64encode(tensor.tobytes()).decode()
        return {"shape": tensor.shape, "dtype": "float32", "data": data, "encoding": "base64"}

    tensors = {name: as_base64(tensor) for name, tensor in qkv.items()}
    out = post(server_url, json={**tensors, **PARAMS}).json()["out"]
    assert_close(np.frombuffer(base64.b64decode(out["data"]), "<f4").reshape(out["shape"]), layer)


def test_over_safetensors(server_url, layer, qkv):
    content = safetensors.numpy.save(qkv, {"params": json.dumps(PARAMS)})
    headers = {"content-type": "application/x-safetensors"}
    response = post(server_url, content=content, headers=headers)
    assert_close(safetensors.numpy.load(response.content)["out"], layer)


@pytest.mark.parametrize("encoding", ["safetensors", "json"])
def test_through_the_client(server_url, layer, qkv, encoding):
    with Client(server_url, encoding=encoding, timeout_s=60) as client:
        assert_close(client.attention(**qkv, **PARAMS).out, layer)


def test_one_new_query_over_a_cache_is_the_last_row(server_url, layer, qkv):
    """What generating text asks: the last token alone, over all keys, at its own position."""
    last = qkv["q"].shape[1] - 1
    with Client(server_url, timeout_s=60) as client:
        out = client.attention(
            q=qkv["q"][:, last:], k=qkv["k"], v=qkv["v"], q_positions=[last], **PARAMS
        ).out
    np.testing.assert_allclose(out, layer["out"][:, last:], rtol=0, atol=TOLERANCE)
