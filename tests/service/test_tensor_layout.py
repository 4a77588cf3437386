"""The layout bhsd answers what bshd answers to transposed tensors, bit for bit, over a socket."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch

from service.wire import Message, Parameters, json_codec, safetensors_codec
from tests.service.planned.requests import Answer, Client, post
from tests.service.planned.servers import Running, all_returned, running
from tests.service.recorded.tensors import raw, wire

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEADS = ("q", "k", "v", "out", "lse")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def service() -> AsyncIterator[Running]:
    async with running() as service:
        yield service


def heads(num_tokens: int, num_heads: int, seed: int, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, num_tokens, num_heads, 32, generator=generator).to(dtype)


def swapped(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {n: x.transpose(1, 2).contiguous() if n in HEADS else x for n, x in tensors.items()}


async def ask(service: Running, path: str, tensors, params, codec=safetensors_codec) -> Answer:
    """Return the answer to the last of three equal requests: only that one can have a plan."""
    body = b"".join(codec.encode(Message(tensors, Parameters.of(params))))
    client = await Client.connect(service.address)
    for _ in range(3):
        answer = await client.ask(post(path, body, content_type=codec.media_type))
    client.leave()
    return answer


def qkv(num_queries=5, num_keys=9, dtype=torch.float32) -> dict[str, torch.Tensor]:
    k, v = (heads(num_keys, 2, seed, dtype) for seed in (1, 2))
    return {"q": heads(num_queries, 4, 0, dtype), "k": k, "v": v}


PLACES = {"q_positions": torch.arange(4, 9), "k_positions": torch.arange(9)}
CASES = {
    "rotate": ("/v1/rotate", qkv(7, 7), {"rope": {"theta": 5e5}}),
    "rotate half": ("/v1/rotate", qkv(7, 7, torch.bfloat16), {"rope": {"layout": "interleaved"}}),
    "rotate hf": ("/v1/rotate", qkv(7, 7, torch.float16), {"rope": {"arithmetic": "hf"}}),
    "rotate long": ("/v1/rotate", {"q": heads(400, 4, 0)}, {}),
    "attention": ("/v1/attention", qkv() | PLACES, {"return_lse": True}),
    "attention half": ("/v1/attention", qkv(dtype=torch.bfloat16) | PLACES, {"window": 3}),
    "attention counted": ("/v1/attention", qkv(9, 9), {"softcap": 5.0, "return_lse": True}),
    "attention long": ("/v1/attention", qkv(400, 400), {"return_lse": True}),
    "a mask": ("/v1/attention", qkv() | PLACES | {"mask": torch.ones(2, 4, 5, 9) * 0.5}, {}),
    "shift": ("/v1/shift", {"k": heads(7, 2, 1), "delta": torch.arange(7)}, {}),
}


@pytest.mark.parametrize("codec", [safetensors_codec, json_codec], ids=["safetensors", "json"])
@pytest.mark.parametrize(("path", "tensors", "params"), CASES.values(), ids=CASES)
async def test_both_layouts_answer_alike(service: Running, path, tensors, params, codec):
    if path == "/v1/rotate":
        tensors = {name: x for name, x in tensors.items() if name != "v"}
    bshd = await ask(service, path, tensors, params, codec)
    bhsd = await ask(service, path, swapped(tensors), params | {"tensor_layout": "bhsd"}, codec)
    assert (bshd.status, bhsd.status) == (200, 200), bhsd.body
    expected, found = (codec.decode(answer.body).message for answer in (bshd, bhsd))
    assert expected.params.values == found.params.values
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in swapped(dict(expected.tensors)).items():
        assert found.tensors[name].shape == tensor.shape
        assert torch.equal(found.tensors[name], tensor), name
    await all_returned(service)


async def test_the_default_may_be_named(service: Running):
    bodies = [
        (await ask(service, "/v1/rotate", {"q": heads(7, 4, 0)}, params)).body
        for params in ({}, {"tensor_layout": "bshd"})
    ]
    assert bodies[0] == bodies[1]


async def test_merge_is_the_same_in_both(service: Running):
    parts = {"out": torch.randn(3, 1, 4, 5, 8), "lse": torch.randn(3, 1, 4, 5)}
    bodies = [
        (await ask(service, "/v1/merge", parts, params)).body
        for params in ({}, {"tensor_layout": "bhsd"})
    ]
    assert bodies[0] == bodies[1]


async def test_v2_has_the_layout(service: Running):
    tensors = swapped(qkv(7, 7))
    document = {
        "inputs": [wire(name, x, binary=True) for name, x in tensors.items()],
        "parameters": {"binary_data_output": True, "tensor_layout": "bhsd"},
    }
    text = json.dumps(document).encode()
    body = text + b"".join(map(raw, tensors.values()))
    length = {"inference_header_content_length": str(len(text))}
    client = await Client.connect(service.address)
    answers = {
        (await client.ask(post("/v2/models/rope_attention/infer", body, **length))).lasting
        for _ in range(3)
    }
    client.leave()
    ((status, _, found),) = answers
    assert status == 200
    expected = await ask(service, "/v1/attention", tensors, {"tensor_layout": "bhsd"})
    (out,) = safetensors_codec.decode(expected.body).message.tensors.values()
    assert raw(out) in found


MISCOUNT = (
    "{} has 4 tokens in axis S (shape [B=2, S=4, H=7, D=32]); {} has 7: are the axes [B, H, S, D]? "
    'Then send "tensor_layout": "bhsd"'
)
BSHD_FITS = 'if the axes are [B, S, H, D], leave "tensor_layout" out'
FITS = 'if the axes are [B, H, S, D], send "tensor_layout": "bhsd"'
REFUSED = {
    "positions": (
        "/v1/rotate",
        {"q": heads(4, 7, 0), "positions": torch.arange(7)},
        {},
        MISCOUNT.format("q", "positions"),
    ),
    "positions of attention": (
        "/v1/attention",
        swapped(qkv(7, 7)) | {"positions": torch.arange(7)},
        {},
        MISCOUNT.format("q", "q_positions"),
    ),
    "heads": ("/v1/attention", swapped(qkv(5, 9)), {}, FITS),
    "delta": (
        "/v1/shift",
        {"k": heads(4, 7, 0), "delta": torch.arange(7)},
        {},
        MISCOUNT.format("k", "delta"),
    ),
    "positions of bhsd": (
        "/v1/rotate",
        {"q": heads(7, 4, 0), "positions": torch.arange(7)},
        {"tensor_layout": "bhsd"},
        "q has 4 tokens in axis S (shape [B=2, H=7, S=4, D=32]); positions has 7: "
        'are the axes [B, S, H, D]? Then leave "tensor_layout" out',
    ),
    "positions of tokens": (
        "/v1/rotate",
        {"q": torch.zeros(4, 7, 32), "positions": torch.arange(7)},
        {},
        "q has 4 tokens in axis T (shape [T=4, H=7, D=32]); positions has 7: "
        "are the axes [H, T, D]? Then change the order",
    ),
    "mask of bhsd": (
        "/v1/attention",
        qkv() | PLACES | {"mask": torch.ones(5, 9)},
        {"tensor_layout": "bhsd"},
        BSHD_FITS,
    ),
    "heads and positions": (
        "/v1/rotate",
        {"q": heads(4, 7, 0), "k": heads(2, 7, 1), "positions": torch.arange(3)},
        {},
        FITS,
    ),
    "packed": (
        "/v1/rotate",
        {"q": torch.ones(4, 7, 8)},
        {"tensor_layout": "bhsd"},
        "q must be [B, H, S, D] with tensor_layout bhsd (packed [T, H, D] is for bshd only)",
    ),
    "packed parts": (
        "/v1/merge",
        {"out": torch.ones(2, 4, 7, 8), "lse": torch.ones(2, 4, 7)},
        {"tensor_layout": "bhsd"},
        "out must be [N, B, H, S, Dv] with tensor_layout bhsd",
    ),
    "heads of bhsd": (
        "/v1/attention",
        qkv() | {"k": heads(9, 3, 1)[:1]},
        {"tensor_layout": "bhsd"},
        "(both in the order [B, S, H, D])",
    ),
    "another": ("/v1/rotate", {"q": heads(4, 7, 0)}, {"tensor_layout": "hsd"}, "'bshd' or 'bhsd'"),
}


@pytest.mark.parametrize(("path", "tensors", "params", "text"), REFUSED.values(), ids=REFUSED)
async def test_refusals(service: Running, path, tensors, params, text):
    answer = await ask(service, path, tensors, params)
    assert answer.status == 422
    detail = json.loads(answer.body)["detail"]
    assert text in detail
    assert "transpose" not in detail  # the remedy of the library


async def test_an_error_that_no_layout_mends_has_no_hint(service: Running):
    tensors = {"q": heads(4, 7, 0), "positions": torch.arange(5)}
    detail = json.loads((await ask(service, "/v1/rotate", tensors, {})).body)["detail"]
    assert "tensor_layout" not in detail


async def test_fewer_keys_with_as_many_heads(service: Running):
    transposed = swapped(qkv(7, 7))  # [2, 4, 7, 32] and [2, 2, 7, 32]
    for params, is_suspicious in (
        ({}, True),
        ({"rope": None}, True),
        ({"rope": None, "causal": False}, False),
        ({"tensor_layout": "bhsd"}, False),
    ):
        answer = await ask(service, "/v1/attention", transposed, params)
        assert answer.status == 200
        assert (b"4 queries for 2 keys, with 7 heads each: if the" in answer.body) == is_suspicious


async def test_more_heads_than_tokens(service: Running):
    q = torch.zeros(1, 32, 300, 2)
    for tensors, path in (
        ({"q": q}, "/v1/rotate"),
        ({"q": q, "k": q, "v": q}, "/v1/attention"),
        ({"k": q, "delta": torch.tensor(1)}, "/v1/shift"),
    ):
        answer = await ask(service, path, tensors, {})
        (warning,) = safetensors_codec.decode(answer.body).message.params.values["warnings"]
        assert "has 32 tokens and 300 heads" in warning
        assert '"tensor_layout": "bhsd"' in warning
        quiet = await ask(service, path, tensors, {"tensor_layout": "bhsd"})
        assert "warnings" not in safetensors_codec.decode(quiet.body).message.params.values
    packed = await ask(service, "/v1/rotate", {"q": q[0]}, {})
    assert b"transpose the first two" in packed.body
    assert b"warnings" not in (await ask(service, "/v1/rotate", {"q": q[:, :, :256]}, {})).body
