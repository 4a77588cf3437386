"""Tensors that tritonclient's clients get, for every model, dtype and parameter."""

import json
import math

import pytest
import torch

from rope_core import AttentionConfig, RopeConfig, reference
from tests.core.oracle import off, qkv, randn
from tests.service.oip.clients.expected import (
    DTYPES,
    attend,
    check_attended,
    check_lse,
    check_rotated,
    rotate,
    rotate_packed,
)

POSITIONS = torch.tensor([[0, 5, 2], [9, 70_000, 1]])
Q, K, V = qkv((2, 3, 4, 8), (2, 3, 2, 8))


@pytest.mark.parametrize("positions_dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rope_in_every_dtype(client, dtype, positions_dtype):
    inputs = {"q": Q.to(dtype), "k": K.to(dtype), "positions": POSITIONS.to(positions_dtype)}
    answer = client.infer("rope", inputs, request_id="a/ß 7")
    assert [*answer.tensors] == ["q", "k"]
    for name in answer.tensors:
        check_rotated(answer[name], rotate(inputs[name], POSITIONS), dtype)
    assert answer.header["id"] == "a/ß 7"
    assert (answer.header["model_name"], answer.header["model_version"]) == ("rope", "1")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rope_attention_in_every_dtype(client, dtype):
    q, k, v = (x.to(dtype) for x in (Q, K, V))
    answer = client.infer("rope_attention", {"q": q, "k": k, "v": v}, ["out", "lse"])
    out, lse = attend(q, k, v)
    check_attended(answer["out"], out, dtype)
    check_lse(answer["lse"], lse, dtype)


@pytest.mark.parametrize("positions_dtype", [torch.int64, torch.int32], ids=str)
def test_rope_cos_sin(client, positions_dtype):
    positions = torch.tensor([0, 1, 5, 131_071])
    parameters = {"theta": 500_000.0, "head_dim": 16}
    answer = client.infer(
        "rope_cos_sin", {"positions": positions.to(positions_dtype)}, parameters=parameters
    )
    angles = positions.double()[:, None] * reference.frequencies(RopeConfig.of(16, theta=5e5))
    for name, expected in (("cos", angles.cos()), ("sin", angles.sin())):
        assert answer[name].dtype is torch.float32
        assert answer[name].shape == expected.shape
        assert off(answer[name], expected) <= 1e-7


@pytest.mark.parametrize("model_version", ["", "1"])
@pytest.mark.parametrize("request_id", ["", "7"])
def test_versions_and_ids(client, model_version, request_id):
    answer = client.infer("rope", {"q": Q}, request_id=request_id, model_version=model_version)
    check_rotated(answer["q"], rotate(Q), torch.float32)
    assert answer.header.get("id", "") == request_id
    assert client.wire == "grpc" or ("id" in answer.header) == bool(request_id)


ROPES = {  # parameters, and the same as arguments of `RopeConfig.of`
    "layout": ({"layout": "interleaved"}, {"layout": "interleaved"}),
    "theta": ({"theta": 500.0}, {"theta": 500.0}),
    "a theta that is an integer": ({"theta": 500}, {"theta": 500.0}),
    "rotary_dim": ({"rotary_dim": 4}, {"rotary_dim": 4}),
    "JSON text": (
        {"rope": json.dumps({"theta": 50.0, "layout": "interleaved"})},
        {"theta": 50.0, "layout": "interleaved"},
    ),
    "JSON text and more": (
        {"rope": '{"theta":50.0}', "rotary_dim": 6},
        {"theta": 50.0, "rotary_dim": 6},
    ),
}


@pytest.mark.parametrize(("parameters", "rope"), ROPES.values(), ids=ROPES)
def test_ropes_by_parameters(client, parameters, rope):
    inputs = {"q": Q, "positions": POSITIONS}
    rope = RopeConfig.of(8, **rope)
    answer = client.infer("rope", inputs, parameters=parameters)
    check_rotated(answer["q"], rotate(Q, POSITIONS, rope), torch.float32)
    back = client.infer("rope", inputs, parameters=parameters | {"inverse": True})
    check_rotated(back["q"], rotate(Q, -POSITIONS, rope), torch.float32)


def test_a_preset_by_name(client):
    x = randn(1, 4, 2, 128)
    answer = client.infer("rope", {"q": x}, parameters={"rope": "llama-3-8b"})
    check_rotated(answer["q"], rotate(x, None, RopeConfig.of(128, theta=5e5)), torch.float32)


def test_several_axes(client):
    x = randn(1, 5, 2, 16)
    sections, positions = (2, 3, 3), torch.randint(0, 99, (3, 1, 5))
    rope = json.dumps({"axes": "mrope", "mrope_section": sections})
    answer = client.infer("rope", {"q": x, "positions": positions}, parameters={"rope": rope})
    axis_of = torch.tensor([axis for axis, n in enumerate(sections) for _ in range(n)] * 2)
    by_axis = torch.stack([rotate(x, axis_positions) for axis_positions in positions])
    expected = by_axis.gather(0, axis_of.expand(1, *x.shape))[0]
    check_rotated(answer["q"], expected, torch.float32)


ENDS = torch.tensor([0, 4, 4, 6])


@pytest.mark.parametrize("ends", [torch.int64, torch.int32], ids=str)
def test_packed_sequences(client, ends):
    q, k, v = (x.flatten(0, 1) for x in (Q, K, V))
    inputs = {"q": q, "cu_seqlens": ENDS.to(ends)}
    answer = client.infer("rope", inputs)
    check_rotated(answer["q"], rotate_packed(q, ENDS), torch.float32)
    inputs = {"q": q, "k": k, "v": v, "cu_seqlens": ENDS.to(ends)}
    answer = client.infer("rope_attention", inputs, ["lse", "out"])
    out, lse = attend(q, k, v, cu_seqlens=ENDS)
    check_attended(answer["out"], out, torch.float32)
    check_lse(answer["lse"], lse, torch.float32)


CONFIGS = {
    "causal": ({"causal": False}, {"causal": False}),
    "window": ({"window": 2}, {"window": 2}),
    "softcap": ({"softcap": 2.0}, {"softcap": 2.0}),
    "softcap that is an integer": ({"softcap": 2}, {"softcap": 2.0}),
    "scale": ({"scale": 0.25}, {"scale": 0.25}),
    "all": (
        {"causal": False, "softcap": 3.0, "scale": 0.5, "layout": "interleaved"},
        {
            "causal": False,
            "softcap": 3.0,
            "scale": 0.5,
            "rope": RopeConfig.of(8, layout="interleaved"),
        },
    ),
}


@pytest.mark.parametrize(("parameters", "config"), CONFIGS.values(), ids=CONFIGS)
def test_attention_by_parameters(client, parameters, config):
    inputs = {"q": Q, "k": K, "v": V}
    answer = client.infer("rope_attention", inputs, parameters=parameters | {"lse": True})
    out, lse = attend(Q, K, V, **config)
    assert [*answer.tensors] == ["out", "lse"]
    check_attended(answer["out"], out, torch.float32)
    check_lse(answer["lse"], lse, torch.float32)


def test_positions_of_queries_and_of_keys(client):
    q, q_positions = Q[:, -1:], torch.tensor([[7], [3]])
    inputs = {"q": q, "k": K, "v": V, "q_positions": q_positions, "k_positions": POSITIONS}
    answer = client.infer("rope_attention", inputs)
    out, _ = attend(q, K, V, positions=(q_positions, POSITIONS))
    check_attended(answer["out"], out, torch.float32)


def test_sinks_and_masks(client):
    mask = torch.tensor([[True, False, False], [True, True, False], [True, False, True]])
    mask = mask.expand(2, 1, 3, 3)
    inputs = {"q": Q, "k": K, "v": V, "mask": mask, "sinks": torch.ones(4)}
    answer = client.infer("rope_attention", inputs, parameters={"causal": False, "rope": "null"})
    head_mask = mask.expand(2, 4, 3, 3)
    out, _ = reference.attention(Q, K, V, AttentionConfig(causal=False), torch.ones(4), head_mask)
    check_attended(answer["out"], out, torch.float32)


@pytest.mark.parametrize(
    "outputs",
    [
        ["out"],
        ["lse"],
        ["lse", "out"],
        {"out": False},
        {"out": True, "lse": False},
        {"lse": False, "out": True},
        {"lse": True, "out": False},
    ],
    ids=str,
)
def test_the_response_has_the_requested_outputs_in_their_order(client, outputs):
    answer = client.infer("rope_attention", {"q": Q, "k": K, "v": V}, outputs)
    expected = dict(zip(("out", "lse"), attend(Q, K, V), strict=True))
    assert [*answer.tensors] == [*outputs]
    for name, actual in answer.tensors.items():
        assert off(actual, expected[name]) <= 1e-6
    if client.wire == "http":
        for output in answer.header["outputs"]:
            binary = not isinstance(outputs, dict) or outputs[output["name"]]
            assert ("data" in output) is not binary
            assert ("parameters" in output) is binary


@pytest.mark.parametrize(
    "in_json", [["q"], ["positions"], ["q", "positions"]], ids=lambda names: " ".join(names)
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_numbers_in_json_beside_bytes(client, dtype, in_json):
    x = Q.to(dtype)
    for outputs in (None, {"q": False}):
        answer = client.infer("rope", {"q": x, "positions": POSITIONS}, outputs, in_json)
        check_rotated(answer["q"], rotate(x, POSITIONS), dtype)


def test_nan_and_infinity_are_rotated(client):
    x = torch.tensor([math.nan, math.inf, 1.0, -math.inf]).view(1, 1, 1, 4)
    for in_json, outputs in (((), None), (("q",), {"q": False})):
        rotated = client.infer("rope", {"q": x}, outputs, in_json)["q"].flatten()
        assert rotated[[0, 2]].isnan().all()  # elements 0 and 2 are a pair
        assert not rotated.isfinite()[[1, 3]].any()


@pytest.mark.parametrize("shape", [(1, 0, 2, 8), (0, 3, 2, 8)])
def test_empty_tensors(client, shape):
    rotated = client.infer("rope", {"q": torch.zeros(shape)})["q"]
    assert rotated.shape == shape


def test_parameters_of_scheduling_and_sequences_are_accepted(client):
    parameters = {"priority": 1, "timeout": 60_000_000}
    for sequence in (7, "seven"):
        parameters |= {"sequence_id": sequence, "sequence_start": True, "sequence_end": True}
        answer = client.infer("rope", {"q": Q}, **parameters)
        check_rotated(answer["q"], rotate(Q), torch.float32)
