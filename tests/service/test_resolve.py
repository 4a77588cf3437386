"""What `/v1/resolve` tells about a rope, and configs of any depth and size."""

import json

import pytest
import torch

import rope_core.reference
from rope_core import Attend, AttentionConfig, resolve
from service.endpoints.table import MAX_PARAMS_DEPTH
from service.wire import Message, Parameters
from tests.core import oracle
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import answered, params, read_answer
from tests.service.rope_cases import LLAMA, ORIGINAL, SCALED, D, check_refused, heads, message

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


SCALED_LLAMA = {**LLAMA, "rope_theta": 5e5, "rope_scaling": SCALED | ORIGINAL, "use_cache": True}


async def resolve_values(client, codec, rope):
    return (await answered(client, codec, "/v1/resolve", message(rope=rope))).params.values


async def test_resolve_of_a_config(client, codec):
    values = await resolve_values(client, codec, {"config": SCALED_LLAMA})
    expected = resolve(SCALED_LLAMA)
    assert values["parameters"] == dict(expected.parameters)
    assert values["parameters"].items() >= {**SCALED, **ORIGINAL, "rope_theta": 5e5}.items()
    assert values["provenance"] == dict(expected.provenance)
    assert values["provenance"]["rope_theta"] == values["provenance"]["factor"] == "given"
    assert values["provenance"]["head_dim"] == "derived"
    assert set(values["provenance"].values()) <= {"given", "class default", "derived"}
    assert "use_cache" in values["keys_ignored"]
    assert {"rope_theta", "rope_scaling", "hidden_size"} <= set(values["keys_read"])
    assert values["rope"]["head_dim"] == values["rope"]["rotary_dim"] == D
    assert values["rope"]["arithmetic"] == "hf"
    assert values["softmax_scale"] == D**-0.5
    assert (values["num_axes"], values["attention_scaling"]) == (1, 1.0)
    assert (values["model_type"], values["layer_type"], values["nope"]) == ("llama", None, None)


async def test_facts_about_pairs_and_lengths(client, codec):
    answer = await answered(client, codec, "/v1/resolve", message(rope={"preset": "llama-3.1-8b"}))
    values, tensors = answer.params.values, answer.tensors
    assert values["scaling"] == {"kept": 29, "blended": 6, "divided": 29, "factor": 8.0}
    assert values["lengths"] == {"trained": 8192, "allowed": 131_072}
    assert values["why"].keys() == values["provenance"].keys()
    assert values["why"]["factor"] == "rope_scaling.factor"
    assert values["summary"].startswith("64 pairs turn in each head of 128. 29 keep")
    expected = 5e5 ** (-torch.arange(64) / 64)
    assert torch.allclose(tensors["inv_freq_unscaled"], expected, rtol=1e-5)
    assert torch.equal(tensors["pairs"], torch.arange(128).view(2, 64).mT)
    assert tensors["pair_axis"].tolist() == [0] * 64


async def test_facts_about_parameters(client, codec):
    rope = {"head_dim": 8, "axes": "mrope", "mrope_section": [1, 1, 2], "layout": "interleaved"}
    answer = await answered(client, codec, "/v1/resolve", message(rope=rope))
    values, tensors = answer.params.values, answer.tensors
    assert tensors["pairs"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert tensors["pair_axis"].tolist() == [0, 1, 2, 2]
    assert values["lengths"] == {"trained": None, "allowed": None}
    assert values["scaling"] == {"kept": 4, "blended": 0, "divided": 0, "factor": 1.0}
    assert values["why"].keys() == values["provenance"].keys()
    expected = {"layout": "rope.layout", "theta": "default", "rotary_dim": "rope.head_dim"}
    assert values["why"].items() >= {**expected, "rope_type": "default"}.items()


async def test_the_scaling_is_that_of_the_fixed_length(client, codec):
    rope = {"preset": "phi-3-mini-128k-instruct", "length": 5000}
    values = await resolve_values(client, codec, rope)
    assert values["scaling"]["factor"] == pytest.approx(64.76)
    assert "These frequencies are for calls of more than 4 096 positions." in values["summary"]


async def test_a_missing_key_of_a_config_is_a_default_of_the_class(client, codec):
    config = {key: value for key, value in SCALED_LLAMA.items() if key != "rope_theta"}
    values = await resolve_values(client, codec, {"config": config})
    assert values["provenance"]["rope_theta"] == "class default"
    assert values["parameters"]["rope_theta"] == 10_000.0


async def test_resolve_of_parameters(client, codec):
    rope = {"head_dim": D, "rope_type": "linear", "factor": 4}
    values = await resolve_values(client, codec, rope)
    assert values["provenance"]["factor"] == values["provenance"]["head_dim"] == "given"
    assert values["provenance"]["theta"] == "default"
    assert (values["rope"]["factor"], values["rope"]["theta"]) == (4, 10_000.0)


NOPE = {"preset": "smollm3-3b", "layer": 3}


async def test_a_layer_without_rope(client, codec):
    values = await resolve_values(client, codec, NOPE)
    assert (values["rotates"], values["nope"]) == (False, "no_rope_layers[3] is 0")
    assert values["summary"] == "This layer does not rotate (no_rope_layers[3] is 0)."
    assert values["lengths"] == {"trained": 65_536, "allowed": 65_536}
    assert "scaling" not in values
    q, k = heads(4), heads(2)
    for path, tensors in (
        ("/v1/rotate", {"q": q}),
        ("/v1/cos_sin", {"positions": torch.arange(3)}),
        ("/v1/shift", {"k": k, "delta": torch.tensor(1)}),
    ):
        refusal = await post(client, codec, path, Message(tensors, params(rope=NOPE)))
        check_refused(
            refusal, "rope must be that of a layer that rotates", "no_rope_layers[3] is 0"
        )

    tensors = {"q": q, "k": k, "v": k}
    answer = await answered(client, codec, "/v1/attention", Message(tensors, params(rope=NOPE)))
    expected = rope_core.attend(Attend(q, k, k, None))
    assert torch.equal(answer.tensors["out"], expected.out)
    out, _ = rope_core.reference.attention(q, k, k, AttentionConfig())
    assert oracle.off(answer.tensors["out"], out) < oracle.ATTEND_BAR[torch.float32]


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", [50, 150, 197, 198, 230, 260, 2_000, 20_000])
async def test_parameters_may_nest_200_objects(client, codec, depth):
    config = json.dumps(LLAMA)[:-1] + f', "deep": {nested(depth)}}}'
    text = f'{{"rope": {{"config": {config}}}}}'.encode()
    if codec.media_type == "application/json":
        headers = {"content-type": codec.media_type}
        answer = await client.post("/v1/resolve", content=text, headers=headers)
    else:
        answer = await post(client, codec, "/v1/resolve", Message({}, Parameters({}, text)))
    if depth + 3 <= MAX_PARAMS_DEPTH:
        assert answer.status_code == 200
        assert "deep" in read_answer(codec, answer.content).params.values["keys_ignored"]
    else:
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_message")


async def test_a_config_may_have_thousands_of_keys(client, codec):
    config = LLAMA | {f"key_{i}": i for i in range(5_000)}
    values = await resolve_values(client, codec, {"config": config})
    assert {f"key_{i}" for i in range(5_000)} <= set(values["keys_ignored"])
    assert values["rope"]["theta"] == 10_000.0


@pytest.mark.parametrize(
    ("keys", "word"),
    [
        ({"rope_scaling": {"rope_type": "x" * 50_000}}, "rope.rope_scaling.rope_type"),
        ({"rope_scaling": ["x" * 50_000]}, "rope.rope_scaling"),
        ({"layer_types": ["x"] * 20_000}, "rope.layer_types must be at most 10000"),
        ({"num_hidden_layers": 10**9, "model_type": "gemma3_text"}, "rope.num_hidden_layers"),
        ({"model_type": "x" * 50_000, "hidden_size": None}, "rope.hidden_size"),
    ],
    ids=["rope_type", "rope_scaling", "layer_types", "num_hidden_layers", "model_type"],
)
async def test_the_error_of_a_large_config_is_short(client, codec, keys, word):
    rope = {"config": LLAMA | keys, "layer": 1}
    check_refused(await post(client, codec, "/v1/resolve", message(rope=rope)), word)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
async def test_a_number_that_is_not_json_is_a_bad_message(client, number):
    body = f'{{"rope": {{"rope_theta": {number}}}}}'  # a config may have NaN
    headers = {"content-type": "application/json"}
    answer = await client.post("/v1/resolve", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_message")


async def test_warnings_name_only_some_of_many_ignored_keys(client):
    block = {"type": "linear", "factor": 2.0, **{f"key{i}": i for i in range(12_000)}}
    body = {"rope": {"config": {**LLAMA, "rope_scaling": block}}}
    values = (await client.post("/v1/resolve", json=body)).json()
    assert 1 < len(values["warnings"]) < 20
    assert values["rope"]["factor"] == 2.0
    block |= {f"more{i}": i for i in range(20_000)}
    body["rope"]["config"]["rope_scaling"] = block
    assert (await client.post("/v1/resolve", json=body)).status_code == 413


async def test_the_indexer_of_a_config(client, codec):
    values = await resolve_values(client, codec, {"preset": "deepseek-v3.2", "part": "indexer"})
    assert (values["rope"]["head_dim"], values["rope"]["rotary_dim"]) == (128, 64)
    assert (values["rope"]["layout"], values["num_axes"]) == ("half", 1)
    without = await post(
        client,
        codec,
        "/v1/resolve",
        message(rope={"preset": "glm-4-9b-chat-1m", "part": "indexer"}),
    )
    check_refused(without, "part must be one of ['text'], got 'indexer'")


async def test_a_params_json_is_a_config(client, codec):
    form = {"dim": 4096, "n_layers": 2, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128}
    form |= {"hidden_dim": 14336, "vocab_size": 32768, "norm_eps": 1e-5, "rope_theta": 1e6}
    values = await resolve_values(client, codec, {"config": form})
    assert (values["rope"]["theta"], values["rope"]["layout"]) == (1e6, "interleaved")
    assert values["rope"]["head_dim"] == 128
