"""Every form of `rope` over HTTP."""

import pytest
import torch

import rope_core.reference
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
from tests.core import oracle
from tests.service import rope_formulas
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


FORMULAS = [
    {},
    {"theta": 500.0, "rotary_dim": 6, "trailing": True, "negative": True},
    {"layout": "interleaved", "rotary_dim": 10},
    *(
        {"rope_type": name, **OF_VARIANTS[name]}
        for name in ("linear", "ntk", "ntk_alpha", "llama3")
    ),
]


@pytest.mark.parametrize("dtype", oracle.DTYPES, ids=str)
@pytest.mark.parametrize("rope", FORMULAS, ids=case_id)
async def test_parameters_rotate_by_the_formula(client, codec, rope, dtype):
    q, k, at = heads(4, dtype), heads(2, dtype), torch.tensor([0, 3, 17, 256, -4])
    for inverse in (False, True):
        values = params(rope=rope, inverse=inverse)
        message = Message({"q": q, "k": k, "positions": at}, values)
        answer = await answered(client, codec, "/v1/rotate", message, as_base64=True)
        for name, x in (("q", q), ("k", k)):
            expected = rope_formulas.rotate(x, at, rope, inverse=inverse)
            assert oracle.off(answer.tensors[name], expected) < oracle.ROTATE_BAR[dtype]


@pytest.mark.parametrize("rope", FORMULAS, ids=case_id)
async def test_tables_and_frequencies_follow_the_formula(client, codec, rope):
    at = torch.tensor([0, 3, 17, 256, -4])
    inv_freq = rope_formulas.inv_freq(D, rope)
    sign = -1 if rope.get("negative") else 1
    message = Message({"positions": at}, params(rope={"head_dim": D, **rope}))
    table = (await answered(client, codec, "/v1/cos_sin", message)).tensors
    angles = sign * at.double()[:, None] * inv_freq
    torch.testing.assert_close(table["cos"], angles.cos().float(), rtol=0, atol=1e-7)
    torch.testing.assert_close(table["sin"], angles.sin().float(), rtol=0, atol=1e-7)
    message = Message({}, params(rope={"head_dim": D, **rope}))
    resolved = (await answered(client, codec, "/v1/resolve", message)).tensors
    torch.testing.assert_close(resolved["inv_freq"].double(), inv_freq, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["4.x", "5.x"])
async def test_a_config_has_the_frequencies_of_transformers(client, codec, name):
    message = Message({}, params(rope=MODELS[name]))
    answer = await answered(client, codec, "/v1/resolve", message)
    inv_freq = answer.tensors["inv_freq"].float()
    torch.testing.assert_close(inv_freq, rope_formulas.LLAMA3_INV_FREQ, rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("params_of_rope", [*PARAMETERS, *MODELS.values()], ids=case_id)
async def test_every_form_has_the_bits_of_the_library(client, codec, params_of_rope, dtype):
    """The tests of the library compare its bits with formulas and with transformers."""
    rope = library_rope(params_of_rope, 3 if params_of_rope is MODELS["axes"] else 1)
    q, k, at = heads(4, dtype), heads(2, dtype), positions_for(rope)
    tensors = {"q": q, "k": k, "positions": at}
    for inverse in (False, True):
        message = Message(tensors, params(rope=params_of_rope, inverse=inverse))
        answer = await answered(client, codec, "/v1/rotate", message, as_base64=True)
        expected = rope_core.rotate(Rotate(q, k, rope, at, inverse=inverse))
        assert torch.equal(answer.tensors["q"], expected.q)
        assert torch.equal(answer.tensors["k"], expected.k)

    values = params(rope=params_of_rope, causal=True, window=None, scale=0.3)
    message = Message(tensors | {"v": k}, values)
    answer = await answered(client, codec, "/v1/attention", message)
    expected = rope_core.attend(Attend(q, k, k, rope, AttentionConfig(scale=0.3), at, at))
    assert torch.equal(answer.tensors["out"], expected.out)

    of_table = params_of_rope if "config" in params_of_rope else {"head_dim": D, **params_of_rope}
    message = Message({"positions": at}, params(rope=of_table))
    answer = await answered(client, codec, "/v1/cos_sin", message)
    table = rope_core.cos_sin(CosSin(at, rope))
    assert torch.equal(answer.tensors["cos"], table.cos)
    assert torch.equal(answer.tensors["sin"], table.sin)
    assert ("scale" in answer.tensors) == (table.scale is not None)
    if table.scale is not None:
        assert torch.equal(answer.tensors["scale"], table.scale)
    assert answer.params.values["attention_scaling"] == table.attention_scaling

    answer = await answered(client, codec, "/v1/resolve", Message({}, params(rope=of_table)))
    resolved = library_rope(params_of_rope)  # of no call, so without a length
    assert torch.equal(answer.tensors["inv_freq"], resolved.frequency_table.inv_freq)


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
    angles = torch.einsum("at,ahp->thp", at.double(), learned.double())
    torch.testing.assert_close(answer.tensors["cos"], angles.cos().float(), rtol=0, atol=1e-5)

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

    to = {"rope_type": "linear", "factor": 4, "theta": 500.0}
    tensors["k"] = rope_formulas.rotate(k, at, {}).float()
    answer = await answered(client, codec, "/v1/shift", Message(tensors, params(to=to)))
    moved = rope_formulas.rotate(k, at + delta, to)
    assert oracle.off(answer.tensors["k"], moved) < 1e-6


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"base": 3}, "to.base"),
        ({"config": {}}, "to.hidden_size"),
        ({"preset": "x"}, "to.preset"),
        ({"theta": "x"}, "to.theta"),
        (5, "to must be an object or the name of a preset"),
    ],
    ids=case_id,
)
async def test_errors_of_another_rope_name_the_parameter_to(client, codec, wrong, name):
    tensors = {"k": heads(2), "delta": torch.tensor(-7), "positions": torch.arange(TOKENS)}
    refusal = await post(client, codec, "/v1/shift", Message(tensors, params(to=wrong)))
    check_refused(refusal, name)


@pytest.mark.parametrize(
    ("values", "attention"),
    [
        ({}, AttentionConfig(window=3, scale=0.125)),
        ({"window": None}, AttentionConfig(scale=0.125)),
        ({"scale": None, "causal": False}, AttentionConfig(causal=False, window=3)),
        ({"softcap": 5.0}, AttentionConfig(window=3, scale=0.125, softcap=5.0)),
    ],
    ids=case_id,
)
async def test_attention_follows_the_model_unless_the_request_differs(
    client, codec, values, attention
):
    q, k, at = heads(4), heads(2), torch.arange(TOKENS)
    config = {**GEMMA, "query_pre_attn_scalar": 64, "rope_local_base_freq": 100.0}
    message = Message(
        {"q": q, "k": k, "v": k}, params(rope={"config": config, "layer": 0}, **values)
    )
    answer = await answered(client, codec, "/v1/attention", message)

    rope = resolve(config, layer=0, head_dim=D).rope
    expected = rope_core.attend(Attend(q, k, k, rope, attention))
    assert torch.equal(answer.tensors["out"], expected.out)
    rotated = (rope_formulas.rotate(x, at, {"theta": 100.0}) for x in (q, k))
    out, _ = rope_core.reference.attention(*rotated, k, attention)
    assert oracle.off(answer.tensors["out"], out) < oracle.ATTEND_BAR[torch.float32]


async def test_a_negative_position_is_an_inverse_rotation(client, codec):
    q, at = heads(2), torch.arange(TOKENS)
    for rope in ({"theta": 500.0}, {"config": LLAMA}):
        body = Message({"q": q, "positions": -at}, params(rope=rope))
        negative = await answered(client, codec, "/v1/rotate", body)
        body = Message({"q": q, "positions": at}, params(rope=rope, inverse=True))
        inverse = await answered(client, codec, "/v1/rotate", body)
        torch.testing.assert_close(negative.tensors["q"], inverse.tensors["q"])
