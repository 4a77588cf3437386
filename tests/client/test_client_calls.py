"""What is asked is what docs/api.md describes."""

import dataclasses
import inspect
import json
import re
from pathlib import Path

import httpx
import ml_dtypes
import numpy as np
import pytest

from rope_client import AsyncClient, Client, calls, wire
from rope_client.wire.message import Message

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
ROUTES = re.findall(r"^\| `POST /v1/(\w+)` \|([^|]*)\|([^|]*)\|", API, re.MULTILINE)
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]

Q = np.arange(8, dtype=np.float32).reshape(1, 2, 1, 4)


def sent(request):
    return wire.codec_for(request.headers["content-type"]).decode(request.content)


def answered(message, codec=wire.safetensors):
    headers = {"content-type": codec.MEDIA_TYPE}
    return httpx.Response(200, headers=headers, content=codec.encode(message))


def echo(request):
    tensors = sent(request).tensors
    kept = {name: tensors[name] for name in ("q", "k") if name in tensors}
    return answered(Message(kept, {}), wire.codec_for(request.headers["content-type"]))


def arguments(method):
    own = {"self", "options"}
    return {name: p for name, p in inspect.signature(method).parameters.items() if name not in own}


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(("route", "tensors", "params"), ROUTES, ids=[each[0] for each in ROUTES])
def test_arguments_are_those_of_the_api(client, route, tensors, params):
    documented = set(re.findall(r"`(\w+)(?: \[[^`]*)?`", tensors + params))
    assert documented == arguments(getattr(client, route)).keys()


@pytest.mark.parametrize("name", ["inverse", "causal", "window", "softcap", "scale", "return_lse"])
def test_defaults_are_those_of_the_api(name):
    (documented,) = re.findall(rf"^\| `{name}` \| `(\w+)` \|", API, re.MULTILINE)
    (ours,) = {
        p[name].default for p in map(arguments, (calls.rotate, calls.attention)) if name in p
    }
    assert ours == json.loads(documented)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("encoding", wire.CODECS)
async def test_arrays_go_out_and_come_back_as_they_are(connect, answering, dtype, encoding):
    server = answering(echo)
    ask = connect(server, encoding=encoding)
    q, k = Q.astype(dtype), -Q.astype(dtype)
    answer = await ask("rotate", q=q, k=k, positions=[3, 4], rope={"theta": 5e5})

    assert answer.q.dtype == answer.k.dtype == dtype
    np.testing.assert_array_equal(answer.q, q)
    np.testing.assert_array_equal(answer.k, k)
    (request,) = server.requests
    assert (request.method, request.url.path) == ("POST", "/v1/rotate")
    assert request.headers["accept"] == request.headers["content-type"]
    assert request.headers["content-type"] == wire.CODECS[encoding].MEDIA_TYPE
    assert sent(request).tensors["positions"].dtype == np.int64
    assert sent(request).params == {"rope": {"theta": 5e5}, "inverse": False}


async def test_a_body_of_many_pieces_arrives_whole_at_each_attempt(connect, answering):
    server = answering(httpx.Response(503), echo)
    q = np.arange(3 << 20, dtype=np.float32)
    np.testing.assert_array_equal((await connect(server)("rotate", q=q)).q, q)
    first, second = (request.content for request in server.requests)
    assert first == second


@pytest.mark.parametrize(
    ("method", "tensors", "answer"),
    [
        ("rotate", {"k": Q}, {"k": Q}),
        ("attention", {"q": Q, "k": Q, "v": Q}, {"out": Q, "lse": Q[..., 0]}),
        ("attention", {"q": Q, "k": Q, "v": Q, "q_positions": [0, 1]}, {"out": Q}),
        ("cos_sin", {"positions": [[0, 1]], "rope": {"head_dim": 4}}, {"cos": Q, "sin": Q}),
        ("shift", {"k": Q, "delta": -3}, {"k": Q}),
        ("merge", {"out": Q, "lse": Q[..., 0]}, {"out": Q, "lse": Q[..., 0]}),
    ],
)
async def test_what_the_answer_lacks_is_none(connect, answering, method, tensors, answer):
    params = {"attention_scaling": 1.5} if method == "cos_sin" else {}
    ask = connect(answering(lambda _: answered(Message(answer, params))))
    got = await ask(method, **tensors)

    for field in dataclasses.fields(got):
        expected = {**answer, **params}.get(field.name)
        np.testing.assert_array_equal(getattr(got, field.name), expected)


async def test_no_rotation_and_the_default_one_are_two_things(connect, answering):
    server = answering(lambda _: answered(Message({"out": Q}, {})))
    ask = connect(server)
    await ask("attention", q=Q, k=Q, v=Q)
    await ask("attention", q=Q, k=Q, v=Q, rope=None)
    assert [sent(request).params["rope"] for request in server.requests] == [{}, None]


@pytest.mark.parametrize("status", [200, 503])
async def test_ready_is_asked_once(connect, answering, status):
    server = answering(httpx.Response(status, text="whatever"))
    assert await connect(server)("ready") is (status == 200)
    assert [(each.method, each.url.path) for each in server.requests] == [("GET", "/readyz")]


async def test_a_service_out_of_reach_is_not_ready(connect, answering):
    assert await connect(answering(httpx.ConnectError("refused")))("ready") is False


async def test_version(connect, answering):
    said = {"version": "0.1.0", "backends": ["eager"]}
    assert await connect(answering(httpx.Response(200, json=said)))("version") == said


async def test_a_misspelt_argument_is_not_ignored(connect, answering):
    with pytest.raises(TypeError, match="positons"):
        await connect(answering())("rotate", q=Q, positons=[0, 1])
