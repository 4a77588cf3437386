"""A position that float64 cannot hold is refused on every wire, also of a request with a plan."""

import json
from typing import Any

import grpc
import httpx
import pytest
import torch

from service.oip.grpc.messages import METHODS, ModelInferRequest
from service.oip.infer.models import MODELS
from service.wire import Message, Parameters, safetensors_codec

HELD = (2**53, -(2**53))
FAR = (2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63))
NEAR = (0, 1)

X = torch.ones(1, 2, 2, 8)
POSITION_TENSORS = {
    "/v1/rotate": "positions",
    "/v1/attention": "positions",
    "/v1/cos_sin": "positions",
    "/v1/shift": "delta",
}
HEADS = {"/v1/rotate": "q", "/v1/attention": "qkv", "/v1/cos_sin": "", "/v1/shift": "k"}

every_path = pytest.mark.parametrize("path", POSITION_TENSORS)
every_model = pytest.mark.parametrize("model", ["rope", "rope_attention"])


def tensors(path: str, positions: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a call of two tokens at these positions."""
    return dict.fromkeys(HEADS[path], X) | {POSITION_TENSORS[path]: torch.tensor(positions)}


def params(path: str) -> dict[str, Any]:
    return {"rope": {"head_dim": 8}} if path == "/v1/cos_sin" else {"rope": {}}


@pytest.fixture(scope="module")
def client(server_url):
    with httpx.Client(base_url=server_url) as client:
        yield client


@every_path
def test_json(client, path):
    def status(positions: Any) -> int:
        body = {name: tensor.tolist() for name, tensor in tensors(path, positions).items()}
        answer = client.post(path, json={**body, **params(path)})
        assert answer.status_code == 200 or "2**53" in answer.json()["detail"]
        return answer.status_code

    assert status(HELD) == 200
    assert {status((0, position)) for position in FAR} == {422}
    if path == "/v1/shift":
        assert status(HELD[1]) == 200
        assert {status(position) for position in FAR} == {422}, "one number for all tokens"


@every_path
def test_safetensors_with_a_plan(client, path):
    """From its second time on, a header has a plan where calls of its route may have one."""

    def status(positions: Any) -> int:
        message = Message(tensors(path, positions), Parameters.of(params(path)))
        body = b"".join(safetensors_codec.encode(message))
        answer = client.post(path, content=body, headers={"content-type": TYPE})
        assert answer.status_code == 200 or b"2**53" in answer.content
        return answer.status_code

    assert [status(NEAR) for _ in range(3)] == [200] * 3
    assert status(HELD) == 200
    assert {status((0, position)) for position in FAR} == {422}
    assert status(NEAR) == 200


TYPE = safetensors_codec.media_type


def inputs(model: str, positions: Any) -> list[tuple[str, torch.Tensor]]:
    """Return the names and the tensors of a call."""
    return [*tensors(MODELS[model].endpoint.path, positions).items()]


def described(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    datatype = "INT64" if tensor.dtype is torch.int64 else "FP32"
    return {"name": name, "datatype": datatype, "shape": [*tensor.shape]}


@every_model
def test_v2_json(client, model):
    def status(positions: Any) -> int:
        given = inputs(model, positions)
        body = [{**described(name, t), "data": t.flatten().tolist()} for name, t in given]
        answer = client.post(f"/v2/models/{model}/infer", json={"inputs": body})
        assert answer.status_code == 200 or "2**53" in answer.json()["error"]
        return answer.status_code

    assert status(HELD) == 200
    assert {status((0, position)) for position in FAR} == {400}


@every_model
def test_v2_binary_with_a_plan(client, model):
    def status(positions: Any) -> int:
        given = inputs(model, positions)
        body = [{**described(n, t), "parameters": {"binary_data_size": t.nbytes}} for n, t in given]
        request = {"inputs": body, "parameters": {"binary_data_output": True}}
        text = json.dumps(request).encode()
        data = text + b"".join(tensor.numpy().tobytes() for _, tensor in given)
        length = {"inference-header-content-length": str(len(text))}
        answer = client.post(f"/v2/models/{model}/infer", content=data, headers=length)
        assert answer.status_code == 200 or b"2**53" in answer.content
        return answer.status_code

    assert [status(NEAR) for _ in range(3)] == [200] * 3
    assert status(HELD) == 200
    assert {status((0, position)) for position in FAR} == {400}


@every_model
def test_grpc_with_a_plan(grpc_target, model):
    with grpc.insecure_channel(grpc_target) as channel:
        infer = channel.unary_unary(METHODS["ModelInfer"].path)

        def status(positions: Any) -> grpc.StatusCode:
            request = ModelInferRequest(model_name=model)
            for name, tensor in inputs(model, positions):
                request.inputs.add(**described(name, tensor))
                request.raw_input_contents.append(tensor.numpy().tobytes())
            failure = infer.future(request.SerializeToString(), timeout=60).exception()
            assert failure is None or "2**53" in failure.details()
            return grpc.StatusCode.OK if failure is None else failure.code()

        assert [status(NEAR) for _ in range(3)] == [grpc.StatusCode.OK] * 3
        assert status(HELD) is grpc.StatusCode.OK
        refused = {status((0, position)) for position in FAR}
        assert refused == {grpc.StatusCode.INVALID_ARGUMENT}
