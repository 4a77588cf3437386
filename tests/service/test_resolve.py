"""What `/v1/resolve` tells about a rope, and configs of any depth and size."""

import json

import pytest
import torch

import rope_core
from rope_core import Attend, resolve
from service.wire import Message, Parameters
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import answered, params, read_answer
from tests.service.rope_cases import LLAMA, ORIGINAL, SCALED, D, check_refused, heads, message

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


async def test_what_resolve_tells(client, codec):
    config = {**LLAMA, "rope_theta": 5e5, "rope_scaling": SCALED | ORIGINAL, "use_cache": True}
    answer = await answered(client, codec, "/v1/resolve", message(rope={"config": config}))
    told = answer.params.values
    expected = resolve(config)
    assert told["parameters"] == dict(expected.parameters)
    assert told["parameters"]["rope_theta"] == 5e5
    assert told["provenance"] == dict(expected.provenance)
    assert told["provenance"]["rope_theta"] == told["provenance"]["factor"] == "given"
    assert told["provenance"]["head_dim"] == "derived"
    assert set(told["provenance"].values()) <= {"given", "class default", "derived"}
    assert "use_cache" in told["keys_ignored"]
    assert {"rope_theta", "rope_scaling", "hidden_size"} <= set(told["keys_read"])
    assert told["rope"]["head_dim"] == told["rope"]["rotary_dim"] == D
    assert told["rope"]["arithmetic"] == "hf"
    assert told["softmax_scale"] == D**-0.5
    assert (told["num_axes"], told["attention_scaling"]) == (1, 1.0)
    assert (told["model_type"], told["layer_type"], told["nope"]) == ("llama", None, None)

    silent = {name: each for name, each in config.items() if name != "rope_theta"}
    answer = await answered(client, codec, "/v1/resolve", message(rope={"config": silent}))
    told = answer.params.values
    assert told["provenance"]["rope_theta"] == "class default"

    compact = {"head_dim": D, "rope_type": "linear", "factor": 4}
    told = (await answered(client, codec, "/v1/resolve", message(rope=compact))).params.values
    assert told["provenance"]["factor"] == told["provenance"]["head_dim"] == "given"
    assert told["provenance"]["theta"] == "default"
    assert (told["rope"]["factor"], told["rope"]["theta"]) == (4, 10_000.0)


NOPE = {"preset": "smollm3-3b", "layer": 3}


async def test_a_layer_without_rope(client, codec):
    said = (await answered(client, codec, "/v1/resolve", message(rope=NOPE))).params.values
    assert (said["rotates"], said["nope"]) == (False, "no_rope_layers[3] is 0")
    q, k = heads(4), heads(2)
    for path, tensors in (
        ("/v1/rotate", {"q": q}),
        ("/v1/cos_sin", {"positions": torch.arange(3)}),
        ("/v1/shift", {"k": k, "delta": torch.tensor(1)}),
    ):
        refusal = await post(client, codec, path, Message(tensors, params(rope=NOPE)))
        check_refused(refusal, "rope must be of a layer that rotates", "no_rope_layers[3] is 0")

    tensors = {"q": q, "k": k, "v": k}
    answer = await answered(client, codec, "/v1/attention", Message(tensors, params(rope=NOPE)))
    expected = rope_core.attend(Attend(q, k, k, None))
    assert torch.equal(answer.tensors["out"], expected.out)


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", [50, 150, 190, 230, 260, 2_000, 20_000])
async def test_deep_configs(client, codec, depth):
    config = json.dumps(LLAMA)[:-1] + f', "deep": {nested(depth)}}}'
    text = f'{{"rope": {{"config": {config}}}}}'.encode()
    if codec.media_type == "application/json":
        headers = {"content-type": codec.media_type}
        answer = await client.post("/v1/resolve", content=text, headers=headers)
    else:
        answer = await post(client, codec, "/v1/resolve", Message({}, Parameters({}, text)))
    if depth < 200:
        assert answer.status_code == 200
        assert "deep" in read_answer(codec, answer.content).params.values["keys_ignored"]
    else:
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_message")


async def test_large_configs(client, codec):
    huge = {f"key_{i}": i for i in range(5_000)}
    answer = await answered(client, codec, "/v1/resolve", message(rope={"config": LLAMA | huge}))
    assert len(answer.params.values["keys_ignored"]) >= 5_000
    for spoilt in (
        {"rope_scaling": {"rope_type": "x" * 50_000}},
        {"rope_scaling": ["x" * 50_000]},
        {"layer_types": ["x"] * 20_000},
        {"num_hidden_layers": 10**9, "model_type": "gemma3_text"},
        {"model_type": "x" * 50_000, "hidden_size": None},
    ):
        rope = {"config": LLAMA | spoilt, "layer": 1}
        refusal = await post(client, codec, "/v1/resolve", message(rope=rope))
        assert refusal.status_code in (200, 422)
        assert refusal.status_code == 200 or len(refusal.content) < 4096


async def test_what_json_has_not_is_refused_in_configs(client):
    for number in ("NaN", "Infinity", "1e999"):
        body = f'{{"rope": {{"config": {{"rope_theta": {number}}}}}}}'
        headers = {"content-type": "application/json"}
        answer = await client.post("/v1/resolve", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_message")


async def test_of_ever_so_many_ignored_keys_some_are_told(client):
    block = {"type": "linear", "factor": 2.0, **{f"key{i}": i for i in range(12_000)}}
    asked = {"rope": {"config": {**LLAMA, "rope_scaling": block}}}
    told = await client.post("/v1/resolve", json=asked)
    assert told.status_code == 200
    assert len(told.json()["warnings"]) < 20
    block |= {f"more{i}": i for i in range(20_000)}
    asked["rope"]["config"]["rope_scaling"] = block
    assert (await client.post("/v1/resolve", json=asked)).status_code == 413
