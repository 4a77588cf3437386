"""Bad input: a problem document that names what is wrong, and never a 500."""

import re

import pytest
import torch

from service.wire import CODECS, Message, Parameters
from tests.service.conftest import every_test_in_one_loop, post

pytestmark = every_test_in_one_loop

Q = torch.zeros(1, 2, 4, 8)
K = torch.zeros(1, 2, 2, 8)
PACKED = torch.zeros(4, 2, 8)
INTERNALS = re.compile(r"Traceback|File \"|/site-packages|torch\.|0x[0-9a-f]{6}|\.py")


@pytest.fixture
def client(shared_client):
    return shared_client


def cu(*values: int) -> torch.Tensor:
    return torch.tensor(values)


ROTATE = [  # tensors, params, status, code, what the detail names
    ({}, {}, 422, "shape", "q or k"),
    ({"q": torch.zeros(8)}, {}, 422, "shape", "q must be [B, S, H, D]"),
    ({"q": torch.zeros(())}, {}, 422, "config", "head_dim"),
    (
        {"q": torch.zeros(8), "positions": torch.tensor(3)},
        {},
        422,
        "shape",
        "q must be [B, S, H, D]",
    ),
    ({"q": torch.zeros(1, 2, 3, 4, 8)}, {}, 422, "shape", "q must be [B, S, H, D]"),
    ({"q": Q.long()}, {}, 422, "shape", "q must be float32"),
    ({"q": Q.double()}, {}, 422, "shape", "q must be float32"),
    ({"q": torch.zeros(1, 2, 4, 7)}, {}, 422, "config", "rotary_dim must be even"),
    ({"q": torch.zeros(1, 2, 4, 0)}, {}, 422, "config", "head_dim"),
    ({"q": torch.zeros(1, 2, 0, 8)}, {}, 422, "shape", "at least one head"),
    ({"q": Q, "k": K.half()}, {}, 422, "shape", "k must be"),
    ({"q": Q, "k": K[:, :1]}, {}, 422, "shape", "k must be"),
    ({"q": Q, "x": Q}, {}, 422, "unknown", "unknown tensor x"),
    ({"q": Q, "positions": cu(0, 1, 2)}, {}, 422, "shape", "positions must be [2] or [1, 2]"),
    ({"q": Q, "positions": torch.zeros(2).half()}, {}, 422, "shape", "positions must be int64"),
    ({"q": Q, "cu_seqlens": cu(0, 2)}, {}, 422, "shape", "cu_seqlens must be absent"),
    ({"q": PACKED, "cu_seqlens": cu(0, 3)}, {}, 422, "shape", "cu_seqlens must be from 0 to 4"),
    ({"q": PACKED, "cu_seqlens": cu(0, 3, 1, 4)}, {}, 422, "shape", "non-decreasing"),
    ({"q": PACKED, "cu_seqlens": cu()}, {}, 422, "shape", "cu_seqlens"),
    ({"q": Q}, {"inverze": True}, 422, "unknown", "inverze"),
    ({"q": Q}, {"inverse": "yes"}, 422, "config", "inverse must be a valid boolean"),
    ({"q": Q}, {"inverse": 1}, 422, "config", "inverse"),
    ({"q": Q}, {"rope": None}, 422, "config", "rope"),
    ({"q": Q}, {"rope": "llama"}, 422, "config", "rope"),
    ({"q": Q}, {"rope": {"theta": 0}}, 422, "config", "theta must be finite"),
    ({"q": Q}, {"rope": {"theta": -1}}, 422, "config", "theta"),
    ({"q": Q}, {"rope": {"theta": 1e308}}, 422, "config", "theta"),
    ({"q": Q}, {"rope": {"theta": 1e-320}}, 422, "config", "theta"),
    ({"q": Q}, {"rope": {"theta": "10000"}}, 422, "config", "rope.theta"),
    ({"q": Q}, {"rope": {"theta": True}}, 422, "config", "rope.theta"),
    ({"q": Q}, {"rope": {"theta": None}}, 422, "config", "rope.theta"),
    ({"q": Q}, {"rope": {"layout": "neox"}}, 422, "config", "rope.layout"),
    ({"q": Q}, {"rope": {"rotary_dim": 3}}, 422, "config", "rotary_dim must be even"),
    ({"q": Q}, {"rope": {"rotary_dim": 0}}, 422, "config", "rotary_dim"),
    ({"q": Q}, {"rope": {"rotary_dim": 10}}, 422, "config", "rotary_dim"),
    ({"q": Q}, {"rope": {"rotary_dim": -2}}, 422, "config", "rotary_dim"),
    ({"q": Q}, {"rope": {"rotary_dim": 2**63}}, 422, "config", "rotary_dim"),
    ({"q": Q}, {"rope": {"head_dim": 16}}, 422, "shape", "q must be of head_dim 16"),
    ({"q": Q}, {"rope": {"head_dim": 0}}, 422, "config", "head_dim"),
    ({"q": Q}, {"rope": {"rope_type": "yarm"}}, 422, "config", "rope.rope_type"),
    ({"q": Q}, {"backend": "eager"}, 422, "config", "backend must be absent: the operator"),
    ({"q": Q}, {"rope": {"base": 1e4}}, 422, "unknown", "rope.base"),
]
QKV = {"q": Q, "k": K, "v": K}
ATTENTION = [
    ({"q": Q}, {}, 422, "shape", "k must be a tensor"),
    ({**QKV, "v": K[:, :1]}, {}, 422, "shape", "v must be of k's shape"),
    ({**QKV, "k": torch.zeros(1, 2, 3, 8)}, {}, 422, "shape", "v must be"),
    (
        dict.fromkeys("kv", torch.zeros(1, 2, 3, 8)) | {"q": Q},
        {},
        422,
        "shape",
        "multiple of k's 3",
    ),
    (dict.fromkeys("kv", torch.zeros(1, 2, 0, 8)) | {"q": Q}, {}, 422, "shape", "k must be"),
    (dict.fromkeys("kv", torch.zeros(1, 2, 2, 6)) | {"q": Q}, {}, 422, "shape", "k must be"),
    (
        dict.fromkeys("kv", torch.zeros(2, 2, 2, 8)) | {"q": Q},
        {},
        422,
        "shape",
        "k must be of batch",
    ),
    ({**QKV, "v": K.half()}, {}, 422, "shape", "q, k and v"),
    ({**QKV, "positions": cu(0, 1), "q_positions": cu(0, 1)}, {}, 422, "shape", "positions"),
    ({**QKV, "cu_seqlens_q": cu(0, 2)}, {}, 422, "shape", "cu_seqlens"),
    (QKV, {"causal": "yes"}, 422, "config", "causal"),
    (QKV, {"window": 0}, 422, "config", "window"),
    (QKV, {"window": -1}, 422, "config", "window"),
    (QKV, {"window_ahead": 1}, 422, "config", "window_ahead must be 0 unless there is a window"),
    (QKV, {"window_ahead": 1, "window": 2}, 422, "config", "window_ahead must be 0"),
    (QKV, {"window_ahead": None}, 422, "config", "window_ahead"),
    (QKV, {"window_ahead": -1}, 422, "config", "window_ahead"),
    (QKV, {"chunk": 0}, 422, "config", "chunk must be in [1"),
    (QKV, {"chunk": 1.5}, 422, "config", "chunk"),
    (QKV, {"chunk": 2**63}, 422, "config", "chunk"),
    ({**QKV, "sinks": torch.zeros(3)}, {}, 422, "shape", "sinks must be [4]"),
    ({**QKV, "sinks": torch.zeros(4).double()}, {}, 422, "shape", "sinks must be float32"),
    ({**QKV, "sinks": torch.zeros(4) / 0}, {}, 422, "shape", "sinks must be of finite numbers"),
    ({**QKV, "mask": torch.zeros(3, 2)}, {}, 422, "shape", "mask must be [2, 2] or [1, 4, 2, 2]"),
    ({**QKV, "mask": torch.zeros(1, 2, 2)}, {}, 422, "shape", "mask must be [2, 2] or"),
    ({**QKV, "mask": torch.zeros(2, 2).long()}, {}, 422, "shape", "mask must be bool, float32"),
    ({**QKV, "mask": torch.zeros(2, 2) / 0}, {}, 422, "shape", "mask must be of finite numbers"),
    ({**QKV, "mask": torch.ones(2, 2) / 0}, {}, 422, "shape", "mask must be of finite numbers"),
    ({**QKV, "q": Q > 0}, {}, 422, "shape", "q must be float32, float16 or bfloat16, got bool"),
    ({**QKV, "positions": cu(0, 1) > 0}, {}, 422, "shape", "q_positions must be int64"),
    (QKV, {"window": 1.5}, 422, "config", "window"),
    (QKV, {"window": 2**63}, 422, "config", "window"),
    (QKV, {"softcap": 0}, 422, "config", "softcap"),
    (QKV, {"softcap": 1e39}, 422, "config", "softcap"),
    (QKV, {"scale": -1e39}, 422, "config", "scale"),
    (QKV, {"scale": "1"}, 422, "config", "scale"),
    (QKV, {"return_lse": None}, 422, "config", "return_lse"),
    (QKV, {"window_size": 3}, 422, "unknown", "window_size"),
    (QKV, {"backend": "math"}, 422, "config", "backend must be 'sdpa'"),
    (QKV, {"backend": "sdpa"}, 422, "config", "backend must be absent: the operator"),
    (QKV, {"out_dtype": "float16"}, 422, "config", "out_dtype must be 'float32'"),
    (QKV, {"out_dtype": 32}, 422, "config", "out_dtype must be 'float32'"),
    ({**QKV, "k_index": cu(0, 4)}, {}, 422, "shape", "q_index must be given where k_index is"),
    ({**QKV, "q_index": cu(0, 1, 2)}, {}, 422, "shape", "q_index must be [2] or [1, 2], got [3]"),
    ({**QKV, "q_index": torch.zeros(2)}, {}, 422, "shape", "q_index must be int64, got float32"),
    ({**QKV, "q_index": cu(0, 1) > 0}, {}, 422, "shape", "q_index must be int64, got bool"),
    ({**QKV, "q_index": cu(0, 2**62)}, {}, 422, "shape", "q_index must be in [-2**62, 2**62)"),
    (QKV, {"k_offset": 1}, 422, "config", "q_offset must be given where k_offset or k_stride is"),
    (QKV, {"k_stride": 2}, 422, "config", "q_offset must be given where k_offset or k_stride is"),
    (
        {**QKV, "k_index": cu(0, 4)},
        {"k_offset": 1},
        422,
        "config",
        "k_offset must be absent where the tensor k_index is given, got 1",
    ),
    (
        {**QKV, "q_index": cu(0, 1), "k_index": cu(0, 4)},
        {"k_stride": 4},
        422,
        "config",
        "k_stride must be absent where the tensor k_index is given, got 4",
    ),
    (
        {**QKV, "q_index": cu(0, 1)},
        {"q_offset": 0},
        422,
        "config",
        "q_offset must be absent where the tensor q_index is given, got 0",
    ),
    (
        QKV,
        {"q_offset": 2**62 - 1},
        422,
        "config",
        "the index of the last of q, 4611686018427387903",
    ),
    (
        QKV,
        {"q_offset": 0, "k_stride": 2**62 - 1, "k_offset": 1},
        422,
        "config",
        "last of k, 1 + 46",
    ),
    (QKV, {"q_offset": 2**62}, 422, "config", "q_offset must be less than or equal to 46"),
    (QKV, {"q_offset": 2**63 - 1}, 422, "config", "q_offset must be"),
    (QKV, {"q_offset": -(2**63)}, 422, "config", "q_offset must be greater than or equal to -46"),
    (QKV, {"q_offset": 1.5}, 422, "config", "q_offset must be a valid integer"),
    (QKV, {"q_offset": 0, "k_stride": 0}, 422, "config", "k_stride must be greater than or equal"),
    (QKV, {"q_offset": 0, "k_stride": -1}, 422, "config", "k_stride"),
    (QKV, {"q_offset": 0, "k_stride": 2**63 - 1}, 422, "config", "k_stride"),
    (QKV, {"q_offset": 0, "k_stride": None}, 422, "config", "k_stride"),
    ({**QKV, "q": torch.zeros(8)}, {"q_offset": 0}, 422, "shape", "q must be [B, S, H, D]"),
    ({**QKV, "k": torch.zeros(())}, {"q_offset": 0, "k_offset": 1}, 422, "shape", "k must be"),
    ({**QKV, "cu_seqlens": cu(0, 2)}, {"q_offset": 0}, 422, "shape", "cu_seqlens_q must be absent"),
    (
        {**dict.fromkeys("qkv", PACKED), "cu_seqlens": cu(0, 3, 1, 4)},
        {"q_offset": 0, "k_offset": 1},
        422,
        "shape",
        "non-decreasing",
    ),
]
OTHERS = [
    ("/v1/cos_sin", {}, {}, 422, "shape", "positions"),
    ("/v1/cos_sin", {"positions": cu(0)}, {}, 422, "config", "rope.head_dim"),
    ("/v1/cos_sin", {"positions": cu(0)}, {"rope": {"head_dim": 2**31}}, 422, "config", "head_dim"),
    ("/v1/cos_sin", {"positions": cu(0)}, {"rope": {"head_dim": -8}}, 422, "config", "head_dim"),
    (
        "/v1/cos_sin",
        {"positions": torch.zeros(2**13, dtype=torch.int64)},
        {"rope": {"head_dim": 8192}},
        413,
        "too_large",
        "answer",
    ),
    ("/v1/shift", {"k": K}, {}, 422, "shape", "delta"),
    ("/v1/shift", {"k": K, "delta": cu(1, 2, 3)}, {}, 422, "shape", "delta must be [2]"),
    ("/v1/shift", {"k": K, "delta": torch.tensor(1.5)}, {}, 422, "shape", "delta must be int64"),
    (
        "/v1/cos_sin",
        {"positions": torch.tensor([1e305], dtype=torch.float64)},
        {"rope": {"head_dim": 8}},
        422,
        "shape",
        "positions",
    ),
    (
        "/v1/rotate",
        {"q": PACKED, "cu_seqlens": torch.zeros(5000, dtype=torch.int32)},
        {},
        422,
        "shape",
        "cu_seqlens must be of at most",
    ),
    ("/v1/resolve", {}, {}, 422, "config", "rope must be given, got none"),
    (
        "/v1/resolve",
        {"q": Q},
        {"rope": "x"},
        422,
        "unknown",
        "unknown tensor q; this route knows none",
    ),
    ("/v1/resolve", {}, {"rope": "x", "layer": 1}, 422, "unknown", "unknown parameter layer"),
    ("/v1/positions", {"q": Q}, {"builder": "x"}, 422, "unknown", "unknown tensor q"),
    ("/v1/positions", {}, {"builder": "x"}, 422, "config", "builder must be 'token_types'"),
    ("/v1/positions", {}, {"builder": "token_types", "rope": {}}, 422, "unknown", "parameter rope"),
    ("/v1/shift", {"k": K, "delta": cu(1, 2)}, {"to": {}}, 422, "shape", "positions must be given"),
    (
        "/v1/shift",
        {"k": K, "delta": cu(1, 2)},
        {"backend": "eager"},
        422,
        "config",
        "backend must be absent: the operator",
    ),
    (
        "/v1/merge",
        {"out": Q, "lse": Q[..., 0]},
        {"backend": "eager"},
        422,
        "config",
        "backend must be absent: the operator",
    ),
    ("/v1/cos_sin", {"positions": cu(0)}, {"backend": "eager"}, 422, "unknown", "backend"),
    ("/v1/merge", {"out": Q, "lse": Q}, {}, 422, "shape", "lse"),
    ("/v1/merge", {"out": Q, "lse": Q[..., 0].half()}, {}, 422, "shape", "lse must be float32"),
    ("/v1/merge", {"out": Q, "lse": Q[..., 0]}, {"n": 1}, 422, "unknown", "n"),
]
CASES = [("/v1/rotate", *case) for case in ROTATE]
CASES += [("/v1/attention", *case) for case in ATTENTION] + OTHERS


def check(response, status: int, code: str, names: str) -> None:
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert names in problem["detail"]
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["type"] == f"urn:rope-service:problem:{code}"
    assert problem["status"] == status
    assert problem["error"] == problem["detail"]
    assert len(response.content) < 4096
    assert not INTERNALS.search(response.text)


@pytest.mark.parametrize(("path", "tensors", "params", "status", "code", "names"), CASES)
async def test_what_does_not_fit_is_named(
    client, codec, path, tensors, params, status, code, names
):
    message = Message(tensors, Parameters.of(params))
    check(await post(client, codec, path, message, as_base64=True), status, code, names)


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
    check(response, status, code, "")
    if status == 415:
        assert response.headers["accept-encoding"] == "identity"


async def test_other_routes_and_methods_are_refused_in_the_same_form(client):
    check(await client.get("/nowhere"), 404, "not_found", "")
    for path in ("/v1/rotate", "/v1/merge", "/v1/resolve", "/v1/positions"):
        refusal = await client.get(path)
        check(refusal, 405, "method_not_allowed", "")
        assert refusal.headers["allow"] == "POST"
    for path in ("/healthz", "/v1/presets", "/v1/variants"):
        check(await client.post(path), 405, "method_not_allowed", "")
    check(await client.post("/v1/rotate/"), 404, "not_found", "")
    check(await client.post("http://service//v1/rotate"), 404, "not_found", "")


async def test_a_body_over_the_limit_is_refused_unread(client):
    async def endless():
        for _ in range(1000):
            yield b" " * 2**16
        raise AssertionError("all of it was read")

    for codec, limit in zip(CODECS, (2**18, 2**20), strict=True):
        declared = {"content-type": codec.media_type, "content-length": str(limit + 1)}
        refusal = await client.post("/v1/rotate", content=endless(), headers=declared)
        check(refusal, 413, "too_large", f"{limit:,}")
        undeclared = {"content-type": codec.media_type}
        refusal = await client.post("/v1/rotate", content=endless(), headers=undeclared)
        check(refusal, 413, "too_large", f"{limit:,}")


async def test_a_number_beyond_any_float_is_no_message(client):
    params = b'{"rope": {"theta": 1' + b"0" * 400 + b"}}"
    refusal = await post(client, CODECS[1], "/v1/rotate", Message({"q": Q}, Parameters({}, params)))
    check(refusal, 400, "bad_message", "params")
    body = b'{"q": [[[1, 2]]], ' + params[1:]
    headers = {"content-type": "application/json"}
    refusal = await client.post("/v1/rotate", content=body, headers=headers)
    check(refusal, 400, "bad_message", "JSON")


async def test_a_bare_number_that_is_no_integer_is_named_for_what_it_is(client):
    for delta in (1.5, 2**64):
        body = f'{{"k": [[[1, 2]]], "delta": {delta}}}'
        headers = {"content-type": "application/json"}
        refusal = await client.post("/v1/shift", content=body, headers=headers)
        check(refusal, 422, "shape", "delta must be made of integers")


async def test_an_answer_that_would_be_too_much_json(client):
    message = Message({"q": torch.zeros(1, 2**11, 1, 64)})
    refusal = await post(client, CODECS[1], "/v1/rotate", message, accept="application/json")
    check(refusal, 413, "too_large", "an answer in JSON")


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
    check(refusal, 413, "too_large", "an answer, in bytes, may be at most 1,048,576")


async def test_a_body_that_is_not_as_long_as_it_says(client):
    headers = {"content-type": "application/x-safetensors"}
    check(await client.post("/v1/rotate", content=b"", headers=headers), 400, "bad_message", "")
    json_headers = {"content-type": "application/json"}
    check(
        await client.post("/v1/rotate", content=b"{", headers=json_headers), 400, "bad_message", ""
    )


async def test_what_a_client_sends_is_shown_short_and_plain(client):
    name = "\u202e\x1b[31m\n" + "x" * 2**16
    refusal = await client.post("/v1/rotate", json={"q": [[[1, 2]]], name: 1})
    check(refusal, 422, "unknown", "unknown parameter")
    assert refusal.json()["detail"].isprintable()


async def test_a_config_in_an_error_is_shown_short(client, codec):
    for block in ({"rope_type": "x" * 2**16}, {"factor": "x" * 2**16, "rope_type": "linear"}):
        config = {"hidden_size": 8, "num_attention_heads": 1, "rope_scaling": block}
        params = Parameters.of({"rope": {"config": config}})
        refusal = await post(client, codec, "/v1/resolve", Message({}, params))
        check(refusal, 422, "config", "rope.rope_scaling")


async def test_parameters_that_are_nested_too_deep(client, codec):
    params = b'{"rope": ' + b'{"config": ' * 240 + b"1" + b"}" * 241
    if codec.media_type == "application/json":
        headers = {"content-type": codec.media_type}
        refusal = await client.post("/v1/resolve", content=params, headers=headers)
    else:
        refusal = await post(client, codec, "/v1/resolve", Message({}, Parameters({}, params)))
    check(refusal, 400, "bad_message", "nested too deep")


async def test_building_positions_ends_at_the_deadline(client, codec):
    arguments = {"length": 2**24}
    params = Parameters.of({"builder": "offset_positions", "arguments": arguments})
    late = {"x_request_timeout_ms": "5"}
    refusal = await post(client, codec, "/v1/positions", Message({}, params), **late)
    check(refusal, 504, "timed_out", "deadline")
