"""A request that is not valid gets a problem document that names what is wrong, and never a 500."""

import gzip

import pytest
import torch

from service.wire import CODECS, NO_PARAMETERS, Message, Parameters, safetensors_codec
from tests.service.conftest import every_test_in_one_loop, post
from tests.service.messages import answered, check_problem

pytestmark = every_test_in_one_loop

Q = torch.zeros(1, 2, 4, 8)


@pytest.fixture
def client(shared_client):
    return shared_client


JSON = {"content-type": "application/json"}
SAFETENSORS = b"".join(safetensors_codec.encode(Message({"q": Q}, NO_PARAMETERS)))
CONTENT_TYPES = "Content-Type must be application/json or application/x-safetensors"


@pytest.mark.parametrize(
    ("headers", "status", "code", "words"),
    [
        ({}, 415, "unsupported_media_type", CONTENT_TYPES),
        ({"content-type": "text/plain"}, 415, "unsupported_media_type", CONTENT_TYPES),
        (
            {"content-type": "application/octet-stream"},
            415,
            "unsupported_media_type",
            CONTENT_TYPES,
        ),
        ({**JSON, "content-encoding": "gzip"}, 415, "unsupported_media_type", "identity"),
        ({**JSON, "accept": "text/html"}, 406, "not_acceptable", "Accept must allow"),
        *(
            ({**JSON, "x-request-timeout-ms": text}, 400, "bad_header", "X-Request-Timeout-Ms")
            for text in ("0", "-1", "nan", "1" * 30)
        ),
    ],
)
async def test_bad_headers(client, headers, status, code, words):
    response = await client.post("/v1/rotate", content=b'{"q": [[[1, 2]]]}', headers=headers)
    check_problem(response, status, code, words)
    if status == 415:
        assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("path", ["/nowhere", "/v1/rotate/", "http://service//v1/rotate"])
async def test_an_unknown_path_is_not_found(client, path):
    check_problem(await client.post(path), 404, "not_found", "GET /docs lists all routes")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/rotate", "no route /rotate; did you mean /v1/rotate? GET"),
        ("/v1/rotat", "no route /v1/rotat; did you mean /v1/rotate? GET"),
        ("/v1/rotate/", "did you mean /v1/rotate? GET"),
        ("/v1/cossin", "did you mean /v1/cos_sin? GET"),
        ("/v1", "did you mean /v1/attention or /v1/compare or "),
        ("/metric", "did you mean /metrics? GET"),
        ("/nothing%1b/like/it", "no route /nothing?/like/it; GET /docs"),
        ("/" + "x" * 4000, "xxx...; GET /docs"),
    ],
)
async def test_an_unknown_path_is_named_with_the_nearest_route(client, path, says):
    answer = await client.get(path)
    check_problem(answer, 404, "not_found", says)
    assert len(answer.json()["detail"]) < 400


async def test_an_unknown_path_of_oip_proposes_the_nearest(client):
    answer = await client.post("/v2/models/rope/infr")
    said = "no route /v2/models/rope/infr; did you mean /v2/models/rope/infer? "
    assert answer.json() == {"error": f"{said}GET /docs lists all routes"}
    assert "did you mean /v2?" in (await client.get("/v2/")).json()["error"]


@pytest.mark.parametrize("path", ["/v1/rotate", "/v1/merge", "/v1/resolve", "/v1/positions"])
async def test_a_route_that_computes_has_only_post(client, path):
    refusal = await client.get(path)
    check_problem(refusal, 405, "method_not_allowed", f"{path} takes POST, got GET")
    assert refusal.headers["allow"] == "POST"


PAGES = ["/", "/docs", "/metrics", "/healthz", "/v1/presets", "/v1/variants"]


@pytest.mark.parametrize("path", PAGES)
async def test_a_route_that_lists_has_only_get(client, path):
    refusal = await client.post(path)
    check_problem(refusal, 405, "method_not_allowed", f"{path} takes GET, got POST")
    assert refusal.headers["allow"] == "GET"


@pytest.mark.parametrize(
    "path", ["/v1/recent", "/openapi.json", "/static-offline-docs/favicon.png"]
)
async def test_a_file_has_get_and_head(client, path):
    refusal = await client.post(path)
    says = f"{path} takes GET or HEAD, got POST"
    check_problem(refusal, 405, "method_not_allowed", says)
    assert refusal.headers["allow"] == "GET, HEAD"


async def test_allow_names_the_methods_of_all_routes_with_a_path(client):
    refusal = await client.put("/v2/logging")
    assert refusal.headers["allow"] == "GET, POST"
    assert refusal.json() == {"error": "/v2/logging takes GET or POST, got PUT"}
    assert (await client.put("/v1/rotate")).headers["allow"] == "POST"


async def test_a_body_over_the_limit_is_not_read(client):
    async def endless():
        for _ in range(1000):
            yield b" " * 2**16
        raise AssertionError("the whole body was read")

    remedies = (
        "use safetensors (/v1) or binary tensor data (/v2), of which 1,048,576 are allowed, "
        "or raise ROPE_MAX_JSON_BYTES",
        "use smaller tensors, or raise ROPE_MAX_BODY_BYTES",
    )
    for codec, limit, remedy in zip(CODECS, (2**18, 2**20), remedies, strict=True):
        declared = {"content-type": codec.media_type, "content-length": str(limit + 1)}
        refusal = await client.post("/v1/rotate", content=endless(), headers=declared)
        check_problem(refusal, 413, "too_large", f"{limit:,}, got {limit + 1:,}; {remedy}")
        undeclared = {"content-type": codec.media_type}
        refusal = await client.post("/v1/rotate", content=endless(), headers=undeclared)
        check_problem(refusal, 413, "too_large", f"{limit:,}, got more; {remedy}")


async def test_a_number_beyond_any_float_is_a_bad_message(client):
    params = b'{"rope": {"theta": 1' + b"0" * 400 + b"}}"
    refusal = await post(client, CODECS[1], "/v1/rotate", Message({"q": Q}, Parameters({}, params)))
    check_problem(refusal, 400, "bad_message", "params")
    body = b'{"q": [[[1, 2]]], ' + params[1:]
    refusal = await client.post("/v1/rotate", content=body, headers=JSON)
    check_problem(refusal, 400, "bad_message", "the body is not valid JSON")


@pytest.mark.parametrize("delta", [1.5, 2**64])
async def test_a_bare_number_must_be_an_integer_of_64_bits(client, delta):
    body = f'{{"k": [[[1, 2]]], "delta": {delta}}}'
    refusal = await client.post("/v1/shift", content=body, headers=JSON)
    check_problem(refusal, 422, "shape", "delta must be made of integers")


async def test_an_answer_over_the_limit_of_json(client):
    message = Message({"q": torch.zeros(1, 2**11, 1, 64)})
    refusal = await post(client, CODECS[1], "/v1/rotate", message, accept="application/json")
    check_problem(refusal, 413, "too_large", "use safetensors (/v1)")


@pytest.mark.parametrize(
    ("dtype", "values"),
    [(torch.bfloat16, {"out_dtype": "float32"}), (torch.float32, {"return_lse": True})],
    ids=["out in float32", "lse"],
)
async def test_parameters_that_make_an_answer_too_large(client, dtype, values):
    q = torch.zeros(1, 2**20 // dtype.itemsize // 256 - 8, 4, 64, dtype=dtype)
    tensors = {"q": q, "k": q[:, :1], "v": torch.ones_like(q[:, :1])}
    message = Message(tensors, Parameters.of({"causal": False}))
    out = (await answered(client, CODECS[1], "/v1/attention", message)).tensors["out"]
    assert torch.equal(out, torch.ones_like(q)), "the value of the only key"
    message = Message(tensors, Parameters.of({"causal": False, **values}))
    refusal = await post(client, CODECS[1], "/v1/attention", message)
    check_problem(refusal, 413, "too_large", "an answer, in bytes, may be at most 1,048,576")


@pytest.mark.parametrize(
    ("media_type", "body", "words"),
    [
        ("application/x-safetensors", b"", "must begin with 8 bytes"),
        (
            "application/x-safetensors",
            b"\x09" + bytes(7) + b"{}",
            "ends after the body of 10 bytes",
        ),
        ("application/json", b"{", "not valid JSON"),
        ("application/json", SAFETENSORS, "send Content-Type: application/x-safetensors"),
        ("application/json", gzip.compress(b"{}", mtime=0), "/v1 reads no compressed bodies"),
        ("application/x-safetensors", b'{"q": [1.0]}', "send Content-Type: application/json"),
        (
            "application/x-safetensors",
            gzip.compress(b"{}", mtime=0),
            "/v1 reads no compressed bodies",
        ),
        ("application/json", b'{"q": [[[NaN, 0.0]]]}', "use safetensors"),
    ],
)
async def test_a_body_that_ends_early_or_has_another_format(client, media_type, body, words):
    refusal = await client.post("/v1/rotate", content=body, headers={"content-type": media_type})
    check_problem(refusal, 400, "bad_message", words)


async def test_an_error_shows_a_name_short_and_without_control_characters(client):
    name = "\u202e\x1b[31m\n" + "x" * 2**16
    refusal = await client.post("/v1/rotate", json={"q": [[[1, 2]]], name: 1})
    check_problem(refusal, 422, "unknown", "unknown parameter ??[31m?xxx")
    assert refusal.json()["detail"].isprintable()


@pytest.mark.parametrize("key", ["rope_type", "factor"])
async def test_an_error_shows_a_config_short(client, codec, key):
    block = {"rope_type": "linear", key: "x" * 2**16}
    config = {"hidden_size": 8, "num_attention_heads": 1, "rope_scaling": block}
    params = Parameters.of({"rope": {"config": config}})
    refusal = await post(client, codec, "/v1/resolve", Message({}, params))
    check_problem(refusal, 422, "config", f"rope.rope_scaling.{key}")


async def test_parameters_that_are_nested_too_deep(client, codec):
    params = b'{"rope": ' + b'{"config": ' * 240 + b"1" + b"}" * 241
    if codec.media_type == "application/json":
        refusal = await client.post("/v1/resolve", content=params, headers=JSON)
    else:
        refusal = await post(client, codec, "/v1/resolve", Message({}, Parameters({}, params)))
    check_problem(refusal, 400, "bad_message", "nested too deep")


async def test_building_positions_ends_at_the_deadline(client, codec):
    arguments = {"length": 2**24}
    params = Parameters.of({"builder": "offset_positions", "arguments": arguments})
    late = {"x_request_timeout_ms": "5"}
    refusal = await post(client, codec, "/v1/positions", Message({}, params), **late)
    check_problem(refusal, 504, "timed_out", "deadline")
