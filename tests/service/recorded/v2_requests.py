"""Requests of `/v2`, and large ones of both."""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import torch

from tests.service.recorded.exchange import REGION_NAME
from tests.service.recorded.http_requests import (
    BINARY_LENGTH,
    Case,
    case,
    get,
    post,
    post_json,
    post_safetensors,
)
from tests.service.recorded.inputs import QKV, ROPES, WARNED
from tests.service.recorded.tensors import DTYPES, heads, integers, matrix, nested, raw, wire


def cases() -> Iterator[Case]:
    yield from infer_json()
    yield from infer_binary()
    yield from large()
    yield from control()
    yield from shared_memory()


def infer_json() -> Iterator[Case]:
    x, positions = heads(1, 3, 2, 8), matrix([[0, 5, 2]])
    base = [wire("q", x), wire("positions", positions)]
    requests: dict[str, dict[str, Any]] = {
        "plain": {"inputs": base},
        "id": {"id": "a b", "inputs": base},
        "outputs": {"inputs": base, "outputs": [{"name": "q"}]},
        "parameters": {
            "inputs": base,
            "parameters": {"layout": "interleaved", "theta": 500.0, "inverse": True},
        },
        "rope text": {"inputs": base, "parameters": {"rope": '{"rotary_dim": 4}'}},
        "variant": {"inputs": base, "parameters": {"rope_type": "linear", "factor": 4.0}},
        "controls": {
            "inputs": base,
            "parameters": {
                "timeout": 5_000_000,
                "priority": 1,
                "sequence_id": 7,
                "sequence_start": True,
                "sequence_end": False,
            },
        },
        "binary answer": {"inputs": base, "parameters": {"binary_data_output": True}},
        "one binary output": {
            "id": "b",
            "inputs": base,
            "outputs": [{"name": "q", "parameters": {"binary_data": True}}],
        },
        "preset": {
            "inputs": [wire("q", heads(1, 1, 1, 128).bfloat16())],
            "parameters": {"rope": "llama-3.1-8b"},
        },
        "dynamic": {"inputs": base, "parameters": {"rope": json.dumps(ROPES["dynamic"])}},
        "warning": {
            "inputs": base,
            "parameters": {"rope": json.dumps({"config": WARNED}), "binary_data_output": True},
        },
        "no classes": {
            "inputs": base,
            "outputs": [{"name": "q", "parameters": {"classification": 0}}],
        },
    }
    for name, body in requests.items():
        yield case(f"infer rope {name}", post_json("/v2/models/rope/infer", body))
    for dtype in ("float16", "bfloat16"):
        body = {"inputs": [wire("q", x.to(DTYPES[dtype]))]}
        yield case(f"infer rope {dtype}", post_json("/v2/models/rope/infer", body))
    nest = {"inputs": [wire("q", x) | {"data": nested(x)}]}
    yield case("infer rope nested", post_json("/v2/models/rope/versions/1/infer", nest))
    odd = b'{"inputs":[{"name":"q","datatype":"FP32","shape":[1,1,1,2],"data":[NaN,Infinity]}]}'
    yield case("infer rope not finite", post("/v2/models/rope/infer", odd), numbers="exact")
    pair = [wire("k", heads(1, 3, 1, 8)), *base]
    yield case("infer rope q and k", post_json("/v2/models/rope/infer", {"inputs": pair}))
    swapped = {"inputs": pair, "outputs": [{"name": "k"}, {"name": "q"}]}
    yield case("infer rope k and q", post_json("/v2/models/rope/infer", swapped))
    yield case("infer rope k", post_json("/v2/models/rope/infer", {"inputs": pair[:1]}))
    packed = [wire("q", heads(5, 2, 8)), wire("cu_seqlens", integers(0, 2, 5).int())]
    yield case("infer rope packed", post_json("/v2/models/rope/infer", {"inputs": packed}))
    qkv = [wire(name, tensor) for name, tensor in QKV.items()]
    attention: dict[str, dict[str, Any]] = {
        "all": {"inputs": qkv},
        "output": {"inputs": qkv, "outputs": [{"name": "out"}]},
        "lse first": {"inputs": qkv, "outputs": [{"name": "lse"}, {"name": "out"}]},
        "no lse": {"inputs": qkv, "parameters": {"lse": False}},
        "window": {"inputs": qkv, "parameters": {"window": 2, "softcap": 30.0, "scale": 0.5}},
        "nope": {"inputs": qkv, "parameters": {"rope": "null"}},
        "mixed": {
            "inputs": qkv,
            "outputs": [
                {"name": "out", "parameters": {"binary_data": True}},
                {"name": "lse", "parameters": {"binary_data": False}},
            ],
        },
        "mask": {
            "inputs": [*qkv, wire("mask", heads(1, 4, 3, 3) > 0), wire("sinks", heads(4, 1)[:, 0])],
        },
    }
    for name, body in attention.items():
        yield case(f"infer attention {name}", post_json("/v2/models/rope_attention/infer", body))
    cos_sin = {"inputs": [wire("positions", integers(0, 1, 2))], "parameters": {"head_dim": 4}}
    yield case("infer cos_sin", post_json("/v2/models/rope_cos_sin/infer", cos_sin))
    scaled = {**cos_sin, "parameters": {"head_dim": 8, "rope": json.dumps(ROPES["yarn"])}}
    yield case("infer cos_sin yarn", post_json("/v2/models/rope_cos_sin/infer", scaled))


def infer_binary() -> Iterator[Case]:
    x, positions = heads(1, 3, 2, 8), matrix([[0, 5, 2]])
    for dtype in ("float32", "float16", "bfloat16"):
        typed = x.to(DTYPES[dtype])
        for answer in (True, False):
            header = {
                "inputs": [wire("q", typed, binary=True), wire("positions", positions)],
                "parameters": {"binary_data_output": answer},
            }
            name = f"infer binary {dtype} answer {'binary' if answer else 'json'}"
            yield case(name, _binary("/v2/models/rope/infer", header, typed))
    both = {
        "id": "1",
        "inputs": [wire("q", x, binary=True), wire("positions", positions, binary=True)],
        "outputs": [{"name": "q", "parameters": {"binary_data": True}}],
    }
    yield case("infer binary both", _binary("/v2/models/rope/infer", both, x, positions))
    qkv = {
        "inputs": [wire(name, tensor, binary=True) for name, tensor in QKV.items()],
        "outputs": [
            {"name": "lse", "parameters": {"binary_data": True}},
            {"name": "out", "parameters": {"binary_data": False}},
        ],
    }
    yield case("infer binary mixed", _binary("/v2/models/rope_attention/infer", qkv, *QKV.values()))
    body = json.dumps({"inputs": [wire("q", x), wire("positions", positions)]}).encode()
    path = "/v2/models/rope/infer"
    for coding, packed in (
        ("gzip", gzip.compress(body, mtime=0)),
        ("deflate", zlib.compress(body)),
    ):
        yield case(f"infer {coding} request", post(path, packed, content_encoding=coding))
        yield case(f"infer {coding} answer", post(path, body, accept_encoding=coding))
        request = post(path, packed, content_encoding=coding, accept_encoding="gzip, deflate")
        yield case(f"infer {coding} both", request)
    text, blobs = _with_blobs({"inputs": [wire("q", x, binary=True)]}, x)
    packed = gzip.compress(text + blobs, mtime=0)
    length = {BINARY_LENGTH: str(len(text))}
    yield case("infer gzip binary", post(path, packed, content_encoding="gzip", **length))


def large() -> Iterator[Case]:
    """Answers that are written beside the event loop, or sent in pieces. Nothing is computed."""
    for tokens in (64, 120, 480):
        x = heads(1, tokens, 4, 64)
        zeros = torch.zeros(tokens, dtype=torch.int64)
        tensors = {"q": x, "positions": zeros}
        sent = post_safetensors("/v1/rotate", tensors)
        yield case(f"large {tokens} safetensors", sent, numbers="exact")
        if tokens < 480:
            sent = post_safetensors("/v1/rotate", tensors, headers={"accept": "application/json"})
            yield case(f"large {tokens} as JSON", sent, numbers="exact")
        header = {
            "inputs": [
                wire("q", x, binary=True),
                wire("positions", zeros.view(1, -1), binary=True),
            ],
            "parameters": {"binary_data_output": True},
        }
        sent = _binary("/v2/models/rope/infer", header, x, zeros)
        yield case(f"large {tokens} infer", sent, numbers="exact")


def control() -> Iterator[Case]:
    for model in ("rope", "rope_attention", "rope_cos_sin"):
        for version in ("", "/versions/1"):
            for path in ("", "/ready", "/config"):
                yield case(f"get {model}{version}{path}", get(f"/v2/models/{model}{version}{path}"))
        yield case(f"get {model} stats", get(f"/v2/models/{model}/stats"), mask_numbers=True)
        yield case(f"get {model} trace", get(f"/v2/models/{model}/trace/setting"))
    yield case("get stats", get("/v2/models/stats"), mask_numbers=True)
    for body in (None, {}, {"ready": True}, {"ready": False}):
        index = post_json("/v2/repository/index", body)
        yield case(f"repository index {body}", index)
    for verb in ("load", "unload"):
        path = f"/v2/repository/models/rope/{verb}"
        yield case(f"repository {verb}", post_json(path, {}))
    for path in ("/trace/setting", "/logging", "/models/rope/trace/setting"):
        yield case(f"settings {path}", get(f"/v2{path}"))
        yield case(f"settings {path} asked", post_json(f"/v2{path}", {}))
        yield case(f"settings {path} change", post_json(f"/v2{path}", {"trace_level": ["OFF"]}))
    region = "/v2/cudasharedmemory/region/r"
    yield case("cuda memory status", get("/v2/cudasharedmemory/status"))
    yield case("cuda memory region", get(f"{region}/status"))
    yield case("cuda memory register", post_json(f"{region}/register", {"byte_size": 4}))
    yield case("cuda memory unregister", post_json(f"{region}/unregister", {}))
    yield case("cuda memory unregister all", post_json("/v2/cudasharedmemory/unregister", {}))


def shared_memory() -> Iterator[Case]:
    prefix = "/v2/systemsharedmemory"
    key = {"key": f"/{REGION_NAME}", "offset": 8, "byte_size": 120}
    register = post_json(f"{prefix}/region/r/register", key)
    unregister = post_json(f"{prefix}/region/r/unregister", {})
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 32}
    x = {"name": "q", "datatype": "FP32", "shape": [1, 2, 1, 4], "parameters": place}
    out = {"name": "q", "parameters": {**place, "shared_memory_offset": 56}}
    path = "/v2/models/rope/infer"
    yield case(
        "memory infer",
        register,
        get(f"{prefix}/status"),
        get(f"{prefix}/region/r/status"),
        post_json(path, {"inputs": [x]}),
        post_json(path, {"inputs": [x], "outputs": [out]}),
        unregister,
        get(f"{prefix}/status"),
    )
    yield case("memory register twice", register, register, unregister)
    yield case("memory unregister all", register, post_json(f"{prefix}/unregister", {}))
    yield case("memory unknown region", post_json(path, {"inputs": [x]}), unregister)
    yield case("memory unknown status", get(f"{prefix}/region/nope/status"))
    wrong: dict[str, dict[str, Any]] = {
        "key": {**key, "key": "/etc/passwd"},
        "no key": {"byte_size": 8},
        "size": {**key, "byte_size": 4096},
        "offset": {**key, "offset": -1},
        "type": {**key, "byte_size": "8"},
    }
    for name, body in wrong.items():
        yield case(f"memory bad {name}", post_json(f"{prefix}/region/r/register", body))
    long = {**x, "parameters": {**place, "shared_memory_byte_size": 4096}}
    yield case("memory too long", register, post_json(path, {"inputs": [long]}), unregister)


def _binary(path: str, header: dict[str, Any], *tensors: Any) -> dict[str, Any]:
    text, blobs = _with_blobs(header, *tensors)
    return post(path, text + blobs, **{BINARY_LENGTH: str(len(text))})


def _with_blobs(header: dict[str, Any], *tensors: Any) -> tuple[bytes, bytes]:
    blobs = b"".join(raw(tensor) for tensor in tensors)
    return json.dumps(header).encode(), blobs
