"""Bad input: a problem document that names what is wrong, and never a 500."""

import pytest
import torch

from service.wire import CODECS, Message, Parameters
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import check_problem

pytestmark = every_test_in_one_loop

Q = torch.zeros(1, 2, 4, 8)


@pytest.fixture
def client(shared_client):
    return shared_client


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 415, "unsupported_media_type"),
        ({"content-type": "text/plain"}, 415, "unsupported_media_type"),
        ({"content-type": "application/octet-stream"}, 415, "unsupported_media_type"),
        (
            {"content-type": "application/json", "content-encoding": "gzip"},
            415,
            "unsupported_media_type",
        ),
        ({"content-type": "application/json", "accept": "text/html"}, 406, "not_acceptable"),
        ({"content-type": "application/json", "x-request-timeout-ms": "0"}, 400, "bad_header"),
        ({"content-type": "application/json", "x-request-timeout-ms": "-1"}, 400, "bad_header"),
        ({"content-type": "application/json", "x-request-timeout-ms": "nan"}, 400, "bad_header"),
        ({"content-type": "application/json", "x-request-timeout-ms": "1" * 30}, 400, "bad_header"),
    ],
)
async def test_headers_that_cannot_be(client, headers, status, code):
    response = await client.post("/v1/rotate", content=b'{"q": [[[1, 2]]]}', headers=headers)
    check_problem(response, status, code, "")
    if status == 415:
        assert response.headers["accept-encoding"] == "identity"


async def test_other_routes_and_methods_are_refused_in_the_same_form(client):
    check_problem(await client.get("/nowhere"), 404, "not_found", "")
    for path in ("/v1/rotate", "/v1/merge", "/v1/resolve", "/v1/positions"):
        refusal = await client.get(path)
        check_problem(refusal, 405, "method_not_allowed", "")
        assert refusal.headers["allow"] == "POST"
    for path in ("/healthz", "/v1/presets", "/v1/variants"):
        check_problem(await client.post(path), 405, "method_not_allowed", "")
    check_problem(await client.post("/v1/rotate/"), 404, "not_found", "")
    check_problem(await client.post("http://service//v1/rotate"), 404, "not_found", "")


async def test_a_body_over_the_limit_is_refused_unread(client):
    async def endless():
        for _ in range(1000):
            yield b" " * 2**16
        raise AssertionError("all of it was read")

    for codec, limit in zip(CODECS, (2**18, 2**20), strict=True):
        declared = {"content-type": codec.media_type, "content-length": str(limit + 1)}
        refusal = await client.post("/v1/rotate", content=endless(), headers=declared)
        check_problem(refusal, 413, "too_large", f"{limit:,}")
        undeclared = {"content-type": codec.media_type}
        refusal = await client.post("/v1/rotate", content=endless(), headers=undeclared)
        check_problem(refusal, 413, "too_large", f"{limit:,}")


async def test_a_number_beyond_any_float_is_no_message(client):
    params = b'{"rope": {"theta": 1' + b"0" * 400 + b"}}"
    refusal = await post(client, CODECS[1], "/v1/rotate", Message({"q": Q}, Parameters({}, params)))
    check_problem(refusal, 400, "bad_message", "params")
    body = b'{"q": [[[1, 2]]], ' + params[1:]
    headers = {"content-type": "application/json"}
    refusal = await client.post("/v1/rotate", content=body, headers=headers)
    check_problem(refusal, 400, "bad_message", "JSON")


async def test_a_bare_number_that_is_no_integer_is_named_for_what_it_is(client):
    for delta in (1.5, 2**64):
        body = f'{{"k": [[[1, 2]]], "delta": {delta}}}'
        headers = {"content-type": "application/json"}
        refusal = await client.post("/v1/shift", content=body, headers=headers)
        check_problem(refusal, 422, "shape", "delta must be made of integers")


async def test_an_answer_that_would_be_too_much_json(client):
    message = Message({"q": torch.zeros(1, 2**11, 1, 64)})
    refusal = await post(client, CODECS[1], "/v1/rotate", message, accept="application/json")
    check_problem(refusal, 413, "too_large", "application/json")


@pytest.mark.parametrize(
    ("dtype", "asked"),
    [(torch.bfloat16, {"out_dtype": "float32"}), (torch.float32, {"return_lse": True})],
    ids=["out in float32", "lse"],
)
async def test_an_answer_that_is_larger_for_what_was_asked(client, dtype, asked):
    q = torch.zeros(1, 2**20 // dtype.itemsize // 256 - 8, 4, 64, dtype=dtype)
    tensors = {"q": q, **dict.fromkeys("kv", q[:, :1])}
    message = Message(tensors, Parameters.of({"causal": False}))
    assert (await post(client, CODECS[1], "/v1/attention", message)).status_code == 200
    message = Message(tensors, Parameters.of({"causal": False, **asked}))
    refusal = await post(client, CODECS[1], "/v1/attention", message)
    check_problem(refusal, 413, "too_large", "an answer, in bytes, may be at most 1,048,576")


async def test_a_body_that_is_not_as_long_as_it_says(client):
    headers = {"content-type": "application/x-safetensors"}
    check_problem(
        await client.post("/v1/rotate", content=b"", headers=headers), 400, "bad_message", ""
    )
    json_headers = {"content-type": "application/json"}
    check_problem(
        await client.post("/v1/rotate", content=b"{", headers=json_headers), 400, "bad_message", ""
    )


async def test_what_a_client_sends_is_shown_short_and_plain(client):
    name = "\u202e\x1b[31m\n" + "x" * 2**16
    refusal = await client.post("/v1/rotate", json={"q": [[[1, 2]]], name: 1})
    check_problem(refusal, 422, "unknown", "unknown parameter")
    assert refusal.json()["detail"].isprintable()


async def test_a_config_in_an_error_is_shown_short(client, codec):
    for block in ({"rope_type": "x" * 2**16}, {"factor": "x" * 2**16, "rope_type": "linear"}):
        config = {"hidden_size": 8, "num_attention_heads": 1, "rope_scaling": block}
        params = Parameters.of({"rope": {"config": config}})
        refusal = await post(client, codec, "/v1/resolve", Message({}, params))
        check_problem(refusal, 422, "config", "rope.rope_scaling")


async def test_parameters_that_are_nested_too_deep(client, codec):
    params = b'{"rope": ' + b'{"config": ' * 240 + b"1" + b"}" * 241
    if codec.media_type == "application/json":
        headers = {"content-type": codec.media_type}
        refusal = await client.post("/v1/resolve", content=params, headers=headers)
    else:
        refusal = await post(client, codec, "/v1/resolve", Message({}, Parameters({}, params)))
    check_problem(refusal, 400, "bad_message", "nested too deep")


async def test_building_positions_ends_at_the_deadline(client, codec):
    arguments = {"length": 2**24}
    params = Parameters.of({"builder": "offset_positions", "arguments": arguments})
    late = {"x_request_timeout_ms": "5"}
    refusal = await post(client, codec, "/v1/positions", Message({}, params), **late)
    check_problem(refusal, 504, "timed_out", "deadline")
