"""Every form of `rope` over HTTP."""

import pytest
import torch

import rope_core
from rope_core import (
    SCHEMES,
    VARIANTS,
    Attend,
    AttentionConfig,
    CosSin,
    RopeConfig,
    Rotate,
    Shift,
    resolve,
)
from service.wire import Message
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import answered, params
from tests.service.rope_cases import (
    GEMMA,
    LLAMA,
    MODELS,
    OF_SCHEMES,
    OF_VARIANTS,
    ORIGINAL,
    PARAMETERS,
    TOKENS,
    D,
    case_id,
    check_refused,
    heads,
    library_rope,
    positions_for,
)

pytestmark = every_test_in_one_loop


@pytest.fixture
def client(shared_client):
    return shared_client


async def test_each_variant_and_each_scheme_has_a_case():
    assert OF_VARIANTS.keys() == VARIANTS.keys()
    assert OF_SCHEMES.keys() == SCHEMES.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [*PARAMETERS, *MODELS.values()], ids=case_id)
async def test_every_form_answers_the_librarys_bits(client, codec, given, dtype):
    rope = library_rope(given, 3 if given is MODELS["axes"] else 1)
    q, k, at = heads(4, dtype), heads(2, dtype), positions_for(rope)
    tensors = {"q": q, "k": k, "positions": at}
    for inverse in (False, True):
        text = params(rope=given, inverse=inverse)
        answer = await answered(client, codec, "/v1/rotate", Message(tensors, text), True)
        expected = rope_core.rotate(Rotate(q, k, rope, at, inverse=inverse))
        assert torch.equal(answer.tensors["q"], expected.q)
        assert torch.equal(answer.tensors["k"], expected.k)

    told = {"rope": given, "causal": True, "window": None, "scale": 0.3}
    message = Message(tensors | {"v": k}, params(**told))
    answer = await answered(client, codec, "/v1/attention", message)
    expected = rope_core.attend(Attend(q, k, k, rope, AttentionConfig(scale=0.3), at, at))
    assert torch.equal(answer.tensors["out"], expected.out)

    wide = given if "config" in given else {"head_dim": D, **given}
    message = Message({"positions": at}, params(rope=wide))
    answer = await answered(client, codec, "/v1/cos_sin", message)
    table = rope_core.cos_sin(CosSin(at, rope))
    assert torch.equal(answer.tensors["cos"], table.cos)
    assert torch.equal(answer.tensors["sin"], table.sin)
    assert ("scale" in answer.tensors) == (table.scale is not None)
    if table.scale is not None:
        assert torch.equal(answer.tensors["scale"], table.scale)
    assert answer.params.values["attention_scaling"] == table.attention_scaling

    answer = await answered(client, codec, "/v1/resolve", Message({}, params(rope=wide)))
    resolved = library_rope(given)  # of no call: its length is none
    assert torch.equal(answer.tensors["inv_freq"], resolved.columns.inv_freq)


async def test_learned_frequencies(client, codec):
    rope = {"config": {"_class_name": "MochiTransformer3DModel", "attention_head_dim": D}}
    learned = torch.randn(3, 4, D // 2, generator=torch.Generator().manual_seed(0))
    q, at = heads(4), torch.randint(0, 9, (3, TOKENS)).float()
    tensors = {"q": q, "positions": at, "frequencies": learned}
    answer = await answered(client, codec, "/v1/rotate", Message(tensors, params(rope=rope)))
    config = resolve(rope["config"], head_dim=D, num_axes=3).rope
    expected = rope_core.rotate(Rotate(q, None, config, at, frequencies=learned))
    assert torch.equal(answer.tensors["q"], expected.q)
    table = {"positions": at, "frequencies": learned}
    answer = await answered(client, codec, "/v1/cos_sin", Message(table, params(rope=rope)))
    expected = rope_core.cos_sin(CosSin(at, config, learned))
    assert torch.equal(answer.tensors["cos"], expected.cos)

    del tensors["frequencies"]
    refusal = await post(client, codec, "/v1/rotate", Message(tensors, params(rope=rope)))
    check_refused(refusal, "frequencies must be given")
    unasked = {"q": q, "frequencies": learned}
    check_refused(
        await post(client, codec, "/v1/rotate", Message(unasked)), "frequencies must be absent"
    )


async def test_keys_move_to_the_frequencies_of_another_rope(client, codec):
    k, at, delta = heads(2), torch.arange(TOKENS) + 50, torch.tensor(-7)
    to = {"rope_type": "yarn", "factor": 4, **ORIGINAL}
    tensors = {"k": k, "delta": delta, "positions": at}
    answer = await answered(client, codec, "/v1/shift", Message(tensors, params(to=to)))
    expected = rope_core.shift(Shift(k, delta, RopeConfig.of(D), at, library_rope(to)))
    assert torch.equal(answer.tensors["k"], expected.k)
    for wrong, names in (
        ({"base": 3}, "to.base"),
        ({"config": {}}, "to.hidden_size"),
        ({"preset": "x"}, "to.preset"),
        ({"theta": "x"}, "to.theta"),
        (5, "to must be an object or the name of a preset"),
    ):
        refusal = await post(client, codec, "/v1/shift", Message(tensors, params(to=wrong)))
        check_refused(refusal, names)


async def test_attention_is_as_the_model_has_it_unless_told(client, codec):
    q, k = heads(4), heads(2)
    config = {**GEMMA, "query_pre_attn_scalar": 64, "rope_local_base_freq": 100.0}
    rope = {"config": config, "layer": 0}
    own = resolve(config, layer=0, head_dim=D)
    assert (own.attention.window, own.attention.scale) == (3, 0.125)
    for asked, attention in (
        ({}, own.attention),
        ({"window": None}, AttentionConfig(scale=0.125)),
        ({"scale": None, "causal": False}, AttentionConfig(causal=False, window=3)),
        ({"softcap": 5.0}, AttentionConfig(window=3, scale=0.125, softcap=5.0)),
    ):
        body = Message({"q": q, "k": k, "v": k}, params(rope=rope, **asked))
        answer = await answered(client, codec, "/v1/attention", body)
        expected = rope_core.attend(Attend(q, k, k, own.rope, attention))
        assert torch.equal(answer.tensors["out"], expected.out)


async def test_negative_positions_turn_back(client, codec):
    q, at = heads(2), torch.arange(TOKENS)
    for rope in ({"theta": 500.0}, {"config": LLAMA}):
        body = Message({"q": q, "positions": -at}, params(rope=rope))
        back = await answered(client, codec, "/v1/rotate", body)
        body = Message({"q": q, "positions": at}, params(rope=rope, inverse=True))
        inverse = await answered(client, codec, "/v1/rotate", body)
        torch.testing.assert_close(back.tensors["q"], inverse.tensors["q"])
