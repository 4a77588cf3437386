"""Inference in every encoding of the protocol: the same outputs as `/v1`."""

import asyncio
import itertools
import json

import pytest
import torch

from rope_core import Attend, AttentionConfig, CosSin, RopeConfig, Rotate, attend, cos_sin, rotate
from tests.service.oip.encodings import ENCODINGS, InferCall, Refused, all_encodings

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
Q, K, V = (
    torch.randn(2, 3, heads, 8, generator=torch.Generator().manual_seed(heads))
    for heads in (4, 2, 1)
)
V = V.expand(2, 3, 2, 8).contiguous()
POSITIONS = torch.tensor([[0, 5, 2], [9, 9, 1]])


@pytest.fixture(params=ENCODINGS)
async def infer(request):
    async with all_encodings() as encodings:
        yield encodings[request.param].infer


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
async def test_rope_rotates(infer, dtype):
    x = Q.to(dtype)
    params = {"layout": "interleaved", "theta": 500.0, "rotary_dim": 4, "inverse": True}
    answer = await infer(
        InferCall("rope", {"q": x, "positions": POSITIONS}, params, id="a b\u2028")
    )
    rope = RopeConfig.of(8, layout="interleaved", theta=500.0, rotary_dim=4)
    expected = rotate(Rotate(x, None, rope, POSITIONS, inverse=True)).q
    assert torch.equal(answer.outputs["q"], expected)
    head = answer.header
    assert [head[n] for n in ("id", "model_name", "model_version")] == ["a b\u2028", "rope", "1"]


@pytest.mark.parametrize("names", ["q", "k", "qk", "kq"])
async def test_rope_rotates_what_is_sent(infer, names):
    """All that is sent is rotated and answered, in the order of the model or of the list."""
    heads = {"q": Q, "k": K}
    result = rotate(Rotate(Q, K, RopeConfig.of(8), POSITIONS))
    expected = {"q": result.q, "k": result.k}
    inputs = {**{name: heads[name] for name in names}, "positions": POSITIONS}
    for outputs in (None, *itertools.permutations(names), *itertools.combinations(names, 1)):
        answer = await infer(InferCall("rope", inputs, outputs=outputs and [*outputs]))
        listed = sorted(names, reverse=True) if outputs is None else outputs
        assert [output["name"] for output in answer.header["outputs"]] == [*listed]
        assert [*answer.outputs] == [*listed]
        for name in listed:
            assert torch.equal(answer.outputs[name], expected[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
async def test_rope_attention_attends(infer, dtype):
    q, k, v = (x.to(dtype) for x in (Q, K, V))
    params = {"causal": False, "softcap": 2.0, "scale": 0.25, "window": 2}
    answer = await infer(InferCall("rope_attention", {"q": q, "k": k, "v": v}, params, version="1"))
    config = AttentionConfig(causal=False, softcap=2.0, scale=0.25, window=2)
    expected = attend(Attend(q, k, v, RopeConfig.of(8), config, return_lse=True))
    assert [*answer.outputs] == ["out", "lse"]
    assert torch.equal(answer.outputs["out"], expected.out)
    assert torch.equal(answer.outputs["lse"], expected.lse)


async def test_listed_outputs_are_answered_in_the_order_of_the_list(infer):
    inputs = {"q": Q, "k": K, "v": V}
    for outputs in (["lse", "out"], ["out"], ["lse"]):
        answer = await infer(InferCall("rope_attention", inputs, outputs=outputs))
        assert [output["name"] for output in answer.header["outputs"]] == outputs
    for name in ("lse", "return_lse"):
        answer = await infer(InferCall("rope_attention", inputs, {name: False}))
        assert [*answer.outputs] == ["out"]


async def test_packed_sequences_and_indices_of_queries_and_keys(infer):
    q, k, v = (x.flatten(0, 1) for x in (Q, K, V))
    of_q, of_k = torch.tensor([0, 4, 6], dtype=torch.int32), torch.tensor([0, 5, 6])
    positions = torch.arange(6)
    inputs = {"q": q, "k": k, "v": v, "cu_seqlens_q": of_q, "cu_seqlens_k": of_k}
    inputs |= {"q_positions": positions, "k_positions": positions + 3}
    answer = await infer(InferCall("rope_attention", inputs, {"rope": "null"}))
    cu_seqlens = of_q.int(), of_k.int()
    call = Attend(q, k, v, None, AttentionConfig(), positions, positions + 3, *cu_seqlens)
    assert torch.equal(answer.outputs["out"], attend(call).out)


PRESET = "codellama-7b"
LINEAR = {"rope_type": "linear", "factor": 4.0, "head_dim": 128}
SAID = {
    "JSON text": {"rope": json.dumps(LINEAR)},
    "one by one": LINEAR,
    "both": {"rope": json.dumps({"rope_type": "linear", "head_dim": 128}), "factor": 4.0},
}


@pytest.mark.parametrize("params", SAID.values(), ids=SAID)
async def test_cos_sin_of_each_form_of_rope(infer, params):
    positions = torch.arange(4, dtype=torch.int32)
    answer = await infer(InferCall("rope_cos_sin", {"positions": positions}, params))
    expected = cos_sin(CosSin(positions.long(), RopeConfig.of(128, rope_type="linear", factor=4.0)))
    assert torch.equal(answer.outputs["cos"], expected.cos)
    assert torch.equal(answer.outputs["sin"], expected.sin)
    assert answer.header["parameters"]["attention_scaling"] == 1.0


async def test_a_preset_and_its_warnings(infer):
    x = torch.ones(1, 1, 1, 128)
    inputs = {"q": x, "positions": torch.tensor([[2**24 + 1]])}
    answer = await infer(InferCall("rope", inputs, {"rope": PRESET}))
    assert "2**24" in answer.header["parameters"]["warnings"]
    quiet = await infer(InferCall("rope", inputs, {"rope": PRESET, "arithmetic": "float64"}))
    assert "warnings" not in quiet.header.get("parameters", {})


async def test_keys_that_bear_on_positions(infer):
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "rotary_dim": 8}
    inputs = {"q": torch.ones(1, 1, 4, 16)}
    told = "keys that bear on positions are not applied: rotary_dim"
    answer = await infer(InferCall("rope", inputs, {"config": json.dumps(config)}))
    assert told in answer.header["parameters"]["warnings"]
    config["model_type"] = "unheard_of"
    rope = {"config": json.dumps(config), "assume": "llama"}
    answer = await infer(InferCall("rope", inputs, rope))
    assert told in answer.header["parameters"]["warnings"]


async def test_tensors_without_elements(infer):
    answer = await infer(InferCall("rope", {"q": torch.empty(2, 0, 4, 8)}))
    assert answer.outputs["q"].shape == (2, 0, 4, 8)


async def test_parameters_that_clients_add_have_no_effect(infer):
    params = {"priority": 1, "timeout": 0, "sequence_id": 7, "sequence_start": True}
    params |= {"sequence_end": False, "headers": "x", "content_type": "y"}
    answer = await infer(InferCall("rope", {"q": Q}, params))
    assert torch.equal(answer.outputs["q"], rotate(Rotate(Q, None, RopeConfig.of(8))).q)


X = {"datatype": "FP32", "shape": [1, 1, 1, 2]}
ONE = torch.ones(1, 1, 1, 2)
HEADS = dict.fromkeys("qkv", ONE)
WRONG = {
    "no inputs": (InferCall("rope", {}), "missing required tensor 'q' or 'k'"),
    "an unknown input": (InferCall("rope", {"q": ONE, "y": ONE}), "unknown input y"),
    "no data": (InferCall("rope", {"q": X}), "q must be given once"),
    "a datatype of no tensor": (InferCall("rope", {"q": X | {"datatype": "fp32"}}), "q must be"),
    "integers to be rotated": (InferCall("rope", {"q": ONE.int()}), "q must be"),
    "a negative dim": (InferCall("rope", {"q": X | {"shape": [-1]}}), "q must be"),
    "a product that overflows": (
        InferCall("rope", {"q": X | {"shape": [2**40, 2**40, 0]}}),
        "q must be",
    ),
    "nine axes": (InferCall("rope", {"q": X | {"shape": [1] * 9}}), "q must be"),
    "a wrong rank": (InferCall("rope", {"q": torch.ones(2)}), "[B, S, H, D]"),
    "an odd head_dim": (InferCall("rope", {"q": torch.ones(1, 1, 1, 3)}), "head_dim"),
    "positions of another length": (
        InferCall("rope", {"q": ONE, "positions": torch.arange(2)}),
        "positions",
    ),
    "an unknown output": (InferCall("rope", {"q": ONE}, outputs=["y"]), "unknown output y"),
    "an output of an input that is not sent": (
        InferCall("rope", {"q": ONE}, outputs=["q", "k"]),
        "output k needs the input k, which was not sent",
    ),
    "a tensor of another name": (InferCall("rope", {"x": ONE}), "unknown input x; "),
    "a rope that is a number": (
        InferCall("rope", {"q": ONE}, {"rope": 5e5}),
        "the name of a preset or JSON text, such as '{\"theta\": 500000.0}', got a number",
    ),
    "a rope that is a boolean": (InferCall("rope", {"q": ONE}, {"rope": True}), "JSON text"),
    "an id that is too long": (
        InferCall("rope", {"q": ONE}, id="a" * 257),
        "id may have at most 256 characters, got 257",
    ),
    "an output twice": (InferCall("rope", {"q": ONE}, outputs=["q"] * 2), "twice"),
    "an unknown parameter": (InferCall("rope", {"q": ONE}, {"bse": 1}), "unknown parameter bse"),
    "a reserved parameter": (
        InferCall("rope", {"q": ONE}, {"triton_x": 1}),
        "unknown parameter",
    ),
    "a parameter of another model": (InferCall("rope", {"q": ONE}, {"causal": True}), "causal"),
    "a theta of 0": (InferCall("rope", {"q": ONE}, {"theta": 0}), "theta must be"),
    "a theta of text": (InferCall("rope", {"q": ONE}, {"theta": "ten"}), "theta"),
    "a rope that is no JSON": (
        InferCall("rope", {"q": ONE}, {"rope": "{"}),
        "rope must be JSON",
    ),
    "a preset that there is not": (InferCall("rope", {"q": ONE}, {"rope": "gpt-9"}), "gpt-9"),
    "a timeout below 0": (InferCall("rope", {"q": ONE}, {"timeout": -1}), "timeout must be"),
    "a priority of text": (InferCall("rope", {"q": ONE}, {"priority": "1"}), "priority must be"),
    "a sequence_start of 1": (
        InferCall("rope", {"q": ONE}, {"sequence_start": 1}),
        "sequence_start",
    ),
    "a window of half a token": (
        InferCall("rope_attention", HEADS, {"window": 0.5}),
        "window must be",
    ),
    "heads that do not divide": (
        InferCall(
            "rope_attention",
            {"q": torch.ones(1, 1, 3, 2), **dict.fromkeys("kv", torch.ones(1, 1, 2, 2))},
        ),
        "k",
    ),
    "a model without rope": (
        InferCall("rope", {"q": ONE}, {"rope": '{"config": {"model_type": "bloom"}}'}),
        "no rotary embedding: ALiBi",
    ),
    "cosines of no width": (
        InferCall("rope_cos_sin", {"positions": torch.arange(2)}),
        "head_dim",
    ),
}


@pytest.mark.parametrize(("call", "text"), WRONG.values(), ids=WRONG)
async def test_bad_input_is_an_error_of_one_line(encodings, call, text):
    for name, form in encodings.items():
        with pytest.raises(Refused) as refused:
            await form.infer(call)
        assert refused.value.status == form.statuses[0], name
        assert text in str(refused.value), name
        assert "\n" not in str(refused.value)


@pytest.fixture
async def encodings():
    async with all_encodings() as encodings:
        yield encodings


@pytest.mark.parametrize(("model", "version"), [("nope", ""), ("rope", "2"), ("rope", "x")])
async def test_unknown_models_and_versions(encodings, model, version):
    for form in encodings.values():
        with pytest.raises(Refused) as refused:
            await form.infer(InferCall(model, {"q": ONE}, version=version))
        assert refused.value.status == form.statuses[1]
        assert model in str(refused.value)


async def test_requests_and_answers_over_a_limit_are_refused(encodings):
    for form in encodings.values():
        with pytest.raises(Refused) as refused:
            await form.infer(InferCall("rope", {"q": torch.zeros(1, 2**13, 1, 128)}))
        assert refused.value.status == form.statuses[2]


async def test_64_concurrent_requests_get_their_own_answers(encodings):
    async def check(index: int) -> None:
        x = torch.full((1, index % 5 + 1, 2, 8), float(index))
        positions = torch.full((1, x.shape[1]), index)
        answer = await [*encodings.values()][index % 4].infer(
            InferCall("rope", {"q": x, "positions": positions}, {"theta": 1000.0 + index % 3})
        )
        rope = RopeConfig.of(8, theta=1000.0 + index % 3)
        assert torch.equal(answer.outputs["q"], rotate(Rotate(x, None, rope, positions)).q)

    await asyncio.gather(*map(check, range(64)))
