"""Golden vectors through the real service, from a model's `config` alone, in both codecs."""

import json

import httpx
import numpy as np
import orjson
import pytest
import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from tests.core.test_golden_models import IN_ONE_CALL, LAYERS, Layer, name_of
from tests.core.test_golden_rope import of_warm_up, resolved, rotated
from tests.golden_cases import load, rotations

SAFETENSORS = "application/x-safetensors"


@pytest.fixture(scope="module")
def client(server_url):
    with httpx.Client(base_url=server_url, timeout=60) as client:
        yield client


def as_json(tensor):
    """Write a tensor as the flat form of JSON; float32 holds each bfloat16."""
    values = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    name = str(tensor.dtype).removeprefix("torch.")
    return {"shape": [*tensor.shape], "dtype": name, "data": values.flatten().tolist()}


def from_json(described):
    dtype = getattr(torch, described["dtype"])
    return torch.tensor(np.array(described["data"]), dtype=dtype).view(described["shape"])


def post(client, path, tensors, params, codec):
    if codec == "json":
        body = orjson.dumps({name: as_json(t) for name, t in tensors.items()} | params)
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        return {
            name: from_json(member)
            for name, member in answer.json().items()
            if isinstance(member, dict) and "data" in member
        }
    body = to_bytes(tensors, {"params": json.dumps(params)})
    answer = client.post(path, content=body, headers={"content-type": SAFETENSORS})
    assert answer.status_code == 200, answer.text
    return from_bytes(answer.content)


@pytest.mark.parametrize("codec", ["json", "safetensors"])
@pytest.mark.parametrize("name", rotations())
def test_rotates_bit_for_bit_as_the_library(name, codec, client):
    """tests/core/test_golden_rope.py compares the library with models and with what is recorded."""
    case = load("rope", name)
    if (case.described["inputs"] or {}).get("warmup_positions"):
        # the service keeps nothing between calls: the length it would have kept is a parameter
        rope = of_warm_up(resolved(case).rope, case)
        model = case.model | {"length": dict(rope.parameters)["length"]}
    else:
        model = case.model
    tensors = {"q": case.heads("q"), "k": case.heads("k"), "positions": case.positions}
    tensors["frequencies"] = case.tensors.get("pos_frequencies")
    sent = {key: t.contiguous() for key, t in tensors.items() if t is not None}
    answer = post(client, "/v1/rotate", sent, {"rope": model}, codec)
    expected = rotated(case)
    for key in ("q", "k"):
        if key in sent:
            torch.testing.assert_close(answer[key], expected[f"{key}_rot"], rtol=0, atol=0)


@pytest.mark.parametrize("codec", ["json", "safetensors"])
@pytest.mark.parametrize("pair", [p for p in LAYERS if not Layer(*p).is_packed], ids=name_of)
def test_layers_attend(pair, codec, client):
    """What /v1/resolve says of a layer's attention makes /v1/attention answer as the model does."""
    layer = Layer(*pair)
    model = {
        "config": layer.case.described["config"],
        "model_type": layer.case.described["source"]["module"],
        "layer": layer.described["layer_idx"],
    }
    resolved = client.post("/v1/resolve", json={"rope": model}).json()
    params = {key: value for key, value in resolved["attention"].items() if value is not None}
    sent = {"q": "query", "k": "key", "v": "value", "sinks": "sinks"}
    tensors = {key: layer.tensor(name) for key, name in sent.items()}
    tensors["mask"] = layer.hidden_keys
    tensors = {key: t.contiguous() for key, t in tensors.items() if t is not None}
    out = post(client, "/v1/attention", tensors, params | {"rope": None}, codec)["out"]
    expected = layer.tensor("out")
    if layer.hidden_keys is not None:
        seen = layer.hidden_keys[:, 0, 0, -expected.shape[1] :]
        out, expected = out[seen], expected[seen]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("codec", ["json", "safetensors"])
@pytest.mark.parametrize("pair", [p for p in IN_ONE_CALL if "mla" not in p[0]], ids=name_of)
def test_layers_rotate_and_attend(pair, codec, client):
    """A config and the index of a layer are all that /v1/attention needs to know."""
    layer = Layer(*pair)
    q, k = layer.tensor("q_pre"), layer.tensor("k_pre")
    model = {
        "config": layer.case.described["config"],
        "model_type": layer.case.described["source"]["module"],
        "layer": layer.described["layer_idx"],
    }
    at, _ = layer.positions
    sent = {"q": q, "k": k, "v": layer.tensor("value"), "sinks": layer.tensor("sinks")}
    tensors = {
        key: t.contiguous() for key, t in (sent | {"positions": at}).items() if t is not None
    }
    out = post(client, "/v1/attention", tensors, {"rope": model}, codec)["out"]
    torch.testing.assert_close(out, layer.tensor("out"), rtol=0, atol=1e-5)
