"""A config.json of megabytes, such as one whose quantization names each layer."""

import gc
import json
import math
import tracemalloc

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio
import torch

from rope_client import Client
from rope_core import resolve
from rope_core.presets import MAX_BYTES
from service.endpoints.params import RotateParams
from service.errors import TooLarge
from service.lifecycle import Lifecycle
from service.oip.grpc.messages import METHODS, ModelInferRequest
from service.oip.infer.params import translate
from service.server.app import create_app
from service.settings import Settings
from service.wire import json_codec, safetensors_codec
from service.wire.message import Message
from tests.service.conftest import asking, every_test_in_one_loop, post
from tests.service.messages import params

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "rope_theta": 5e5}
NAMES = [f"model.layers.{i}.block_sparse_moe.experts.{j}" for i in range(60) for j in range(900)]
LARGE = {"quantization_config": {"ignore": NAMES}, "limits": [0.0, math.inf], **LLAMA}
"""2.6 MB, and a number that is not finite."""

HEADS = torch.randn(1, 2, 4, 16, generator=torch.Generator().manual_seed(0))
AT = torch.tensor([[3, 40_000]])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def large_client():
    """Ask an application in this process that has the limits of a service."""
    app = create_app(Settings(device="cpu", log_level="error"), Lifecycle())
    async with app.app.router.lifespan_context(app.app), asking(app) as client:
        yield client


@pytest.fixture(scope="module")
def expected(server):
    """The rotation by the same config without the long list."""
    with Client(server.url) as client:
        return client.rotate(HEADS, positions=AT, rope={"config": LLAMA}).q


@pytest.mark.parametrize("encoding", ["safetensors", "json"])
@pytest.mark.parametrize("form", ["mapping", "path"])
def test_the_client_sends_it(server, expected, tmp_path, encoding, form):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LARGE, indent=2))
    with Client(server.url, encoding=encoding, timeout_s=60) as client:
        rope = file if form == "path" else {"config": LARGE}
        assert np.array_equal(client.rotate(HEADS, positions=AT, rope=rope).q, expected)


def test_the_open_inference_protocol_has_it(server, expected):
    rope = json.dumps({"config": LARGE})
    inputs = [
        {"name": "q", "datatype": "FP32", "shape": [1, 2, 4, 16], "data": HEADS.flatten().tolist()},
        {"name": "positions", "datatype": "INT64", "shape": [1, 2], "data": AT[0].tolist()},
    ]
    body = {"inputs": inputs, "parameters": {"rope": rope}}
    answer = httpx.post(f"{server.url}/v2/models/rope/infer", json=body, timeout=60).json()
    assert np.array_equal(np.float32(answer["outputs"][0]["data"]), expected.ravel())
    request = ModelInferRequest(model_name="rope", parameters={"rope": {"string_param": rope}})
    for item, tensor in zip(inputs, (HEADS, AT), strict=True):
        request.inputs.add(name=item["name"], datatype=item["datatype"], shape=item["shape"])
        request.raw_input_contents.append(tensor.numpy().tobytes())
    method = METHODS["ModelInfer"]
    with grpc.insecure_channel(server.grpc_target) as channel:
        call = channel.unary_unary(method.path, response_deserializer=method.response.FromString)
        response = call(request.SerializeToString(), timeout=60)
    assert response.raw_output_contents[0] == expected.tobytes()


def test_the_library_reads_it(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(LARGE, indent=2))
    assert resolve(file).rope == resolve(LLAMA).rope


@every_test_in_one_loop
async def test_nothing_of_it_is_kept(large_client):
    async def ask(theta):
        config = LLAMA | {"unread": NAMES[:10_000], "rope_theta": theta}
        message = Message({}, params(rope={"config": config}))
        return await post(large_client, safetensors_codec, "/v1/resolve", message)

    assert (await ask(1e4)).status_code == 200
    gc.collect()
    tracemalloc.start()
    try:
        for theta in (2e4, 3e4):
            assert (await ask(theta)).status_code == 200
        gc.collect()
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 2**18 < len("".join(NAMES[:10_000])) < peak_bytes


@every_test_in_one_loop
async def test_a_config_above_the_limit_is_refused(large_client, codec):
    message = Message({}, params(rope={"config": {"text": "a" * MAX_BYTES}}))
    response = await post(large_client, codec, "/v1/resolve", message)
    assert response.status_code == 413
    assert f"parameters, in bytes, may be at most {MAX_BYTES:,}, got " in response.json()["detail"]


@every_test_in_one_loop
async def test_a_header_above_the_limit_is_refused(large_client):
    size = safetensors_codec.MAX_HEADER_BYTES + 1
    response = await large_client.post(
        "/v1/resolve",
        content=size.to_bytes(8, "little") + b" " * size,
        headers={"content-type": safetensors_codec.media_type},
    )
    assert response.status_code == 400
    assert f"the header may be at most {size - 1} bytes" in response.json()["detail"]


def test_long_text_leaves_the_event_loop():
    """It is charged for the memory that its objects take."""
    long = Message({}, params(rope={"config": LARGE}))
    (header, *_) = safetensors_codec.encode(long)
    assert safetensors_codec.long_text_bytes(header) == len(header) - 8
    short = b"".join(safetensors_codec.encode(Message({"q": torch.zeros(2**20)}, params(rope="x"))))
    assert safetensors_codec.long_text_bytes(short) == 0
    assert safetensors_codec.long_text_bytes(b"\xff" * 8) == 0
    assert json_codec.long_text_bytes(bytes(header)) == len(header)
    assert json_codec.long_text_bytes(b"{}") == 0


def test_a_long_text_of_the_open_inference_protocol_is_not_parsed():
    for name in ("rope", "config"):
        with pytest.raises(TooLarge, match=f"^{name}, in characters, may be at most {MAX_BYTES:,}"):
            translate({name: "{".ljust(MAX_BYTES + 1)}, RotateParams)
