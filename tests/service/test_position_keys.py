"""Keys that bear on positions, over HTTP: the list, the warning of each answer, and `assume`."""

import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio
import torch

from service.wire import Parameters, safetensors_codec
from tests.service.planned.requests import Answer, Client, encode, post
from tests.service.planned.servers import Running, running
from tests.service.rope_cases import LLAMA, TOKENS, heads

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = {"rotary_dim": 8, "use_logn_attn": True}
PLAIN = {"config": LLAMA, "arithmetic": "float64"}  # whose calls can have a plan
KNOWN = PLAIN | {"config": LLAMA | KEYS}
UNKNOWN = PLAIN | {"config": LLAMA | KEYS | {"model_type": "unheard_of"}}
WARNING = "keys that bear on positions are not applied: rotary_dim, use_logn_attn"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service() -> AsyncIterator[Running]:
    async with running() as service:
        yield service


HEADS = heads(4)[None]
TENSORS = {
    "/v1/resolve": {},
    "/v1/rotate": {"q": HEADS},
    "/v1/attention": dict.fromkeys("qkv", HEADS),
    "/v1/cos_sin": {"positions": torch.arange(TOKENS)},
    "/v1/shift": {"k": HEADS, "delta": torch.tensor(1)},
}


async def ask(
    service: Running, path: str, rope: object, target: str = "", **fields: str
) -> list[Answer]:
    """Return the answers to three equal requests: only the last one can have a plan."""
    params = {} if rope is None else {"rope": rope}
    body = encode(TENSORS[path], Parameters.of(params))
    client = await Client.connect(service.address)
    found = [await client.ask(post(target or path, body, **fields)) for _ in range(3)]
    client.leave()
    return found


def read(answer: Answer) -> dict:
    assert answer.status == 200, answer.body
    return dict(safetensors_codec.decode(answer.body).message.params.values)


@pytest.mark.parametrize("path", TENSORS)
async def test_each_answer_has_the_warning(service: Running, path: str):
    num_planned = len(service.statuses)
    first, *others = await ask(service, path, KNOWN)
    assert [answer.lasting for answer in others] == [first.lasting] * 2
    assert read(first)["warnings"] == [WARNING]
    is_planned = path in ("/v1/rotate", "/v1/attention")
    assert (len(service.statuses) > num_planned) == is_planned
    if is_planned:
        assert json.loads(first.fields["x-rope-warnings"]) == [WARNING]
    (plain, *_) = await ask(service, path, PLAIN)
    tensors = [safetensors_codec.decode(each.body).message.tensors for each in (first, plain)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(map(torch.equal, tensors[0].values(), tensors[1].values()))
    assert not read(plain).get("warnings")


@pytest.mark.parametrize("path", TENSORS)
async def test_an_unknown_model_type_is_refused_or_assumed(service: Running, path: str):
    refused, *_ = await ask(service, path, UNKNOWN)
    problem = json.loads(refused.body)
    assert refused.status == 422
    assert problem["detail"].startswith("rope.rotary_dim must be absent")
    assert '"assume": "llama"' in problem["detail"]
    assumed, *_ = await ask(service, path, UNKNOWN | {"assume": "llama"})
    known, *_ = await ask(service, path, KNOWN)
    unknown = "model_type 'unheard_of' is unknown: read as a Llama, without defaults"
    assert read(assumed)["warnings"] == [unknown, WARNING]
    left, right = (safetensors_codec.decode(each.body).message.tensors for each in (assumed, known))
    assert all(torch.equal(left[name], right[name]) for name in right)


async def test_resolve_lists_them(service: Running):
    answer, *_ = await ask(service, "/v1/resolve", KNOWN)
    assert read(answer)["position_keys_not_applied"] == [*KEYS]
    answer, *_ = await ask(service, "/v1/resolve", PLAIN)
    assert read(answer)["position_keys_not_applied"] == []


async def test_assume_in_the_header_and_in_the_query(service: Running):
    header = json.dumps({"rope": UNKNOWN | {"assume": "llama"}})
    query = f"/v1/rotate?rope={quote(json.dumps(UNKNOWN))}&rope.assume=llama"
    for answers in (
        await ask(service, "/v1/rotate", None, x_rope_params=header),
        await ask(service, "/v1/rotate", None, query),
    ):
        for answer in answers:
            assert WARNING in read(answer)["warnings"]


@pytest.mark.parametrize("value", ["mistral", "", 1, True])
async def test_a_wrong_assume_is_refused(service: Running, value: object):
    for rope in (UNKNOWN, {"preset": "llama-3.1-8b"}):
        refused, *_ = await ask(service, "/v1/resolve", {**rope, "assume": value})
        assert refused.status == 422
        assert "rope.assume" in json.loads(refused.body)["detail"]
