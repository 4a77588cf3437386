"""No body, whatever it holds, is answered with a 500."""

import asyncio
import json
from collections import Counter

import httpx
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.app import create_app
from service.endpoints import ENDPOINTS
from service.life import Life
from service.settings import Settings

NAMES = sorted({name for endpoint in ENDPOINTS for name in endpoint.names})
PARAMS = sorted({name for endpoint in ENDPOINTS for name in endpoint.params.model_fields})
PATHS = st.sampled_from([endpoint.path for endpoint in ENDPOINTS])
NUMBERS = st.one_of(
    st.integers(-3, 9),
    st.sampled_from([0, 2**31, 2**53 + 1, 2**63, 2**64, 1e-320, 1e308, -1, 0.5]),
)
SMALL = st.integers(0, 3)


@st.composite
def tensors(draw: st.DrawFn) -> object:
    """Something like a tensor: nested, flat or in base64; mostly of shapes that may fit."""
    shape = draw(st.lists(SMALL, min_size=0, max_size=5) | st.just([1, 2, 2, 4]))
    if draw(st.integers(0, 9)) == 0:  # as large as a shape can be told, and empty
        huge = st.sampled_from([0, 1, 2**31, 2**62, 2**63, 2**64 - 1])
        shape = [0, *draw(st.lists(huge, max_size=3))]
        return {"shape": shape, "dtype": "float32", "data": []}
    count = 1
    for size in shape:
        count *= size
    if draw(st.booleans()):
        nested: object = draw(NUMBERS)
        for size in reversed(shape):
            nested = [nested] * size
        return nested
    dtype = draw(
        st.sampled_from(["float32", "float16", "bfloat16", "float64", "int64", "int32", "x"])
    )
    flat = {"shape": shape, "dtype": dtype}
    if draw(st.booleans()):
        return flat | {"data": [draw(NUMBERS)] * (count + draw(st.sampled_from([0, 0, 0, 1])))}
    size = {"float16": 4, "bfloat16": 4, "float64": 11, "int64": 11}.get(dtype, 6)
    return flat | {"data": "A" * (size * count // 4 * 4), "encoding": "base64"}


ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["shape", "data", "dtype", "theta", "head_dim"]), inner)
    ),
    max_leaves=6,
)
ROPES = st.fixed_dictionaries(
    {},
    optional={
        "theta": NUMBERS,
        "head_dim": NUMBERS,
        "rotary_dim": NUMBERS,
        "layout": st.sampled_from(["half", "interleaved", "x"]),
    },
)
HEADS = [[[[1, 2, 3, 4]], [[5, 6, 7, 8]]]]  # [1, 2, 1, 4]
GOOD = {
    "/v1/rotate": {"q": HEADS, "k": HEADS},
    "/v1/attention": {"q": HEADS, "k": HEADS, "v": HEADS},
    "/v1/cos_sin": {"positions": [0, 1], "rope": {"head_dim": 4}},
    "/v1/shift": {"k": HEADS, "delta": 1},
    "/v1/merge": {"out": HEADS, "lse": [[[1], [2]]]},
}
CHANGES = st.just({}) | st.dictionaries(
    st.sampled_from(NAMES), tensors() | st.just(HEADS) | st.just([0, 2]), max_size=2
)
MORE_PARAMS = st.just({}) | st.dictionaries(
    st.sampled_from(PARAMS), ANYTHING | ROPES | NUMBERS | st.booleans(), max_size=2
)


@pytest.fixture(scope="module")
def status():
    """Post bytes to a path, and return the status of the answer."""
    threads = torch.get_num_threads()
    seen: Counter[int] = Counter()
    with asyncio.Runner() as runner:
        app = create_app(Settings(device="cpu", max_body_bytes=2**20, log_level="error"), Life())
        lifespan = app.app.router.lifespan_context(app.app)
        runner.run(lifespan.__aenter__())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://service")

        def post(path: str, body: bytes, media_type: str) -> int:
            sending = client.post(path, content=body, headers={"content-type": media_type})
            answered = runner.run(sending).status_code
            seen[answered] += 1
            return answered

        yield post
        assert seen[200] > 100, f"too few bodies were good ones: {seen}"
        runner.run(lifespan.__aexit__(None, None, None))
    torch.set_num_threads(threads)


LEGAL = {200, 400, 413, 422}
FUZZ = settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(path=PATHS, without=st.sampled_from([None, *NAMES]), changes=CHANGES, params=MORE_PARAMS)
def test_json_of_any_shape(status, path, without, changes, params):
    body = {name: member for name, member in GOOD[path].items() if name != without}
    text = json.dumps({**body, **changes, **params}).encode()
    assert status(path, text, "application/json") in LEGAL


@FUZZ
@given(path=PATHS, body=st.binary(max_size=64) | ANYTHING.map(lambda x: json.dumps(x).encode()))
def test_any_bytes(status, path, body):
    for media_type in ("application/json", "application/x-safetensors"):
        assert status(path, body, media_type) in LEGAL


@FUZZ
@given(
    path=PATHS,
    changed=st.just(set()) | st.sets(st.sampled_from(NAMES), max_size=2),
    dtype=st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "I32"]),
    shape=st.just([1, 2, 1, 4]) | st.lists(st.integers(0, 4), max_size=5),
    params=MORE_PARAMS,
    surplus=st.sampled_from([0, 0, 0, 1, -1]),
    fill=st.integers(0, 255),
)
def test_safetensors_of_any_shape(status, path, changed, dtype, shape, params, surplus, fill):
    names = sorted(GOOD[path].keys() ^ changed)
    size = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4}[dtype]
    for axis in shape:
        size *= axis
    header: dict[str, object] = {"__metadata__": {"params": json.dumps(params)}}
    for i, name in enumerate(names):
        offsets = [i * size, (i + 1) * size]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    data = bytes([fill]) * max(0, len(names) * size + surplus)
    body = len(text).to_bytes(8, "little") + text + data
    assert status(path, body, "application/x-safetensors") in LEGAL
