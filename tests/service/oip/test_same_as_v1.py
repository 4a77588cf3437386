"""`/v1` and the models of the protocol call tensors the same, and answer the same bytes."""

from typing import Any

import grpc
import httpx
import pytest
import torch
from torch import Tensor

from service.oip.grpc.messages import METHODS, ModelInferRequest, ModelInferResponse
from service.oip.infer.models import MODELS
from service.wire import Message, Parameters, safetensors_codec
from tests.service.oip.forms import post_binary
from tests.service.recorded.tensors import raw, wire

GENERATOR = torch.Generator().manual_seed(15)
Q, K, V = (torch.randn(2, 5, n, 16, generator=GENERATOR) for n in (4, 2, 2))
POSITIONS = torch.tensor([[0, 1, 2, 3, 4], [9, 7, 131_071, 3, 0]])
PARAMS = {"theta": 500_000.0, "layout": "interleaved"}
REQUESTS: dict[str, tuple[str, dict[str, Tensor], list[str]]] = {
    "q and k": ("rope", {"q": Q, "k": K}, ["q", "k"]),
    "k and q, with positions": ("rope", {"k": K, "positions": POSITIONS, "q": Q}, ["q", "k"]),
    "q": ("rope", {"q": Q, "positions": POSITIONS}, ["q"]),
    "k": ("rope", {"k": K, "positions": POSITIONS}, ["k"]),
    "bfloat16": ("rope", {"q": Q.bfloat16(), "k": K.bfloat16()}, ["q", "k"]),
    "packed": (
        "rope",
        {"q": Q.flatten(0, 1), "k": K.flatten(0, 1), "cu_seqlens": torch.tensor([0, 3, 10])},
        ["q", "k"],
    ),
    "attention": (
        "rope_attention",
        {"q": Q, "k": K, "v": V, "positions": POSITIONS},
        ["out", "lse"],
    ),
}


def ask_v1(url: str, model: str, tensors: dict[str, Tensor]) -> dict[str, bytes]:
    params = {"rope": PARAMS} | ({"return_lse": True} if model == "rope_attention" else {})
    body = b"".join(safetensors_codec.encode(Message(tensors, Parameters.of(params))))
    headers = {"content-type": safetensors_codec.media_type}
    response = httpx.post(url + MODELS[model].endpoint.path, content=body, headers=headers)
    assert response.status_code == 200, response.text
    message, _ = safetensors_codec.decode(response.content)
    return {name: bytes(raw(tensor)) for name, tensor in message.tensors.items()}


def ask_v2(url: str, model: str, tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return post_binary(url, model, tensors, PARAMS)[1]


def ask_grpc(channel: grpc.Channel, model: str, tensors: dict[str, Tensor]) -> dict[str, bytes]:
    request: Any = ModelInferRequest(model_name=model)
    request.parameters["theta"].double_param = PARAMS["theta"]
    request.parameters["layout"].string_param = PARAMS["layout"]
    for name, tensor in tensors.items():
        datatype = wire(name, tensor, binary=True)["datatype"]
        request.inputs.add(name=name, datatype=datatype, shape=tensor.shape)
        request.raw_input_contents.append(raw(tensor))
    call = channel.unary_unary(METHODS["ModelInfer"].path)
    response = ModelInferResponse.FromString(call(request.SerializeToString(), timeout=30))
    names = [output.name for output in response.outputs]
    return dict(zip(names, response.raw_output_contents, strict=True))


@pytest.mark.parametrize(("model", "tensors", "names"), REQUESTS.values(), ids=REQUESTS)
def test_answers_have_the_same_names_and_bytes(server_url, channel, model, tensors, names):
    """The first answer goes the ordinary way, later ones have a plan."""
    expected = ask_v1(server_url, model, tensors)
    assert [*expected] == names
    for _ in range(3):
        assert [*ask_v2(server_url, model, tensors).items()] == [*expected.items()]
        assert [*ask_grpc(channel, model, tensors).items()] == [*expected.items()]
        assert ask_v1(server_url, model, tensors) == expected


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_models_have_the_tensors_of_their_endpoint(model):
    endpoint = model.endpoint
    assert {slot.name for slot in model.inputs if not slot.optional} == {*endpoint.required}
    assert {slot.name for slot in model.inputs} == endpoint.names
    assert tuple(slot.name for slot in model.outputs) == endpoint.outputs
