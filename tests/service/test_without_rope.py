"""Models without rotary embedding in each codec: refused by rotations, attended without one."""

import pytest
import torch

from rope_core.hf.families import models_without_rope
from service.wire import Message
from tests.core.oracle import randn
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import answered, params, warnings_of
from tests.service.rope_cases import check_refused, message

pytestmark = every_test_in_one_loop

BLOOM = {"config": {"model_type": "bloom", "n_layer": 3, "n_head": 4, "hidden_size": 32}}
BERT = {"config": {"model_type": "bert", "hidden_size": 32, "num_attention_heads": 4}}
ALIBI = "no rotary embedding: ALiBi"


@pytest.fixture
def client(shared_client):
    return shared_client


async def test_resolve_says_why(client, codec):
    values = (await answered(client, codec, "/v1/resolve", message(rope=BLOOM))).params.values
    assert (values["rotates"], values["nope"], values["model_type"]) == (False, ALIBI, "bloom")
    assert values["layers"] == [{"layer_type": None, "layers": [0, 1, 2], "nope": ALIBI}]
    assert (values["attention"]["causal"], values["attention"]["scale"]) == (True, None)
    assert any("slope of head h" in text for text in values["warnings"])
    values = (await answered(client, codec, "/v1/resolve", message(rope=BERT))).params.values
    assert (values["nope"], values["warnings"]) == ("no rotary embedding: learned absolute", [])
    assert values["attention"]["causal"] is False


async def test_rotations_are_refused(client, codec):
    for path, tensors in (
        ("/v1/rotate", {"q": randn(1, 3, 4, 8)}),
        ("/v1/cos_sin", {"positions": torch.arange(3)}),
        ("/v1/shift", {"k": randn(1, 3, 4, 8), "delta": torch.tensor(1)}),
    ):
        refusal = await post(client, codec, path, Message(tensors, params(rope=BLOOM)))
        check_refused(refusal, "rope must be that of a layer that rotates", ALIBI, "bloom")


async def test_attention_takes_alibi_as_mask(client, codec):
    q, k, v = (randn(1, 5, 4, 8, seed=seed) for seed in range(3))
    slopes = torch.tensor([2**-2, 2**-4, 2**-6, 2**-8])
    mask = (slopes[:, None, None] * torch.arange(5.0))[None]
    tensors = {"q": q, "k": k, "v": v, "mask": mask}
    answer = await answered(client, codec, "/v1/attention", Message(tensors, params(rope=BLOOM)))
    assert any("Send them as mask" in text for text in warnings_of(answer))
    distance = torch.arange(5)[:, None] - torch.arange(5)
    scores = torch.einsum("bihd,bjhd->bhij", q.double(), k.double()) * 8**-0.5
    scores = scores - slopes.double()[:, None, None] * distance
    weights = scores.masked_fill(distance < 0, -torch.inf).softmax(-1)
    expected = torch.einsum("bhij,bjhd->bihd", weights, v.double())
    torch.testing.assert_close(answer.tensors["out"].double(), expected, rtol=1e-5, atol=1e-6)


async def test_encoders_are_not_causal(client, codec):
    q, k, v = (randn(1, 5, 4, 8, seed=seed) for seed in range(3))
    tensors = {"q": q, "k": k, "v": v}
    answer = await answered(client, codec, "/v1/attention", Message(tensors, params(rope=BERT)))
    assert warnings_of(answer) == []
    weights = torch.einsum("bihd,bjhd->bhij", q.double(), k.double()).mul(8**-0.5).softmax(-1)
    expected = torch.einsum("bhij,bjhd->bihd", weights, v.double())
    torch.testing.assert_close(answer.tensors["out"].double(), expected, rtol=1e-5, atol=1e-6)


async def test_a_layer_without_attention_does_not_attend(client, codec):
    tensors = {name: randn(1, 3, 2, 256) for name in ("q", "k", "v")}
    for model_type, layer, why in (
        ("qwen3_next", 0, "linear_attention has no queries and keys"),
        ("lfm2", 1, "conv has no queries and keys"),
        ("nemotron_h", 1, "moe has no queries and keys"),
        ("mamba", 0, "no rotary embedding: state space"),
    ):
        config = {"model_type": model_type}
        if model_type == "lfm2":
            config |= {"num_hidden_layers": 2, "layer_types": ["full_attention", "conv"]}
        rope = {"config": config, "layer": layer}
        refusal = await post(client, codec, "/v1/attention", Message(tensors, params(rope=rope)))
        check_refused(refusal, "rope must be that of a layer with attention", why, model_type)
    rope = {"config": {"model_type": "nemotron_h"}}  # only layers with attention can be meant
    await answered(client, codec, "/v1/attention", Message(tensors, params(rope=rope)))


async def test_they_are_listed(client):
    listed = (await client.get("/v1/variants")).json()["models_without_rope"]
    assert listed == models_without_rope()
    assert listed["ALiBi"] == ["bloom"]  # MPT can rotate, so it has a row of its own
