"""Requests encoded for each protocol, and how to decode the responses."""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import grpc
import safetensors.torch
import torch
from torch import Tensor

from benchmarks import workloads
from benchmarks.echo_server import METHOD
from benchmarks.servers import Server
from benchmarks.workloads import Workload
from service.oip.grpc.messages import METHODS

THETA = 10_000.0
METADATA = {"params": json.dumps({"rope": {"theta": THETA}})}
INFER = METHODS["ModelInfer"]
GRPC_PATH = "/" + "/".join(METHOD)
GRPC_HEADERS = {"Content-Type": "application/grpc", "TE": "trailers"}
GRPC_PREFIX_BYTES = 5
DATATYPES = {torch.float32: "FP32", torch.int64: "INT64"}


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request in one protocol."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    """The bytes that a load generator sends."""

    decode: Callable[[bytes], Tensor]
    """Returns the output of a response body, `[1, S, H, D]` float32."""

    grpc: bool = False

    def http(self) -> bytes:
        """Return the whole HTTP/1.1 request."""
        fields = {"Host": "127.0.0.1", **self.headers, "Content-Length": str(len(self.body))}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def encode(workload: Workload, length: int) -> EncodedRequest:
    """Encode the request with `length` tokens for the protocol of the workload."""
    return ENCODERS[workload.protocol](workload, length)


def output(workload: Workload, length: int, request: EncodedRequest, server: Server) -> bytes:
    """Send a request; check the output and return the body of the response.

    For gRPC, the body has no prefix.

    Raises:
        SystemExit: the status is not 200, or the output is wrong.
    """
    body = send(server, request)
    workloads.check(workload, length, request.decode(body))
    return body


def send(server: Server, request: EncodedRequest) -> bytes:
    """Send a request; return the body of the response, for gRPC without its prefix.

    Raises:
        SystemExit: the status is not 200.
    """
    if request.grpc:
        options = [("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
            call = channel.unary_unary(request.path)
            return bytes(call(request.body[GRPC_PREFIX_BYTES:], timeout=60))
    status, body = server.request("POST", request.path, request.body, request.headers)
    if status != 200:
        raise SystemExit(f"{request.path}: {status} {body[:500]!r}")
    return body


def grpc_frame(message: bytes) -> bytes:
    """Return a message with gRPC's prefix: no compression, and the length."""
    return struct.pack(">BI", 0, len(message)) + message


def inputs(workload: Workload, length: int) -> dict[str, Tensor]:
    """Return the tensors of a request, positions included."""
    return {**workloads.tensors(workload, length), "positions": torch.arange(length)}


def binary_request(
    path: str, inputs: Mapping[str, Tensor], output: str, **params: object
) -> EncodedRequest:
    """Encode a request of the Open Inference Protocol with binary tensors."""
    data = {name: tensor.numpy().tobytes() for name, tensor in inputs.items()}
    entries = [
        {
            "name": name,
            "datatype": DATATYPES[tensor.dtype],
            "shape": [*tensor.shape],
            "parameters": {"binary_data_size": len(data[name])},
        }
        for name, tensor in inputs.items()
    ]
    outputs = [{"name": output, "parameters": {"binary_data": True}}]
    text = json.dumps({"inputs": entries, "outputs": outputs, "parameters": params}).encode()
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(text)),
    }
    return EncodedRequest(path, headers, b"".join((text, *data.values())), _decode_binary)


def grpc_request(
    model: str, inputs: Mapping[str, Tensor], output: str, **params: float
) -> EncodedRequest:
    """Encode a request of the Open Inference Protocol for gRPC, with raw tensors."""
    message = INFER.request(model_name=model)
    message.outputs.add(name=output)
    for name, value in params.items():
        message.parameters[name].double_param = value
    for name, tensor in inputs.items():
        message.inputs.add(name=name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
        message.raw_input_contents.append(tensor.numpy().tobytes())
    frame = grpc_frame(message.SerializeToString())
    return EncodedRequest(GRPC_PATH, GRPC_HEADERS, frame, _decode_message, grpc=True)


def _safetensors(workload: Workload, length: int) -> EncodedRequest:
    path, name = ("/v1/attention", "out") if workload.kv_heads else ("/v1/rotate", "q")
    body = safetensors.torch.save(inputs(workload, length), METADATA)
    headers = {"Content-Type": "application/x-safetensors"}
    return EncodedRequest(path, headers, body, lambda body: safetensors.torch.load(body)[name])


def _json(workload: Workload, length: int) -> EncodedRequest:
    path, name = ("/v1/attention", "out") if workload.kv_heads else ("/v1/rotate", "q")
    document = {name: tensor.tolist() for name, tensor in inputs(workload, length).items()}
    body = json.dumps(document | {"rope": {"theta": THETA}}).encode()
    headers = {"Content-Type": "application/json"}

    def decode(body: bytes) -> Tensor:
        tensor = json.loads(body)[name]
        return torch.tensor(tensor["data"]).view(tensor["shape"])

    return EncodedRequest(path, headers, body, decode)


def _binary(workload: Workload, length: int) -> EncodedRequest:
    model, tensors, output = _model_call(workload, length)
    return binary_request(f"/v2/models/{model}/infer", tensors, output, theta=THETA)


def _grpc(workload: Workload, length: int) -> EncodedRequest:
    model, tensors, output = _model_call(workload, length)
    return grpc_request(model, tensors, output, theta=THETA)


def _model_call(workload: Workload, length: int) -> tuple[str, dict[str, Tensor], str]:
    """Return the name of the model, its inputs, and the name of its output."""
    tensors = inputs(workload, length)
    if workload.kv_heads:
        return "rope_attention", tensors, "out"
    return "rope", {"q": tensors["q"], "positions": tensors["positions"]}, "q"


def _decode_binary(body: bytes) -> Tensor:
    document, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    (output,) = document["outputs"]
    size = output["parameters"]["binary_data_size"]
    return _tensor(body[end : end + size], output["shape"])


def _decode_message(body: bytes) -> Tensor:
    response = INFER.response.FromString(body)
    return _tensor(response.raw_output_contents[0], response.outputs[0].shape)


def _tensor(data: bytes, shape: list[int]) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float32).view(*shape)


ENCODERS: Mapping[str, Callable[[Workload, int], EncodedRequest]] = {
    "/v1 safetensors": _safetensors,
    "/v1 JSON": _json,
    "/v2 binary": _binary,
    "gRPC": _grpc,
}
"""Encoders of a request by protocol."""
