"""Requests of `/v1` and of the status routes."""

import json
from collections.abc import Iterator
from typing import Any

import torch

from tests.service.recorded.http_requests import Case, case, get, post, post_json, post_safetensors
from tests.service.recorded.inputs import CONFIG, LEARNED, PACKED, PRESETS, QKV, ROPES, WARNED
from tests.service.recorded.tensors import (
    DTYPES,
    heads,
    integers,
    matrix,
    nested,
    shaped,
    to_base64,
)


def cases() -> Iterator[Case]:
    yield from rotations()
    yield from attentions()
    yield from other_calls()
    yield from resolved()
    yield from encodings()
    yield from status_routes()


def rotations() -> Iterator[Case]:
    q, k = QKV["q"], QKV["k"]
    yield case("rotate lists", post_json("/v1/rotate", {"q": nested(q), "k": nested(k)}))
    first = {"q": nested(q), "positions": [0, 0, 0]}
    yield case("rotate by zero", post_json("/v1/rotate", first), numbers="exact")
    for name, rope in ROPES.items():
        body = {"q": nested(q), "positions": [0, 1, 7], "rope": rope}
        if name in ("axial", "mrope"):
            axes = [[[0, 1, 2]], [[0, 2, 4]], [[1, 1, 1]]]
            body["positions"] = axes if name == "mrope" else [axes[0][0], axes[1][0]]
        yield case(f"rotate {name}", post_json("/v1/rotate", body))
        tensors = {"q": q, "k": k, "positions": torch.tensor(body["positions"])}
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
    in_text = {name: to_base64(tensor) for name, tensor in QKV.items()}
    after = {**in_text, "q_offset": 0, "k_offset": 100, "return_lse": True}
    yield case("attention lse of nothing", post_json("/v1/attention", after))


def other_calls() -> Iterator[Case]:
    for name, positions, rope in (
        ("three", [0, 1, 2], {"head_dim": 8}),
        ("rows", [[0, 1], [3, 2]], {"head_dim": 8}),
        ("yarn", [0, 1], {**ROPES["yarn"], "head_dim": 8}),
        ("axial", [[0, 1], [2, 3]], {**ROPES["axial"], "head_dim": 8}),
        ("preset", [0, 1], "llama-3.1-8b"),
    ):
        body = {"positions": positions, "rope": rope}
        yield case(f"cos_sin {name}", post_json("/v1/cos_sin", body))
        tensors = {"positions": matrix(positions)}
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
        body = post_json("/v1/resolve", {"rope": rope})
        yield case(f"resolve {name}", body, numbers="each")
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
    for name, body in built.items():
        yield case(f"positions {name}", post_json("/v1/positions", body), numbers="exact")


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


def status_routes() -> Iterator[Case]:
    for path in ("/healthz", "/readyz", "/v1/presets"):
        yield case(f"get {path}", get(path))
    yield case("get /v1/variants", get("/v1/variants"), mask_numbers=True)
    yield case("get /version", get("/version"), mask=["version", "torch", "python"])
    for path in ("", "/health/live", "/health/ready"):
        yield case(f"get /v2{path}", get(f"/v2{path}"), mask=["version"])
