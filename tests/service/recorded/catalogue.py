"""The requests that are recorded: cases of one or more exchanges, each case on its own."""

import base64
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import torch

from tests.service.recorded import bad_requests, grpc_requests
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
from tests.service.recorded.tensors import DTYPES, heads, integers, nested, shaped, to_base64, wire

QKV = {"q": heads(1, 3, 4, 8), "k": heads(1, 3, 2, 8), "v": heads(1, 3, 2, 8)}
PACKED = {"q": heads(5, 4, 8), "k": heads(5, 2, 8), "v": heads(5, 2, 8)}
LEARNED = heads(3, 4, 4)
CONFIG = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 4, "rope_theta": 5e5}

ROPES: dict[str, Any] = {
    "theta": {"theta": 500.0},
    "interleaved": {"layout": "interleaved", "rotary_dim": 4},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "ntk": {"rope_type": "ntk", "factor": 2.0},
    "dynamic": {
        "rope_type": "dynamic",
        "factor": 2.0,
        "max_position_embeddings": 2,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "axial": {"axes": "axial", "axes_dim": [4, 4]},
    "mrope": {"axes": "mrope", "mrope_section": [1, 1, 2]},
    "config": {"config": CONFIG},
    "float64": {"arithmetic": "float64"},
}

WARNED = {**CONFIG, "rope_scaling": {"type": "linear", "factor": 2.0, "x": 1}}
"""A config of which a key is ignored, with a warning."""

PRESETS = {
    "llama-3.1-8b": 128,
    "qwen2-vl-7b-instruct": 128,
    "qwen2.5-7b-instruct-yarn": 128,
    "gpt-j-6b": 256,
    "deepseek-v3": 64,
    "phi-3.5-mini-instruct": 96,
}
"""Widths of their heads."""


def all_cases() -> Iterator[Case]:
    """Yield every case; names are unique."""
    yield from rotations()
    yield from attentions()
    yield from other_calls()
    yield from resolved()
    yield from encodings()
    yield from large()
    yield from status_routes()
    yield from infer_json()
    yield from infer_binary()
    yield from control()
    yield from shared_memory()
    yield from bad_requests.cases()
    yield from grpc_requests.cases()


def rotations() -> Iterator[Case]:
    q, k = QKV["q"], QKV["k"]
    yield case("rotate lists", post_json("/v1/rotate", {"q": nested(q), "k": nested(k)}))
    first = {"q": nested(q), "positions": [0, 0, 0]}
    yield case("rotate by zero", post_json("/v1/rotate", first), numbers="exact")
    for name, rope in ROPES.items():
        asked = {"q": nested(q), "positions": [0, 1, 7], "rope": rope}
        if name in ("axial", "mrope"):
            axes = [[[0, 1, 2]], [[0, 2, 4]], [[1, 1, 1]]]
            asked["positions"] = axes if name == "mrope" else [axes[0][0], axes[1][0]]
        yield case(f"rotate {name}", post_json("/v1/rotate", asked))
        tensors = {"q": q, "k": k, "positions": torch.tensor(asked["positions"])}
        sent = post_safetensors("/v1/rotate", tensors, rope=rope)
        yield case(f"rotate {name} safetensors", sent)
    for dtype in ("float32", "float16", "bfloat16"):
        typed = {"q": q.to(DTYPES[dtype]), "k": k.to(DTYPES[dtype])}
        yield case(f"rotate {dtype} safetensors", post_safetensors("/v1/rotate", typed))
        flat = {name: shaped(tensor) for name, tensor in typed.items()}
        yield case(f"rotate {dtype} shaped", post_json("/v1/rotate", flat))
        text = {name: to_base64(tensor) for name, tensor in typed.items()}
        yield case(f"rotate {dtype} base64", post_json("/v1/rotate", text))
    positions = heads(3, 1, 1, 1).flatten().double().abs()
    for name, tensor in (
        ("float64", positions),
        ("float32", positions.float()),
        ("int64", integers(4, 2, 0)),
        ("int32", integers(4, 2, 0).int()),
    ):
        tensors = {"q": q, "positions": tensor}
        yield case(f"rotate at {name} safetensors", post_safetensors("/v1/rotate", tensors))
        body = {"q": nested(q), "positions": shaped(tensor)}
        yield case(f"rotate at {name}", post_json("/v1/rotate", body))
    rows = {"q": nested(heads(2, 2, 1, 4)), "positions": [[0, 1], [5, 6]], "inverse": True}
    yield case("rotate rows back", post_json("/v1/rotate", rows))
    packed = {"q": nested(PACKED["q"]), "cu_seqlens": [0, 2, 2, 5]}
    yield case("rotate packed", post_json("/v1/rotate", packed))
    packed_tensors = {"k": PACKED["k"], "cu_seqlens": integers(0, 2, 5).int()}
    yield case("rotate packed safetensors", post_safetensors("/v1/rotate", packed_tensors))
    learned = {"q": q, "positions": torch.ones(3, 3), "frequencies": LEARNED}
    mochi = {"config": {"_class_name": "MochiTransformer3DModel", "attention_head_dim": 8}}
    yield case("rotate learned frequencies", post_safetensors("/v1/rotate", learned, rope=mochi))
    warned = {"q": nested(q), "rope": {"config": WARNED}}
    yield case("rotate with a warning", post_json("/v1/rotate", warned))
    in_metadata = post_safetensors("/v1/rotate", {"q": q}, rope={"config": WARNED})
    yield case("rotate with a warning safetensors", in_metadata)
    yield case("rotate nothing", post_safetensors("/v1/rotate", {"q": heads(1, 0, 2, 8)}))
    yield case("rotate empty list", post_json("/v1/rotate", {"q": shaped(heads(1, 0, 2, 8))}))
    not_finite = {"q": shaped(heads(1, 1, 1, 4)) | {"data": [1.5, 2.0, 3.0, 4.0]}}
    yield case("rotate one head", post_json("/v1/rotate", not_finite), numbers="exact")
    infinite = heads(1, 1, 1, 4)
    infinite[..., 0] = float("inf")
    yield case("rotate infinity", post_json("/v1/rotate", {"q": to_base64(infinite)}))
    for preset, width in PRESETS.items():
        wide = heads(1, 2, 1, width)
        for rope in (preset, {"preset": preset}):
            form = "name" if isinstance(rope, str) else "object"
            yield case(
                f"rotate preset {preset} by {form}",
                post_json("/v1/rotate", {"q": nested(wide), "rope": rope}),
            )


def attentions() -> Iterator[Case]:
    lists = {name: nested(tensor) for name, tensor in QKV.items()}
    yield case("attention lists", post_json("/v1/attention", lists))
    options: dict[str, dict[str, Any]] = {
        "lse": {"return_lse": True},
        "full": {"causal": False},
        "window": {"window": 2},
        "window both": {"causal": False, "window": 2, "window_ahead": 1},
        "chunk": {"chunk": 2},
        "softcap": {"softcap": 5.0, "scale": 0.3},
        "nope": {"rope": None, "return_lse": True},
        "out float32": {"out_dtype": "float32"},
        "config": {"rope": {"config": CONFIG}},
        "offsets": {"q_offset": 4, "k_offset": 1, "k_stride": 2, "return_lse": True},
        "mask": {"mask": [[True, False, False], [True, True, False], [False] * 3]},
        "bias": {"mask": [[0.5, -1.0, 0.0]] * 3, "causal": False},
        "sinks": {"sinks": [0.5, -1.0, 3.0, 0.0]},
        "positions apart": {"q_positions": [4, 5, 6], "k_positions": [0, 5, 6]},
        "index": {"q_index": [0, 1, 2], "k_index": [0, 1, 2]},
    }
    for name, option in options.items():
        yield case(f"attention {name}", post_json("/v1/attention", {**lists, **option}))
    for dtype in ("float32", "float16", "bfloat16"):
        typed = {name: tensor.to(DTYPES[dtype]) for name, tensor in QKV.items()}
        for more in ({}, {"return_lse": True}, {"out_dtype": "float32"}):
            name = " ".join([f"attention {dtype}", *more])
            yield case(name, post_safetensors("/v1/attention", typed, **more))
    packed = {**PACKED, "cu_seqlens": integers(0, 2, 5)}
    yield case("attention packed", post_safetensors("/v1/attention", packed, return_lse=True))
    apart = {**PACKED, "cu_seqlens_q": integers(0, 2, 5), "cu_seqlens_k": integers(0, 1, 5)}
    yield case("attention packed apart", post_safetensors("/v1/attention", apart))
    masked = {**QKV, "mask": (heads(1, 4, 3, 3) > 0), "sinks": heads(4, 1).flatten()}
    yield case("attention mask safetensors", post_safetensors("/v1/attention", masked))
    unseen = {**QKV, "k": heads(1, 0, 2, 8), "v": heads(1, 0, 2, 8)}
    yield case("attention without keys", post_safetensors("/v1/attention", unseen, return_lse=True))
    in_text = {name: to_base64(tensor) for name, tensor in unseen.items()}
    yield case(
        "attention lse of nothing", post_json("/v1/attention", {**in_text, "return_lse": True})
    )


def other_calls() -> Iterator[Case]:
    for name, positions, rope in (
        ("three", [0, 1, 2], {"head_dim": 8}),
        ("rows", [[0, 1], [3, 2]], {"head_dim": 8}),
        ("yarn", [0, 1], {**ROPES["yarn"], "head_dim": 8}),
        ("axial", [[0, 1], [2, 3]], {**ROPES["axial"], "head_dim": 8}),
        ("preset", [0, 1], "llama-3.1-8b"),
    ):
        asked = {"positions": positions, "rope": rope}
        yield case(f"cos_sin {name}", post_json("/v1/cos_sin", asked))
        tensors = {"positions": _matrix(positions)}
        yield case(
            f"cos_sin {name} safetensors", post_safetensors("/v1/cos_sin", tensors, rope=rope)
        )
    k = QKV["k"]
    shifts: dict[str, dict[str, Any]] = {
        "one": {"delta": 1},
        "each": {"delta": [1, 2, -3]},
        "to": {"delta": 0, "positions": [0, 1, 2], "to": ROPES["linear"]},
    }
    for name, shift in shifts.items():
        yield case(f"shift {name}", post_json("/v1/shift", {"k": nested(k), **shift}))
    moved = {"k": k.half(), "delta": integers(3)[0]}
    yield case("shift safetensors", post_safetensors("/v1/shift", moved))
    parts = {"out": heads(2, 3, 2, 8), "lse": heads(2, 3, 2, 1)[..., 0]}
    yield case("merge", post_json("/v1/merge", {n: nested(t) for n, t in parts.items()}))
    yield case("merge safetensors", post_safetensors("/v1/merge", parts))
    half = {"out": parts["out"].bfloat16(), "lse": parts["lse"]}
    yield case("merge bfloat16", post_safetensors("/v1/merge", half))


def resolved() -> Iterator[Case]:
    ropes: dict[str, Any] = {name: {"preset": name} for name in PRESETS}
    ropes |= {
        "name": "llama-3.1-8b",
        "config": {"config": CONFIG},
        "layer": {"preset": "smollm3-3b", "layer": 3},
        "warning": {"config": WARNED},
        "length": {"preset": "phi-3.5-mini-instruct", "length": 100_000},
    }
    for name, rope in ropes.items():
        asked = post_json("/v1/resolve", {"rope": rope})
        yield case(f"resolve {name}", asked, numbers="each")
        yield case(
            f"resolve {name} safetensors",
            post_safetensors("/v1/resolve", {}, rope=rope),
            numbers="each",
        )
    image = {"image_grid_thw": [[1, 4, 4]], "token_types": [0, 1, 1, 1, 1, 0]}
    built: dict[str, dict[str, Any]] = {
        "grid": {"builder": "grid_positions", "arguments": {"sizes": [2, 3]}},
        "offset": {"builder": "offset_positions", "arguments": {"length": 4, "start": 3}},
        "mrope": {"builder": "mrope_index", "arguments": {"family": "qwen2_vl"}, **image},
    }
    for name, asked in built.items():
        yield case(f"positions {name}", post_json("/v1/positions", asked), numbers="exact")


def encodings() -> Iterator[Case]:
    q = {"q": QKV["q"]}
    for accept in (
        "*/*",
        "application/*",
        "application/json",
        "application/x-safetensors",
        "text/html, application/x-safetensors;q=0.9",
        "Application/JSON, */*",
    ):
        asked_in_json = post_json("/v1/rotate", {"q": nested(q["q"])}, accept=accept)
        yield case(f"accept {accept} of JSON", asked_in_json)
        in_safetensors = post_safetensors("/v1/rotate", q, headers={"accept": accept})
        yield case(f"accept {accept} of safetensors", in_safetensors)
    body = json.dumps({"q": nested(q["q"])}).encode()
    for content_type in (
        "application/json; charset=utf-8",
        'APPLICATION/JSON;charset="UTF-8"',
        "application/json;",
    ):
        yield case(
            f"content type {content_type}", post("/v1/rotate", body, content_type=content_type)
        )
    yield case(
        "request id and timeout",
        post_json(
            "/v1/rotate",
            {"q": nested(q["q"])},
            x_request_id="my-id.1",
            x_request_timeout_ms="20000",
            traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    )
    yield case(
        "request id that cannot be shown",
        post_json("/v1/rotate", {"q": nested(q["q"])}, x_request_id="no name!"),
    )
    yield case("chunked body", post("/v1/rotate", body, chunk=50, content_type="application/json"))
    yield case("expect continue", post_json("/v1/rotate", json.loads(body), expect="100-continue"))
    offer = {"upgrade": "h2c", "connection": "Upgrade, HTTP2-Settings, close"}
    yield case("offer of HTTP/2", post_json("/v1/rotate", json.loads(body), **offer))
    kept = post_json("/v1/rotate", json.loads(body), connection="keep-alive")
    last = get("/healthz")
    yield case("two on one connection", {"request": kept["request"] + last["request"]})


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
                wire("x", x, binary=True),
                wire("positions", zeros.view(1, -1), binary=True),
            ],
            "parameters": {"binary_data_output": True},
        }
        sent = _binary("/v2/models/rope/infer", header, x, zeros)
        yield case(f"large {tokens} infer", sent, numbers="exact")


def status_routes() -> Iterator[Case]:
    for path in ("/healthz", "/readyz", "/v1/presets"):
        yield case(f"get {path}", get(path))
    yield case("get /v1/variants", get("/v1/variants"), mask_numbers=True)
    yield case("get /version", get("/version"), mask=["version", "torch", "python"])
    for path in ("", "/health/live", "/health/ready"):
        yield case(f"get /v2{path}", get(f"/v2{path}"), mask=["version"])


def infer_json() -> Iterator[Case]:
    x, positions = heads(1, 3, 2, 8), _matrix([[0, 5, 2]])
    base = [wire("x", x), wire("positions", positions)]
    requests: dict[str, dict[str, Any]] = {
        "plain": {"inputs": base},
        "id": {"id": "a b", "inputs": base},
        "outputs": {"inputs": base, "outputs": [{"name": "rotated"}]},
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
            "outputs": [{"name": "rotated", "parameters": {"binary_data": True}}],
        },
        "preset": {
            "inputs": [wire("x", heads(1, 1, 1, 128).bfloat16())],
            "parameters": {"rope": "llama-3.1-8b"},
        },
        "dynamic": {"inputs": base, "parameters": {"rope": json.dumps(ROPES["dynamic"])}},
        "warning": {
            "inputs": base,
            "parameters": {"rope": json.dumps({"config": WARNED}), "binary_data_output": True},
        },
        "no classes": {
            "inputs": base,
            "outputs": [{"name": "rotated", "parameters": {"classification": 0}}],
        },
    }
    for name, body in requests.items():
        yield case(f"infer rope {name}", post_json("/v2/models/rope/infer", body))
    for dtype in ("float16", "bfloat16"):
        body = {"inputs": [wire("x", x.to(DTYPES[dtype]))]}
        yield case(f"infer rope {dtype}", post_json("/v2/models/rope/infer", body))
    nest = {"inputs": [wire("x", x) | {"data": nested(x)}]}
    yield case("infer rope nested", post_json("/v2/models/rope/versions/1/infer", nest))
    odd = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,1,1,2],"data":[NaN,Infinity]}]}'
    yield case("infer rope not finite", post("/v2/models/rope/infer", odd), numbers="exact")
    packed = [wire("x", heads(5, 2, 8)), wire("cu_seqlens", integers(0, 2, 5).int())]
    yield case("infer rope packed", post_json("/v2/models/rope/infer", {"inputs": packed}))
    qkv = [wire(name, tensor) for name, tensor in QKV.items()]
    attention: dict[str, dict[str, Any]] = {
        "all": {"inputs": qkv},
        "output": {"inputs": qkv, "outputs": [{"name": "output"}]},
        "lse first": {"inputs": qkv, "outputs": [{"name": "lse"}, {"name": "output"}]},
        "no lse": {"inputs": qkv, "parameters": {"lse": False}},
        "window": {"inputs": qkv, "parameters": {"window": 2, "softcap": 30.0, "scale": 0.5}},
        "nope": {"inputs": qkv, "parameters": {"rope": "null"}},
        "mixed": {
            "inputs": qkv,
            "outputs": [
                {"name": "output", "parameters": {"binary_data": True}},
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
    x, positions = heads(1, 3, 2, 8), _matrix([[0, 5, 2]])
    for dtype in ("float32", "float16", "bfloat16"):
        typed = x.to(DTYPES[dtype])
        for answer in (True, False):
            header = {
                "inputs": [wire("x", typed, binary=True), wire("positions", positions)],
                "parameters": {"binary_data_output": answer},
            }
            name = f"infer binary {dtype} answer {'binary' if answer else 'json'}"
            yield case(name, _binary("/v2/models/rope/infer", header, typed))
    both = {
        "id": "1",
        "inputs": [wire("x", x, binary=True), wire("positions", positions, binary=True)],
        "outputs": [{"name": "rotated", "parameters": {"binary_data": True}}],
    }
    yield case("infer binary both", _binary("/v2/models/rope/infer", both, x, positions))
    qkv = {
        "inputs": [wire(name, tensor, binary=True) for name, tensor in QKV.items()],
        "outputs": [
            {"name": "lse", "parameters": {"binary_data": True}},
            {"name": "output", "parameters": {"binary_data": False}},
        ],
    }
    yield case("infer binary mixed", _binary("/v2/models/rope_attention/infer", qkv, *QKV.values()))
    body = json.dumps({"inputs": [wire("x", x), wire("positions", positions)]}).encode()
    path = "/v2/models/rope/infer"
    for coding, packed in (
        ("gzip", gzip.compress(body, mtime=0)),
        ("deflate", zlib.compress(body)),
    ):
        yield case(f"infer {coding} request", post(path, packed, content_encoding=coding))
        yield case(f"infer {coding} answer", post(path, body, accept_encoding=coding))
        asked = post(path, packed, content_encoding=coding, accept_encoding="gzip, deflate")
        yield case(f"infer {coding} both", asked)
    text, blobs = _with_blobs({"inputs": [wire("x", x, binary=True)]}, x)
    packed = gzip.compress(text + blobs, mtime=0)
    length = {BINARY_LENGTH: str(len(text))}
    yield case("infer gzip binary", post(path, packed, content_encoding="gzip", **length))


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
    x = {"name": "x", "datatype": "FP32", "shape": [1, 2, 1, 4], "parameters": place}
    out = {"name": "rotated", "parameters": {**place, "shared_memory_offset": 56}}
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
    blobs = b"".join(base64.b64decode(to_base64(tensor)["data"]) for tensor in tensors)
    return json.dumps(header).encode(), blobs


def _matrix(rows: list[Any]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64)
