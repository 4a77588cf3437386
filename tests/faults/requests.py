"""Valid and malformed requests over all protocols, with a check of the answer to each."""

import json
from collections.abc import Callable
from typing import NamedTuple

import torch

from rope_core import RopeConfig, Rotate, rotate
from service.oip.grpc.messages import ModelInferRequest, ModelInferResponse
from tests.service.planned.requests import Answer, attention, post, rotation

INFER_PATH = "/v2/models/rope/infer"


class Request(NamedTuple):
    """An HTTP request, and a function that checks its answer."""

    name: str
    data: bytes
    is_right: Callable[[Answer], bool]

    def with_id(self, request_id: str) -> bytes:
        """Return the request with an `X-Request-Id`, which the answer must repeat."""
        line, rest = self.data.split(b"\r\n", 1)
        return b"%s\r\nx-request-id: %s\r\n%s" % (line, request_id.encode(), rest)


class Rpc(NamedTuple):
    """A gRPC request, and the bytes of its output."""

    data: bytes
    output: bytes

    def is_right(self, response: bytes) -> bool:
        """Return whether a response is correct."""
        return [*ModelInferResponse.FromString(response).raw_output_contents] == [self.output]


def _rotated(length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a tensor, and the tensor rotated by the library without the service."""
    q = torch.randn(1, length, 8, 64, generator=torch.Generator().manual_seed(seed))
    positions = torch.arange(length)[None]
    return q, rotate(Rotate(q, None, RopeConfig.of(64), positions)).q


def _safetensors(name: str, length: int, seed: int) -> Request:
    make = attention if name == "attention" else rotation
    exchange = make(length, seed)
    return Request(
        f"{name} {length}",
        exchange.request,
        lambda answer: (answer.status, answer.body) == (200, exchange.body),
    )


def _json(length: int, seed: int) -> Request:
    q, rotated = _rotated(length, seed)
    body = json.dumps({"q": q.tolist()}).encode()

    def is_right(answer: Answer) -> bool:
        if answer.status != 200:
            return False
        return torch.tensor(json.loads(answer.body)["q"]["data"]).equal(rotated.flatten())

    return Request(
        f"json {length}", post("/v1/rotate", body, content_type="application/json"), is_right
    )


def _binary(length: int, seed: int) -> Request:
    q, rotated = _rotated(length, seed)
    data = q.numpy().tobytes()
    sizes = {"binary_data_size": len(data)}
    tensor = {"name": "q", "datatype": "FP32", "shape": [*q.shape], "parameters": sizes}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    fields = {"inference_header_content_length": str(len(text))}
    output = rotated.numpy().tobytes()
    return Request(
        f"binary {length}",
        post(INFER_PATH, text + data, content_type="application/octet-stream", **fields),
        lambda answer: answer.status == 200 and answer.body.endswith(output),
    )


def _bad(name: str, data: bytes, status: int) -> Request:
    return Request(name, data, lambda answer: answer.status == status)


def rpc(length: int, seed: int) -> Rpc:
    """Return a rotation over gRPC."""
    q, rotated = _rotated(length, seed)
    request = ModelInferRequest(model_name="rope", raw_input_contents=[q.numpy().tobytes()])
    request.inputs.add(name="q", datatype="FP32", shape=q.shape)
    return Rpc(request.SerializeToString(), rotated.numpy().tobytes())


GOOD = [
    *(_safetensors("rotation", length, seed) for seed, length in enumerate((1, 16, 16, 100, 700))),
    *(_safetensors("attention", length, seed) for seed, length in enumerate((16, 16, 200))),
    *(_json(length, seed) for seed, length in enumerate((1, 4))),
    *(_binary(length, seed) for seed, length in enumerate((16, 16, 500))),
]
BAD = [
    _bad("not safetensors", post("/v1/rotate", b"x" * 100), 400),
    _bad("no tensor", post("/v1/rotate", b"{}", content_type="application/json"), 422),
    _bad("half of a JSON", post("/v1/rotate", b'{"q": [[[1', content_type="application/json"), 400),
    _bad("media type", post("/v1/rotate", b"x", content_type="text/plain"), 415),
    _bad("no route", post("/v1/nothing", b"x"), 404),
    _bad("no model", post("/v2/models/none/infer", b"{}", content_type="application/json"), 404),
    _bad("no inputs", post(INFER_PATH, b"{}", content_type="application/json"), 400),
]
RPCS = [rpc(length, seed) for seed, length in enumerate((1, 16, 16, 400))]
