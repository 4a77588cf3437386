"""KServe's clients over REST and gRPC; `test_kserve.py` runs this file in another process."""

import asyncio
import os

import grpc
import httpx
import numpy as np
import pytest
import torch
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.infer_type import RequestedOutput

from rope_core import RopeConfig
from tests.core.oracle import qkv, randn
from tests.service.oip.clients.expected import (
    attend,
    check_attended,
    check_lse,
    check_rotated,
    rotate,
)
from tests.service.oip.clients.forms import DATATYPES, array_of

URL, TARGET = os.environ["OIP_HTTP"], os.environ["OIP_GRPC"]
MODELS = ("rope", "rope_attention", "rope_cos_sin")
X = randn(2, 3, 4, 64)
POSITIONS = torch.tensor([[0, 5, 2], [9, 7, 1]])


class Rest:
    """The REST client with the interface of the gRPC client."""

    def __init__(self):
        self.client = InferenceRESTClient(RESTConfig(protocol="v2"))

    async def is_server_live(self):
        return await self.client.is_server_live(URL)

    async def is_server_ready(self):
        return await self.client.is_server_ready(URL)

    async def is_model_ready(self, model):
        return await self.client.is_model_ready(URL, model)

    async def infer(self, request, **kwargs):
        return await self.client.infer(URL, request, model_name=request.model_name, **kwargs)

    async def close(self):
        await self.client.close()


@pytest.fixture(params=["rest", "grpc"])
async def client(request):
    client = Rest() if request.param == "rest" else InferenceGRPCClient(TARGET)
    yield client
    await client.close()


def is_rest(client):
    return isinstance(client, Rest)


def infer_input(name, x, binary=True):
    """Return an input; the client does not know BF16, so set its bytes."""
    made = InferInput(name, [*x.shape], DATATYPES[x.dtype])
    if x.dtype == torch.bfloat16:
        made._raw_data = array_of(x).tobytes()
        made.parameters = {"binary_data_size": len(made._raw_data)}
    elif binary:
        made.set_data_from_numpy(x.numpy())
    else:
        made.data = x.flatten().tolist()
    return made


def infer_request(model, outputs=None, binary=True, parameters=None, request_id=None, **inputs):
    return InferRequest(
        model,
        [infer_input(name, x, binary) for name, x in inputs.items()],
        request_id=request_id,
        parameters=parameters,
        request_outputs=outputs and [RequestedOutput(*output) for output in outputs],
    )


def tensor(response, name):
    return torch.tensor(response.get_output_by_name(name).as_numpy())


async def check_refused(client, request, status, code, words):
    """Check that a request fails with this status and text."""
    with pytest.raises((httpx.HTTPStatusError, grpc.aio.AioRpcError), match=words) as failure:
        await client.infer(request)
    if is_rest(client):
        assert failure.value.response.status_code == status
    else:
        assert failure.value.code() is code


async def test_health(client):
    assert await client.is_server_live() is True
    assert await client.is_server_ready() is True
    for model in MODELS:
        assert await client.is_model_ready(model) is True
    assert await client.is_model_ready("nope") is False


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("positions_dtype", [torch.int64, torch.int32], ids=str)
async def test_rope(client, positions_dtype, binary):
    """Over gRPC, tensors that are not binary travel in the typed contents."""
    request = infer_request(
        "rope", binary=binary, q=X, positions=POSITIONS.to(positions_dtype), request_id="seven"
    )
    response = await client.infer(request)
    check_rotated(tensor(response, "q"), rotate(X, POSITIONS), torch.float32)
    assert (response.id, response.model_name) == ("seven", "rope")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
async def test_binary_outputs(client, dtype):
    x = X.to(dtype)
    for options in (
        {"parameters": {"binary_data_output": True}},
        {"outputs": [("q", {"binary_data": True})]},
    ):
        response = await client.infer(infer_request("rope", q=x, **options))
        check_rotated(tensor(response, "q"), rotate(x), dtype)


async def test_fp16_is_answered_in_json(client):
    response = await client.infer(infer_request("rope", q=X.half()))
    check_rotated(tensor(response, "q"), rotate(X.half()), torch.float16)


async def test_bf16_is_answered_in_fp32_on_demand(client):
    """The client does not know BF16, but with float32 output it can use a BF16 model."""
    q, k, v = qkv((1, 3, 4, 64), (1, 3, 2, 64), dtype=torch.bfloat16)
    parameters = {"out_dtype": "float32"}
    request = infer_request("rope_attention", [("out",)], parameters=parameters, q=q, k=k, v=v)
    out = tensor(await client.infer(request), "out")
    assert out.dtype is torch.float32
    check_attended(out.bfloat16(), attend(q, k, v)[0], torch.bfloat16)


async def test_attention_and_its_parameters(client):
    q, k, v = qkv((1, 3, 4, 64), (1, 3, 2, 64))
    parameters = {"causal": False, "layout": "interleaved", "softcap": 2, "lse": True}
    response = await client.infer(
        infer_request("rope_attention", q=q, k=k, v=v, parameters=parameters)
    )
    rope = RopeConfig.of(64, layout="interleaved")
    out, lse = attend(q, k, v, causal=False, softcap=2.0, rope=rope)
    check_attended(tensor(response, "out"), out, torch.float32)
    check_lse(tensor(response, "lse"), lse, torch.float32)


async def test_the_response_has_only_requested_outputs(client):
    request = infer_request(
        "rope_cos_sin", [("sin",)], positions=POSITIONS[0], parameters={"head_dim": 8}
    )
    response = await client.infer(request)
    assert [output.name for output in response.outputs] == ["sin"]


async def test_many_at_once(client):
    tensors = [randn(1, 1 + n % 5, 4, 64, seed=n) for n in range(32)]
    responses = await asyncio.gather(
        *(
            client.infer(infer_request("rope", q=x, request_id=f"{n}"))
            for n, x in enumerate(tensors)
        )
    )
    for n, (response, x) in enumerate(zip(responses, tensors, strict=True)):
        assert response.id == f"{n}"
        check_rotated(tensor(response, "q"), rotate(x), torch.float32)


async def test_errors_are_shown(client):
    invalid, unknown = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    await check_refused(client, infer_request("nope", q=X), 404, unknown, "nope")
    await check_refused(client, infer_request("rope", y=X), 400, invalid, "y")
    await check_refused(
        client, infer_request("rope", q=X, parameters={"bse": 1}), 400, invalid, "bse"
    )
    await check_refused(
        client, infer_request("rope", q=X.double()), 400, invalid, "FP64|float64|double"
    )
    wrong = infer_request("rope", binary=False, q=X)
    wrong.inputs[0].shape = [1, 3, 4, 64]
    await check_refused(client, wrong, 400, invalid, "q")


async def test_a_request_as_a_dict():
    client = Rest()
    data = {"name": "q", "shape": [1, 2, 1, 4], "datatype": "FP32", "data": [0.0, 1, 2, 3] * 2}
    response = await client.client.infer(URL, {"inputs": [data]}, model_name="rope")
    x = torch.tensor([0.0, 1, 2, 3]).expand(1, 2, 1, 4)
    check_rotated(tensor(response, "q"), rotate(x), torch.float32)
    assert np.shape(response.outputs[0].data) == (8,)  # flat, and a list
    await client.close()


async def test_models_are_not_loaded():
    """In KServe's messages, the field 1 is the model's name; in Triton's, the repository's."""
    async with grpc.aio.insecure_channel(TARGET) as channel:
        for method in ("Load", "Unload"):
            call = channel.unary_unary(
                f"/inference.GRPCInferenceService/RepositoryModel{method}",
                request_serializer=lambda message: message.SerializeToString(),
            )
            request = getattr(messages, f"RepositoryModel{method}Request")
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(request(model_name="rope"), timeout=10)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
