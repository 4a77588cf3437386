"""No body, whatever it holds, gets a 500."""

import asyncio
import inspect
import json
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rope_core.positions import BUILDERS
from service.lifecycle import Lifecycle
from service.server.app import create_app
from service.settings import Settings
from tests.service.fuzz_strategies import (
    ANYTHING,
    CONFIG_ROPES,
    EXTRA_PARAMS,
    GOOD_BODIES,
    HEADS,
    INDICES,
    JUNK,
    NUMBERS,
    PARAMETER_ROPES,
    PATHS,
    PRESET_ROPES,
    ROPES,
    SMALL,
    TENSOR_CHANGES,
    TENSOR_NAMES,
    inferences,
)
from tests.service.protocols import send_http


def arguments_of(builder):
    return inspect.signature(builder.function).parameters


@pytest.fixture(scope="module")
def status():
    """Post bytes to a path, and return the status of the answer."""
    threads = torch.get_num_threads()
    counts: Counter[int] = Counter()
    with asyncio.Runner() as runner:
        limits = {"max_body_bytes": 2**20, "allow_backend": True}
        app = create_app(Settings(device="cpu", log_level="error", **limits), Lifecycle())
        lifespan = app.app.router.lifespan_context(app.app)
        runner.run(lifespan.__aenter__())

        async def send(path: str, body: bytes, media_type: str) -> int:
            pending = send_http(app, "POST", path, body, {"content-type": media_type})
            return (await pending.outcome()).status

        def post(path: str, body: bytes, media_type: str) -> int:
            code = runner.run(send(path, body, media_type))
            counts[code] += 1
            return code

        yield post
        assert counts[200] > 100, f"too few bodies were good: {counts}"
        runner.run(lifespan.__aexit__(None, None, None))
    torch.set_num_threads(threads)


LEGAL = {200, 400, 413, 422}
FUZZ = settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])


@FUZZ
@given(
    path=PATHS,
    without=st.sampled_from([None, *TENSOR_NAMES]),
    changes=TENSOR_CHANGES,
    params=EXTRA_PARAMS,
)
def test_json_of_any_shape(status, path, without, changes, params):
    body = {name: member for name, member in GOOD_BODIES[path].items() if name != without}
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
    changed=st.just(set()) | st.sets(st.sampled_from(TENSOR_NAMES), max_size=2),
    dtype=st.sampled_from(["F32", "F16", "BF16", "F64", "I64", "I32", "BOOL"]),
    shape=st.just([1, 2, 1, 4]) | st.lists(st.integers(0, 4), max_size=5),
    params=EXTRA_PARAMS,
    surplus=st.sampled_from([0, 0, 0, 1, -1]),
    fill=st.integers(0, 255),
)
def test_safetensors_of_any_shape(status, path, changed, dtype, shape, params, surplus, fill):
    names = sorted((GOOD_BODIES[path].keys() & set(TENSOR_NAMES)) ^ changed)
    params = {
        name: each for name, each in GOOD_BODIES[path].items() if name not in TENSOR_NAMES
    } | params
    size = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "BOOL": 1}[dtype]
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


@settings(FUZZ, max_examples=1000)
@given(rope=CONFIG_ROPES | PARAMETER_ROPES | PRESET_ROPES)
def test_any_config_is_resolved_or_refused(status, rope):
    text = json.dumps({"rope": rope}).encode()
    assert status("/v1/resolve", text, "application/json") in LEGAL


@FUZZ
@given(
    path=st.sampled_from(["/v1/rotate", "/v1/attention", "/v1/cos_sin", "/v1/shift"]),
    rope=ROPES,
    to=st.none() | ROPES,
    width=st.sampled_from([2, 4, 8, 64, 128]),
    axes=st.sampled_from([None, None, 1, 2, 3, 4]),
    dtype=st.sampled_from(["int64", "float32", "float64", "bfloat16"]),
    numbers=NUMBERS,
)
def test_any_rope_rotates_or_is_refused(status, path, rope, to, width, axes, dtype, numbers):
    heads = {"shape": [1, 2, 1, width], "dtype": "float32", "data": [0.5] * 2 * width}
    tensors = {name: heads for name in GOOD_BODIES[path] if name in "qkv"}
    body = tensors | {"rope": rope}
    if path == "/v1/shift":
        body |= {"delta": 3} | ({} if to is None else {"to": to})
    if axes is not None or path == "/v1/cos_sin":
        data = [int(numbers) if dtype == "int64" else numbers] * 2 * (axes or 1)
        body["positions"] = {"shape": [axes, 1, 2] if axes else [2], "dtype": dtype, "data": data}
    assert status(path, json.dumps(body).encode(), "application/json") in LEGAL


@FUZZ
@given(
    params=st.dictionaries(
        st.sampled_from(["q_offset", "k_offset", "k_stride"]), INDICES | NUMBERS | ANYTHING
    ),
    index=st.dictionaries(st.sampled_from(["q_index", "k_index"]), st.lists(INDICES, max_size=3)),
    masks=st.fixed_dictionaries(
        {}, optional={"causal": st.booleans(), "window": INDICES, "chunk": INDICES}
    ),
    backend=st.sampled_from([None, "eager", "sdpa", "x"]),
    ends=st.sampled_from([None, [0, 2], [0, 1, 2], [0, 0, 2], [0, 3, 2], []]),
)
def test_any_index_is_accepted_or_refused(status, params, index, masks, backend, ends):
    heads = HEADS if ends is None else HEADS[0]
    body = {**dict.fromkeys("qkv", heads), **params, **index, **masks, "backend": backend}
    text = json.dumps(body if ends is None else body | {"cu_seqlens": ends}).encode()
    assert status("/v1/attention", text, "application/json") in LEGAL


@FUZZ
@given(
    builder=st.sampled_from([*BUILDERS]),
    arguments=st.dictionaries(
        st.sampled_from(sorted({a for b in BUILDERS.values() for a in arguments_of(b)})),
        NUMBERS | st.lists(SMALL, max_size=3) | JUNK,
        max_size=4,
    ),
    changes=TENSOR_CHANGES,
)
def test_any_arguments_of_a_builder(status, builder, arguments, changes):
    valid = arguments_of(BUILDERS[builder])
    chosen = {name: a for name, a in arguments.items() if name in valid or len(arguments) == 1}
    body = {"builder": builder, "arguments": chosen, **changes}
    assert status("/v1/positions", json.dumps(body).encode(), "application/json") in LEGAL


@FUZZ
@given(inferences())
def test_any_inference(status, inference):
    model, body = inference
    path = f"/v2/models/{model}/infer"
    assert status(path, json.dumps(body).encode(), "") in LEGAL - {422}
