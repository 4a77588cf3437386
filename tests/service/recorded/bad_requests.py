"""Requests that are refused, one or more for each status and code."""

import json
from collections.abc import Iterator
from typing import Any

import torch

from tests.service.recorded.http_requests import (
    BINARY_LENGTH,
    Case,
    case,
    get,
    post,
    post_json,
    post_safetensors,
    request,
    safetensors,
)
from tests.service.recorded.tensors import heads, integers, nested, shaped, wire

Q = heads(1, 2, 2, 4)
LISTS = {"q": nested(Q)}
JSON = "application/json"
INFER = "/v2/models/rope/infer"


def cases() -> Iterator[Case]:
    yield from routing()
    yield from headers()
    yield from framing()
    yield from bodies()
    yield from calls()
    yield from infer()


def routing() -> Iterator[Case]:
    for path in ("/nowhere", "/v1/rotate/", "//v1/rotate", "/v2/nowhere", "/v2/models/nope/infer"):
        yield case(f"not found {path}", get(path))
        yield case(f"not found {path} post", post_json(path, LISTS))
    for path in ("/v1/rotate", "/v1/resolve", "/v1/positions", INFER):
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            yield case(f"{method} {path}", request(method, path))
    for path in ("/healthz", "/v1/presets", "/metrics", "/v2", "/v2/health/live"):
        yield case(f"post {path}", post_json(path, {}))
    for path in ("", "/ready", "/config", "/stats", "/versions/2", "/versions/2/config"):
        yield case(f"unknown model {path}", get(f"/v2/models/nope{path}"))
    yield case("unknown version", get("/v2/models/rope/versions/2"))
    yield case("unknown version infer", post_json("/v2/models/rope/versions/2/infer", {}))
    yield case("unknown model trace", get("/v2/models/nope/trace/setting"))


def headers() -> Iterator[Case]:
    body = json.dumps(LISTS).encode()
    bad: dict[str, dict[str, str]] = {
        "no content type": {},
        "text": {"content_type": "text/plain"},
        "octets": {"content_type": "application/octet-stream"},
        "latin1": {"content_type": "application/json; charset=latin1"},
        "gzip": {"content_type": JSON, "content_encoding": "gzip"},
        "accept html": {"content_type": JSON, "accept": "text/html"},
        "accept of safetensors only": {"content_type": JSON, "accept": "image/png, text/*"},
        "timeout zero": {"content_type": JSON, "x_request_timeout_ms": "0"},
        "timeout negative": {"content_type": JSON, "x_request_timeout_ms": "-1"},
        "timeout text": {"content_type": JSON, "x_request_timeout_ms": "soon"},
        "timeout long": {"content_type": JSON, "x_request_timeout_ms": "1" * 30},
    }
    for name, headers in bad.items():
        yield case(f"header {name}", post("/v1/rotate", body, **headers))
    infer = json.dumps({"inputs": [wire("q", Q)]}).encode()
    bad_infer: dict[str, dict[str, str]] = {
        "coding": {"content_encoding": "br"},
        "length text": {BINARY_LENGTH: "x"},
        "length negative": {BINARY_LENGTH: "-1"},
        "length beyond": {BINARY_LENGTH: "999"},
        "length huge": {BINARY_LENGTH: str(2**31)},
        "length over the limit": {BINARY_LENGTH: str(2**18 + 1), "content_length": str(2**19)},
        "timeout": {"x_request_timeout_ms": "0"},
        "coding of plain bytes": {"content_encoding": "gzip"},
    }
    for name, headers in bad_infer.items():
        sent = post(INFER, infer, **headers)
        yield case(f"infer header {name}", sent)
    yield case("infer length zero", post(INFER, infer, **{BINARY_LENGTH: "0"}))
    yield case("long head", get("/healthz", x_long="a" * 70_000))


def framing() -> Iterator[Case]:
    for limit, content_type in ((2**18, JSON), (2**20, "application/x-safetensors")):
        declared = request(
            "POST", "/v1/rotate", content_type=content_type, content_length=str(limit + 1)
        )
        yield case(f"too large {content_type}", declared)
        chunked = post("/v1/rotate", b" " * (limit + 1), chunk=2**16, content_type=content_type)
        yield case(f"too large chunked {content_type}", chunked)
    yield case("too large infer", request("POST", INFER, content_length=str(2**18 + 1)))
    large = heads(1, 2**11, 1, 64)
    to_json = post_safetensors("/v1/rotate", {"q": large}, headers={"accept": JSON})
    yield case("answer too large", to_json)
    positions = torch.zeros(2**13, dtype=torch.int64)
    cos_sin = post_safetensors("/v1/cos_sin", {"positions": positions}, rope={"head_dim": 8192})
    yield case("answer too large for tensors", cos_sin)
    index = b'{"ready": true}' + b" " * 2**16
    yield case("control body too large", post("/v2/repository/index", index))
    body = json.dumps(LISTS).encode()
    short = post("/v1/rotate", body, content_type=JSON, content_length=str(len(body) - 1))
    yield case("content length too short", short)
    long = post("/v1/rotate", body, content_type=JSON, content_length=str(len(body) + 1))
    yield case("content length too long", {**long, "half_close": True})
    wrong = {
        "text": b"Content-Length: x\r\n",
        "two": b"Content-Length: 2\r\nContent-Length: 3\r\n",
        "both framings": b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "folded": b"X: a\r\n b\r\n",
    }
    for name, lines in wrong.items():
        head = b"POST /v1/rotate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + lines
        yield case(f"framing {name}", {"request": head + b"\r\n{}"})
    yield case("not HTTP", {"request": b"hello\r\n\r\n"})
    yield case("CONNECT", {"request": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"})
    yield case("HTTP/1.0", {"request": b"GET /healthz HTTP/1.0\r\n\r\n"})


def bodies() -> Iterator[Case]:
    texts = {
        "empty": b"",
        "half": b"{",
        "list": b"[]",
        "number": b"1",
        "NaN": b'{"q": [[[NaN, 1]]]}',
        "not utf-8": b'{"q\xff": 1}',
        "deep": b'{"rope": ' + b'{"config": ' * 240 + b"1" + b"}" * 241,
        "very deep": b"[" * 5000 + b"]" * 5000,
        "huge number": b'{"q": [[[1, 2]]], "rope": {"theta": 1' + b"0" * 400 + b"}}",
    }
    for name, text in texts.items():
        yield case(f"JSON {name}", post("/v1/rotate", text, content_type=JSON))
        yield case(f"infer JSON {name}", post(INFER, text))
        yield case(f"control JSON {name}", post("/v2/repository/index", text))
    good = safetensors({"q": Q}, None)
    headers_: dict[str, Any] = {
        "begin": {"q": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        "dtype": {"q": {"dtype": "F8", "shape": [1], "data_offsets": [0, 1]}},
        "shape": {"q": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        "length": {"q": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        "metadata": {"__metadata__": {"params": 1}},
        "params": {"__metadata__": {"params": "{"}},
        "params list": {"__metadata__": {"params": "[]"}},
        "entry": {"q": [1]},
    }
    st: dict[str, bytes] = {
        name: _header(header) + b"\0\0\0\0" for name, header in headers_.items()
    }
    st |= {
        "empty": b"",
        "short": b"\xff" * 8,
        "beyond": (2**40).to_bytes(8, "little") + b"{}",
        "cut": good[:-1],
        "behind": good + b"\0",
        "not JSON": (2).to_bytes(8, "little") + b"{{",
        "boolean": safetensors({"q": Q, "mask": torch.ones(1, dtype=torch.bool)}, None)[:-1]
        + b"\2",
    }
    for name, body in st.items():
        sent = post("/v1/rotate", body, content_type="application/x-safetensors")
        yield case(f"safetensors {name}", sent)


def calls() -> Iterator[Case]:
    rotate: dict[str, dict[str, Any]] = {
        "nothing": {},
        "ragged": {"q": [[[1.0, 2.0]], [[1.0]]]},
        "mixed": {"q": [[[1.0, "a"]]]},
        "flat": {"q": [1.0, 2.0]},
        "dtype": {"q": shaped(Q.double())},
        "dtype name": {"q": {"shape": [1], "dtype": "float8", "data": [1]}},
        "shape": {"q": {"shape": [3], "dtype": "float32", "data": [1]}},
        "key": {"q": {"shape": [1], "dtype": "float32", "data": [1], "x": 1}},
        "base64": {"q": {"shape": [1], "dtype": "float32", "data": "?", "encoding": "base64"}},
        "encoding": {
            "q": {"shape": [1], "dtype": "float32", "data": "AAAAAA==", "encoding": "hex"}
        },
        "heads": {"q": nested(Q), "k": nested(heads(1, 1, 1, 4))},
        "tensor": {**LISTS, "x": [1.0]},
        "positions": {**LISTS, "positions": [0, 1, 2]},
        "positions kind": {**LISTS, "positions": [0.5, 1.0]},
        "cu_seqlens": {**LISTS, "cu_seqlens": [0, 2]},
        "parameter": {**LISTS, "inverze": True},
        "parameter of rope": {**LISTS, "rope": {"tehta": 1e4}},
        "boolean": {**LISTS, "inverse": "yes"},
        "rope null": {**LISTS, "rope": None},
        "preset": {**LISTS, "rope": "lama"},
        "preset object": {**LISTS, "rope": {"preset": "llama-3.1-8"}},
        "theta": {**LISTS, "rope": {"theta": 0}},
        "theta text": {**LISTS, "rope": {"theta": "1"}},
        "variant": {**LISTS, "rope": {"rope_type": "yarm"}},
        "rotary_dim": {**LISTS, "rope": {"rotary_dim": 3}},
        "head_dim": {**LISTS, "rope": {"head_dim": 16}},
        "backend": {**LISTS, "backend": "eager"},
        "many tensors": {f"t{n}": [1.0] for n in range(17)},
    }
    for name, body in rotate.items():
        yield case(f"bad rotate {name}", post_json("/v1/rotate", body))
    lists = {name: nested(Q) for name in "qkv"}
    attention: dict[str, dict[str, Any]] = {
        "missing": {"q": nested(Q)},
        "window": {**lists, "window": 0},
        "ahead": {**lists, "window_ahead": 1},
        "mask": {**lists, "mask": [[True], [True], [True]]},
        "sinks": {**lists, "sinks": [1.0]},
        "positions": {**lists, "positions": [0, 1], "q_positions": [0, 1]},
        "offset": {**lists, "k_offset": 1},
        "groups": {**lists, "q": nested(heads(1, 2, 3, 4))},
        "out_dtype": {**lists, "out_dtype": "float16"},
        "softcap": {**lists, "softcap": 0},
    }
    for name, body in attention.items():
        yield case(f"bad attention {name}", post_json("/v1/attention", body))
    others: dict[str, tuple[str, dict[str, Any]]] = {
        "cos_sin": ("cos_sin", {"positions": [0]}),
        "cos_sin none": ("cos_sin", {}),
        "shift": ("shift", {"k": nested(Q)}),
        "shift delta": ("shift", {"k": nested(Q), "delta": 1.5}),
        "merge": ("merge", {"out": nested(Q), "lse": nested(Q)}),
        "resolve": ("resolve", {}),
        "resolve config": ("resolve", {"rope": {"config": {"model_type": 1}}}),
        "resolve layer": ("resolve", {"rope": {"preset": "smollm3-3b", "layer": 999}}),
        "positions": ("positions", {"builder": "x"}),
        "positions argument": ("positions", {"builder": "grid_positions", "arguments": {"x": 1}}),
        "positions value": (
            "positions",
            {"builder": "grid_positions", "arguments": {"sizes": "x"}},
        ),
    }
    for name, (route, body) in others.items():
        yield case(f"bad {name}", post_json(f"/v1/{route}", body))
    late = {"builder": "offset_positions", "arguments": {"length": 2**24}}
    yield case("deadline", post_json("/v1/positions", late, x_request_timeout_ms="5"))


def infer() -> Iterator[Case]:
    x = wire("q", Q)
    bad: dict[str, Any] = {
        "no inputs": {},
        "inputs": {"inputs": {}},
        "an input": {"inputs": [1]},
        "missing": {"inputs": []},
        "name": {"inputs": [{**x, "name": "y"}]},
        "twice": {"inputs": [x, x]},
        "datatype": {"inputs": [{**x, "datatype": "FP8"}]},
        "datatype not served": {"inputs": [{**x, "datatype": "BYTES"}]},
        "shape": {"inputs": [{**x, "shape": [1, 2]}]},
        "negative shape": {"inputs": [{**x, "shape": [-1, 2, 2, 4]}]},
        "rank": {"inputs": [{**x, "shape": [16]}]},
        "data": {"inputs": [{**x, "data": "text"}]},
        "ragged": {"inputs": [{**x, "data": [[1.0, 2.0], [3.0]]}]},
        "no data": {"inputs": [{k: v for k, v in x.items() if k != "data"}]},
        "both": {"inputs": [{**x, "parameters": {"binary_data_size": 64}}]},
        "size": {"inputs": [wire("q", Q, binary=True)]},
        "output": {"inputs": [x], "outputs": [{"name": "y"}]},
        "output k": {"inputs": [x], "outputs": [{"name": "k"}]},
        "output twice": {"inputs": [x], "outputs": [{"name": "q"}] * 2},
        "classification": {
            "inputs": [x],
            "outputs": [{"name": "q", "parameters": {"classification": 1}}],
        },
        "binary_data": {
            "inputs": [x],
            "outputs": [{"name": "q", "parameters": {"binary_data": 1}}],
        },
        "parameter": {"inputs": [x], "parameters": {"tehta": 1.0}},
        "parameter value": {"inputs": [x], "parameters": {"theta": 0}},
        "parameter list": {"inputs": [x], "parameters": {"theta": [1]}},
        "parameters": {"inputs": [x], "parameters": []},
        "rope": {"inputs": [x], "parameters": {"rope": "{"}},
        "rope object": {"inputs": [x], "parameters": {"rope": {"theta": 500.0}}},
        "preset": {"inputs": [x], "parameters": {"rope": "lama"}},
        "timeout": {"inputs": [x], "parameters": {"timeout": -1}},
        "id": {"id": 1, "inputs": [x]},
        "long id": {"id": "a" * 257, "inputs": [x]},
        "positions": {"inputs": [x, wire("positions", integers(0, 1, 2).view(1, 3))]},
    }
    for name, body in bad.items():
        yield case(f"bad infer {name}", post_json(INFER, body))
    for key in ("ready", "unknown"):
        yield case(f"bad index {key}", post_json("/v2/repository/index", {key: 1}))


def _header(header: dict[str, Any]) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text
