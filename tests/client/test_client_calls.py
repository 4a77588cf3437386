"""What is asked is what docs/api.md describes."""

import asyncio
import dataclasses
import inspect
import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import get_type_hints

import httpx
import ml_dtypes
import numpy as np
import pytest

from rope_client import AsyncClient, Client, RopeWarning, calls, wire
from rope_client.call import Options
from rope_client.wire.message import Message
from rope_core.positions import BUILDERS
from service.endpoints import position_builders

API = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
OF_SESSIONS = ("sessions", "step")
"""Routes whose arguments belong to sessions: `test_session_calls` has them."""
ROUTES = [
    row
    for row in re.findall(r"^\| `POST /v1/(\w+)` \|([^|]*)\|([^|]*)\|", API, re.MULTILINE)
    if row[0] not in OF_SESSIONS
]
DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16]

Q = np.arange(8, dtype=np.float32).reshape(1, 2, 1, 4)


def sent(request):
    return wire.codec_for(request.headers["content-type"]).decode(request.content)


def answered(message, codec=wire.safetensors_codec):
    headers = {"content-type": codec.MEDIA_TYPE}
    return httpx.Response(200, headers=headers, content=codec.encode(message))


def echo(request):
    tensors = sent(request).tensors
    kept = {name: tensors[name] for name in ("q", "k") if name in tensors}
    return answered(Message(kept, {}), wire.codec_for(request.headers["content-type"]))


def arguments(method):
    own = {"self", "options", *Options.__annotations__}
    return {name: p for name, p in inspect.signature(method).parameters.items() if name not in own}


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(("route", "tensors", "params"), ROUTES, ids=[each[0] for each in ROUTES])
def test_arguments_are_those_of_the_api(client, route, tensors, params):
    documented = set(re.findall(r"`(\w+)(?: \[[^`]*)?`", tensors + params))
    assert documented == arguments(getattr(client, route)).keys()


DOCUMENTED = dict(re.findall(r'^\| `(\w+)` \| `("?\w+"?)` \|', API, re.MULTILINE))
MODEL_PARAMS = ("causal", "window", "window_ahead", "chunk", "softcap", "scale")
"""What a model's config says where the request does not."""


OF_SERVICE = [
    "inverse",
    "return_lse",
    "to",
    "backend",
    "out_dtype",
    "q_offset",
    "k_offset",
    "k_stride",
    "rotate",
    "tensor_layout",
]


@pytest.mark.parametrize("name", OF_SERVICE)
def test_defaults_are_those_of_the_api(name):
    known = map(arguments, (calls.rotate, calls.attention, calls.shift, calls.merge))
    (ours,) = {p[name].default for p in known if name in p}
    assert ours == json.loads(DOCUMENTED[name])


async def test_what_a_model_may_say_is_sent_only_where_it_is_given(connect, answering):
    server = answering(lambda _: answered(Message({"out": Q}, {})))
    ask = connect(server)
    await ask("attention", q=Q, k=Q, v=Q)
    await ask("attention", q=Q, k=Q, v=Q, window=None, causal=False, scale=0.5)
    one, other = (sent(request).params for request in server.requests)
    assert one.keys().isdisjoint(MODEL_PARAMS)
    assert one["rope"] == {}
    assert other == {**one, "window": None, "causal": False, "scale": 0.5}
    assert all(arguments(calls.attention)[name].default is calls.UNSET for name in MODEL_PARAMS)
    assert DOCUMENTED.keys() >= set(MODEL_PARAMS)


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
    assert sent(request).params == {
        "rope": {"theta": 5e5},
        "inverse": False,
        "tensor_layout": "bshd",
        "backend": None,
    }


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
        ("cos_sin", {"positions": [0], "rope": "x"}, {"cos": Q, "sin": Q, "scale": Q}),
        ("shift", {"k": Q, "delta": -3}, {"k": Q}),
        ("merge", {"out": Q, "lse": Q[..., 0]}, {"out": Q, "lse": Q[..., 0]}),
    ],
)
async def test_what_the_answer_lacks_is_none(connect, answering, method, tensors, answer):
    params = {"attention_scaling": 1.5} if method == "cos_sin" else {}
    ask = connect(answering(lambda _: answered(Message(answer, params))))
    got = await ask(method, **tensors)

    for field in dataclasses.fields(got):
        expected = {"warnings": (), **answer, **params}.get(field.name)
        np.testing.assert_array_equal(getattr(got, field.name), expected)


@pytest.mark.parametrize(
    "rope",
    [{"theta": 5.0}, {"config": {"model_type": "llama"}, "layer": 3}, {"preset": "x"}, "x"],
    ids=["parameters", "config", "preset", "name"],
)
async def test_a_rope_of_each_form_is_sent_as_it_is(connect, answering, rope):
    everything = dict.fromkeys(("q", "k", "out", "cos", "sin"), Q)
    params = {"attention_scaling": 1.0, "rotates": True, "warnings": ["beware"]}
    server = answering(lambda _: answered(Message(everything, params)))
    ask = connect(server)
    for method, tensors in (
        ("rotate", {"q": Q}),
        ("attention", {"q": Q, "k": Q, "v": Q}),
        ("cos_sin", {"positions": [0, 1]}),
        ("shift", {"k": Q, "delta": 1, "to": rope}),
        ("resolve", {}),
    ):
        given = rope if rope == "x" else MappingProxyType(rope)
        with pytest.warns(RopeWarning, match="beware") if method == "rotate" else nullcontext():
            answer = await ask(method, **tensors, rope=given)
        assert answer.warnings == ("beware",)
        params_sent = sent(server.requests[-1]).params
        assert params_sent["rope"] == rope
        assert params_sent.get("to") == (rope if method == "shift" else None)


async def test_an_index_travels_as_a_tensor_or_as_parameters(connect, answering):
    server = answering(lambda _: answered(Message({"out": Q}, {})))
    ask = connect(server)
    await ask("attention", q=Q, k=Q, v=Q, q_index=[4, 5], k_index=[[1, 5]])
    await ask("attention", q=Q, k=Q, v=Q, q_offset=4, k_offset=1, k_stride=4)
    one, other = map(sent, server.requests)
    np.testing.assert_array_equal(one.tensors["q_index"], [4, 5])
    np.testing.assert_array_equal(one.tensors["k_index"], [[1, 5]])
    assert one.tensors["q_index"].dtype == np.int64
    assert other.tensors.keys() == set("qkv")
    given = {name: other.params[name] for name in ("q_offset", "k_offset", "k_stride")}
    assert given == {"q_offset": 4, "k_offset": 1, "k_stride": 4}


async def test_a_backend_is_asked_for_by_its_name(connect, answering):
    server = answering(lambda _: answered(Message(dict.fromkeys(("q", "k", "out"), Q), {})))
    ask = connect(server)
    for method, tensors in (
        ("rotate", {"q": Q}),
        ("attention", {"q": Q, "k": Q, "v": Q}),
        ("shift", {"k": Q, "delta": 1}),
        ("merge", {"out": Q, "lse": Q[..., 0]}),
    ):
        await ask(method, **tensors, backend="eager")
        assert sent(server.requests[-1]).params["backend"] == "eager"


async def test_learned_frequencies_travel(connect, answering):
    server = answering(echo)
    await connect(server)("rotate", q=Q, frequencies=Q[0], rope="x")
    np.testing.assert_array_equal(sent(server.requests[0]).tensors["frequencies"], Q[0])


async def test_what_a_config_says(connect, answering):
    facts = {"rotates": True, "rope": {"head_dim": 4}, "provenance": {"head_dim": "given"}}
    said = Message({"inv_freq": Q[0, 0, 0]}, facts | {"warnings": ["a", "b"]})
    with pytest.warns(RopeWarning, match="^[ab]$"):
        answer = await connect(answering(lambda _: answered(said)))("resolve", rope="x")
    assert (answer.facts, answer.warnings) == (facts, ("a", "b"))
    np.testing.assert_array_equal(answer.inv_freq, Q[0, 0, 0])

    none = Message({}, {"rotates": False, "nope": "why"})
    answer = await connect(answering(lambda _: answered(none)))("resolve", rope="x")
    assert (answer.inv_freq, answer.facts["nope"], answer.warnings) == (None, "why", ())


async def test_positions_of_a_builder(connect, answering):
    made = {"q_near": Q, "k_near": Q}
    server = answering(
        lambda _: answered(Message({"positions": Q}, {})), lambda _: answered(Message(made, {}))
    )
    ask = connect(server)
    answer = await ask("positions", builder="a", sizes=np.array([2, 3]), uid=[1, 2])
    np.testing.assert_array_equal(answer.positions, Q)
    assert sent(server.requests[0]).params == {"builder": "a", "arguments": {"sizes": [2, 3]}}
    assert sent(server.requests[0]).tensors.keys() == {"uid"}
    np.testing.assert_array_equal(sent(server.requests[0]).tensors["uid"], [1, 2])
    answer = await ask("positions", builder="b", timeout_s=0.5, request_id="mine")
    assert answer.positions is None
    assert answer.tensors.keys() == made.keys()
    headers = server.requests[1].headers
    assert (headers["x-request-timeout-ms"], headers["x-request-id"]) == ("500", "mine")


def test_the_tensors_of_builders_are_those_of_the_service():
    assert set(position_builders.TENSOR_ARGUMENTS) == calls.TENSOR_ARGUMENTS
    others = {
        name
        for builder in BUILDERS.values()
        for name, hint in get_type_hints(builder.function).items()
        if not position_builders.is_tensor(hint)
    }
    assert others.isdisjoint(calls.TENSOR_ARGUMENTS)
    assert others.isdisjoint({"builder", *Options.__annotations__})


async def test_the_catalogue(connect, answering):
    presets = [{"name": "a", "config": {}, "source": "b"}]
    server = answering(
        httpx.Response(200, json={"presets": presets}), httpx.Response(200, json={"variants": []})
    )
    ask = connect(server)
    assert await ask("presets") == presets
    assert await ask("variants") == {"variants": []}
    assert [r.url.path for r in server.requests] == ["/v1/presets", "/v1/variants"]


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


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_a_unix_socket_is_asked_by_its_path(connect, tmp_path, form):
    path = tmp_path / "rope.sock"
    requests = []

    async def answer(reader, writer):
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        writer.close()

    async with await asyncio.start_unix_server(answer, path):
        ask = connect(base_url=form.format(path))
        # the blocking client would block the loop of the server
        assert await asyncio.to_thread(asyncio.run, ask("version")) == {}
    (request,) = requests
    assert request.startswith(b"GET /version HTTP/1.1\r\nHost: localhost\r\n")
