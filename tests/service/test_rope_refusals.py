"""A rope that is not valid is refused by name, value and rule, or answered with a warning."""

import pytest
import torch

from service.wire import Message
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import answered, params, warnings_of
from tests.service.rope_cases import (
    GEMMA,
    LLAMA,
    LONG,
    MODELS,
    ORIGINAL,
    SCALED,
    TOKENS,
    D,
    case_id,
    check_refused,
    heads,
    resolved,
)

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


REFUSED = [
    ({"config": {**LLAMA, "head_dim": 7}}, "rope.head_dim", "7", "even"),
    ({"config": {**LLAMA, "head_dim": 0}}, "rope.head_dim", "0", "whole number above 0"),
    (
        {"config": {**LLAMA, "model_type": "gpt_neox", "rotary_pct": 1.5}},
        *("rope.", "rotary_pct", "1.5"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "longrope", **LONG, "short_factor": [1]}}},
        *("rope.rope_scaling.short_factor", "8 numbers", "got 1"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "longrope", **LONG, "long_factor": [0] * 8}}},
        *("rope.rope_scaling.long_factor", "positive numbers"),
    ),
    (
        {"config": {**MODELS["axes"]["config"], "rope_scaling": {"mrope_section": [2, 3, 2]}}},
        *("rope.rope_scaling.mrope_section", "add up to 8", "[2, 3, 2]"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"rope_type": "yarm", "factor": 2}}},
        *("rope.rope_scaling.rope_type", "'yarm'", "one of", "'yarn'"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"rope_type": "yarn", "type": "linear", "factor": 2}}},
        *("rope.rope_scaling.type", "'linear'", "'yarn'"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "yarn", "factor": 0.5}}},
        *("rope.rope_scaling.factor", "at least 1", "0.5"),
    ),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "longrope", **LONG, "factor": 0.5}}},
        *("rope.rope_scaling.factor", "at least 1", "0.5"),
    ),
    (
        {"config": {**LLAMA, "head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2}}},
        *("rope.head_dim", "above 2", "dynamic", "got 2"),
    ),
    ({"config": GEMMA}, "rope.layer_type", "full_attention", "sliding_attention", "none"),
    ({"config": GEMMA, "layer_type": "local"}, "rope.layer_type", "full_attention", "'local'"),
    (
        {"config": {**LLAMA, "num_attention_heads": 5}},
        *("rope.head_dim must be given", "hidden_size 64", "5 heads"),
    ),
    ({"config": LLAMA, "layer": 4}, "rope.layer", "[0, 3]", "got 4"),
    ({"config": {}}, "rope.hidden_size", "given", "none"),
    (
        {"config": {"peft_type": "LORA", "base_model_name_or_path": "a/b"}},
        *("rope.config", "looks like adapter_config.json", "of the base model, 'a/b'"),
    ),
    (
        {"config": {"model_type": "my_gpt", "n_embd": 64, "n_head": 4}},
        *("rope.config", "the unknown 'my_gpt' and GPT-2's names", "hidden_size for n_embd"),
    ),
    (
        {"do_sample": True, "temperature": 0.6},
        *("unknown parameter rope.do_sample", "this looks like generation_config.json"),
    ),
    (
        {"dim": 64, "n_heads": 4, "n_layers": 2},
        *("unknown parameter rope.dim", '{"rope": {"config": ...}}'),
    ),
    ({"config": {**LLAMA, "rope_theta": "1e4"}}, "rope.rope_theta", "number", "'1e4'"),
    ({"config": {**LLAMA, "rope_scaling": "yarn"}}, "rope.rope_scaling", "object", "'yarn'"),
    ({"config": "llama"}, "rope.config", "object", "llama"),
    (
        {"config": {**LLAMA, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "length": -1},
        *("rope.length", "0 or more", "-1"),
    ),
    ({"config": LLAMA, "length": 9}, "rope.length", "absent", "9"),
    ({"config": LLAMA, "compat": "4.56"}, "rope.compat", "'5.23' or '4.57'", "4.56"),
    ({"config": LLAMA, "theta": 1}, "unknown parameter rope.theta", "config", "layer_type"),
    ({"config": LLAMA, "preset": "x"}, "unknown parameter rope.preset"),
    ({"preset": "x"}, "rope.preset", "/v1/presets", "'x'"),
    ({"preset": 5}, "rope.preset", "string", "5"),
    ({"preset": "llama-3.1-8b", "head_dim": 4}, "unknown parameter rope.head_dim", "arithmetic"),
    ({"preset": "llama-3.1-8b", "part": "video"}, "rope.part", "'vision'", "video"),
    ("llama-3.1-8c", "rope.preset", "'llama-3.1-8c'"),
    (5, "rope must be an object or the name of a preset", "5"),
    (None, "rope must be an object or the name of a preset", "null"),
    ({"head_dim": 8, "rope_type": "yarm"}, "rope.rope_type", "yarm"),
    ({"head_dim": 8, "rope_type": "linear"}, "rope.factor", "given for linear"),
    ({"head_dim": 8, "rope_type": "linear", "factor": "4"}, "rope.factor", "a number", "'4'"),
    ({"head_dim": 8, "rope_type": "linear", "factr": 4}, "unknown parameter rope.factr", "factor"),
    ({"head_dim": 8, "rope_theta": 4}, "did you mean rope.theta?"),
    ({"rope_theta": 4, "model_type": "llama"}, 'as {"rope": {"config": ...}}'),
    ({"head_dim": 8, "factor": 4}, "unknown parameter rope.factor"),
    ({"head_dim": 8, "axes": "axiall"}, "rope.axes", "axiall"),
    ({"head_dim": 8, "axes": "axial", "axes_dim": [3, 5]}, "rope.axes_dim", "even", "[3, 5]"),
    ({"head_dim": 8, "axes": "mrope", "mrope_section": [1]}, "rope.mrope_section", "[1]"),
    ({"head_dim": 8, "arithmetic": "exact"}, "rope.arithmetic", "'hf'", "exact"),
    ({"head_dim": 8, "blocks": 2}, "unknown parameter rope.blocks"),
    ({}, "rope.head_dim", "given"),
    ({"inv_freq": [1.0, "x"]}, "rope.inv_freq", "finite numbers", "'x'"),
    ({"inv_freq": None}, "rope.inv_freq", "a list of numbers", "None"),
    ({"rope_type": "freq_factors"}, "rope.freq_factors", "a list of numbers", "None"),
    ({"head_dim": 8, "rope_type": "xpos", "length": -1}, "rope.length", "at least 0", "-1"),
]


@pytest.mark.parametrize(("rope", "names"), [(each[0], each[1:]) for each in REFUSED], ids=case_id)
async def test_a_refusal_names_the_key_its_value_and_the_rule(client, rope, names):
    check_refused(await resolved(client, rope), *names)


WARNED = [
    ({**SCALED, "low_freq_factor": 4.0, **ORIGINAL}, "high_freq_factor"),
    ({**SCALED, "low_freq_factor": 8.0, **ORIGINAL}, "high_freq_factor"),
    ({**SCALED, "original_max_position_embeddings": 2048}, "original_max_position_embeddings"),
    ({"type": "linear", "factor": 0.5}, "factor is below 1"),
    ({"type": "linear", "factor": 2.0, "facter": 4.0}, "rope_scaling.facter is ignored"),
]


@pytest.mark.parametrize(("block", "names"), WARNED, ids=case_id)
async def test_a_warning_is_in_every_answer(client, codec, block, names):
    rope = {"config": {**LLAMA, "rope_scaling": block}}
    at = torch.arange(TOKENS)
    for path, tensors in (
        ("/v1/resolve", {}),
        ("/v1/rotate", {"q": heads(2)}),
        ("/v1/attention", dict.fromkeys("qkv", heads(2))),
        ("/v1/cos_sin", {"positions": at}),
        ("/v1/shift", {"k": heads(2), "delta": torch.tensor(1)}),
    ):
        answer = await answered(client, codec, path, Message(tensors, params(rope=rope)))
        (warning,) = warnings_of(answer)
        assert names in warning


async def test_an_unknown_model_is_read_as_a_llama_with_a_warning(client):
    answer = (await resolved(client, {"config": {**LLAMA, "model_type": "newest"}})).json()
    assert answer["rotates"]
    assert "'newest' is unknown" in answer["warnings"][0]


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float16, "2048"), (torch.bfloat16, "256")], ids=str
)
async def test_positions_in_half_precision_are_refused(client, codec, dtype, most):
    at = torch.arange(TOKENS).to(dtype)
    for path, tensors in (
        ("/v1/rotate", {"q": heads(2), "positions": at}),
        ("/v1/attention", dict.fromkeys("qkv", heads(2)) | {"q_positions": at}),
        ("/v1/cos_sin", {"positions": at}),
    ):
        rope = {"head_dim": D}
        refusal = await post(client, codec, path, Message(tensors, params(rope=rope)))
        check_refused(refusal, "positions must be int64", f"integers exactly only up to {most}")


@pytest.mark.parametrize(("most", "warned"), [(2**24, False), (2**24 + 1, True), (2**31, True)])
async def test_far_positions_are_exact_or_have_a_warning(client, codec, most, warned):
    at = torch.tensor([0, 1, most])
    exact = at.double()[:, None] * 5e5 ** -(torch.arange(0, D, 2).double() / D)
    for arithmetic in ("hf", "float64"):
        rope = {"config": {**LLAMA, "rope_theta": 5e5}, "arithmetic": arithmetic}
        for sign in (1, -1):
            body = Message({"positions": sign * at}, params(rope=rope))
            answer = await answered(client, codec, "/v1/cos_sin", body)
            assert any("2**24" in text for text in warnings_of(answer)) == (
                warned and arithmetic == "hf"
            )
            if arithmetic == "float64":
                off = {"rtol": 0, "atol": 2e-7}
                torch.testing.assert_close(answer.tensors["cos"], exact.cos().float(), **off)
                sines = sign * exact.sin().float()
                torch.testing.assert_close(answer.tensors["sin"], sines, **off)


async def test_the_lowest_position_has_a_warning(client):
    body = {"positions": [-(2**53)], "rope": {"config": LLAMA}}
    assert (await client.post("/v1/cos_sin", json=body)).json()["warnings"]
    body["positions"] = [-(2**53) - 1]
    assert (await client.post("/v1/cos_sin", json=body)).status_code == 422


async def test_positions_outside_of_a_table_are_refused(client, codec):
    rope = {"config": {"model_type": "gptj", "n_embd": 64, "n_head": 4, "rotary_dim": 8}}
    at = torch.tensor([0, 1, 2, 3.5, 4])
    body = Message({"q": heads(2), "positions": at}, params(rope=rope))
    check_refused(await post(client, codec, "/v1/rotate", body), "positions must be whole", "table")


@pytest.mark.parametrize("preset", ["gpt-oss-20b", "gemma-2-9b", "command-r7b-12-2024"])
async def test_attention_needs_the_layer_of_a_model_whose_layers_differ(client, preset):
    resolved = (await client.post("/v1/resolve", json={"rope": preset})).json()
    assert "layers differ" in str(resolved["warnings"])
    width = resolved["rope"]["head_dim"]
    heads = {"q": [[[0.5] * width]], "k": [[[0.5] * width]], "v": [[[0.25] * width]]}
    refused = await client.post("/v1/attention", json={**heads, "rope": preset})
    assert refused.status_code == 422
    assert "rope.layer must be given, or layer_type" in refused.json()["detail"]
    model = {"preset": preset, "layer": 0}
    answer = (await client.post("/v1/attention", json={**heads, "rope": model})).json()
    assert answer["out"]["data"] == [0.25] * width, "the value of the only key"
