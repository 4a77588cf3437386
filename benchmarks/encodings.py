"""One request encoded for each protocol, and how to decode the response."""

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
from benchmarks.servers import HEADERS, Server
from benchmarks.workloads import Workload
from service.oip.grpc.messages import METHODS

WORKLOADS = (
    Workload("rotate [1,1,4,64]", "/v1/rotate", (1,), heads=4, seconds=2),
    Workload("rotate [1,128,8,128]", "/v1/rotate", (128,), heads=8, head_dim=128, seconds=2),
    Workload("attention S=64", "/v1/attention", (64,), heads=8, kv_heads=2, seconds=2),
)
THETA = 10_000.0
INFER = METHODS["ModelInfer"]
GRPC_PATH = "/" + "/".join(METHOD)
GRPC_HEADERS = {"Content-Type": "application/grpc", "TE": "trailers"}
GRPC_PREFIX_BYTES = 5
DATATYPES = {torch.float32: "FP32", torch.int64: "INT64"}


@dataclass(frozen=True, slots=True)
class EncodedRequest:
    """A request in one protocol."""

    name: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    """The bytes that a load generator sends."""

    decode: Callable[[bytes], Tensor]
    """Returns the tensor of a response body."""

    grpc: bool = False


def encode(workload: Workload) -> list[EncodedRequest]:
    """Encode the request of a workload for every protocol."""
    (length,) = workload.lengths
    native = workloads.request_body(workload, length)
    name = "out" if workload.kv_heads else "q"
    model = "rope_attention" if workload.kv_heads else "rope"
    inputs = {**workloads.tensors(workload, length), "positions": torch.arange(length)}
    if not workload.kv_heads:
        inputs["x"] = inputs.pop("q")
    output = "output" if workload.kv_heads else "rotated"
    json_length, binary = _encode_binary(inputs, output)
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(json_length),
    }
    message = _encode_message(model, inputs, output)
    return [
        EncodedRequest(
            "/v1 safetensors",
            workload.path,
            HEADERS,
            native,
            lambda body: safetensors.torch.load(body)[name],
        ),
        EncodedRequest("/v2 binary", f"/v2/models/{model}/infer", headers, binary, _decode_binary),
        EncodedRequest(
            "gRPC", GRPC_PATH, GRPC_HEADERS, grpc_frame(message), _decode_message, grpc=True
        ),
    ]


def grpc_frame(message: bytes) -> bytes:
    """Return a message with gRPC's prefix: no compression, and the length."""
    return struct.pack(">BI", 0, len(message)) + message


def send(server: Server, request: EncodedRequest) -> bytes:
    """Send a request; return the body of the response, for gRPC without its prefix.

    Raises:
        SystemExit: the status is not 200.
    """
    if request.grpc:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            return bytes(
                channel.unary_unary(request.path)(request.body[GRPC_PREFIX_BYTES:], timeout=60)
            )
    status, body = server.request("POST", request.path, request.body, request.headers)
    if status != 200:
        raise SystemExit(f"{request.name}: {status} {body[:500]!r}")
    return body


def _encode_binary(inputs: Mapping[str, Tensor], output: str) -> tuple[int, bytes]:
    """Return the length of the JSON, and a body with binary tensors."""
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
    document = {"inputs": entries, "outputs": outputs, "parameters": {"theta": THETA}}
    text = json.dumps(document).encode()
    return len(text), b"".join((text, *data.values()))


def _decode_binary(body: bytes) -> Tensor:
    document, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))
    (output,) = document["outputs"]
    size = output["parameters"]["binary_data_size"]
    return _tensor(body[end : end + size], output["shape"])


def _encode_message(model: str, inputs: Mapping[str, Tensor], output: str) -> bytes:
    request = INFER.request(model_name=model)
    request.outputs.add(name=output)
    request.parameters["theta"].double_param = THETA
    for name, tensor in inputs.items():
        request.inputs.add(name=name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
        request.raw_input_contents.append(tensor.numpy().tobytes())
    return bytes(request.SerializeToString())


def _decode_message(body: bytes) -> Tensor:
    response = INFER.response.FromString(body)
    return _tensor(response.raw_output_contents[0], response.outputs[0].shape)


def _tensor(data: bytes, shape: list[int]) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float32).view(*shape)
