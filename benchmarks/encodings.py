"""The forms of one request: as each protocol writes it, where it goes, and what its answer says."""

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
DATATYPES = {torch.float32: "FP32", torch.int64: "INT64"}


@dataclass(frozen=True, slots=True)
class Form:
    """A request, written."""

    name: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    """As a load generator sends it."""
    read: Callable[[bytes], Tensor]
    """Returns the tensor of an answer."""
    grpc: bool = False


def forms(workload: Workload) -> list[Form]:
    """Return the request in every form."""
    (length,) = workload.lengths
    native = workloads.body(workload, length)
    name = "out" if workload.kv_heads else "q"
    model = "rope_attention" if workload.kv_heads else "rope"
    asked = {**workloads.tensors(workload, length), "positions": torch.arange(length)}
    if not workload.kv_heads:
        asked["x"] = asked.pop("q")
    output = "output" if workload.kv_heads else "rotated"
    head, binary = _binary(asked, output)
    headers = {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(head),
    }
    message = _message(model, asked, output)
    return [
        Form(
            "/v1 safetensors",
            workload.path,
            HEADERS,
            native,
            lambda answer: safetensors.torch.load(answer)[name],
        ),
        Form("/v2 binary", f"/v2/models/{model}/infer", headers, binary, _read_binary),
        Form("gRPC", GRPC_PATH, GRPC_HEADERS, framed(message), _read_message, grpc=True),
    ]


def framed(message: bytes) -> bytes:
    """Return a message as gRPC sends it: uncompressed, behind its length."""
    return struct.pack(">BI", 0, len(message)) + message


def ask(server: Server, form: Form) -> bytes:
    """Return the answer to a request, of gRPC without its frame.

    Raises:
        SystemExit: there is none.
    """
    if form.grpc:
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            return bytes(channel.unary_unary(form.path)(form.body[5:], timeout=60))
    status, answer = server.ask("POST", form.path, form.body, form.headers)
    if status != 200:
        raise SystemExit(f"{form.name}: {status} {answer[:500]!r}")
    return answer


def _binary(asked: Mapping[str, Tensor], output: str) -> tuple[int, bytes]:
    """Return a request of the binary extension, and the length of its JSON."""
    blobs = {name: each.numpy().tobytes() for name, each in asked.items()}
    inputs = [
        {
            "name": name,
            "datatype": DATATYPES[each.dtype],
            "shape": [*each.shape],
            "parameters": {"binary_data_size": len(blobs[name])},
        }
        for name, each in asked.items()
    ]
    outputs = [{"name": output, "parameters": {"binary_data": True}}]
    document = {"inputs": inputs, "outputs": outputs, "parameters": {"theta": THETA}}
    text = json.dumps(document).encode()
    return len(text), b"".join((text, *blobs.values()))


def _read_binary(answer: bytes) -> Tensor:
    document, end = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    (output,) = document["outputs"]
    size = output["parameters"]["binary_data_size"]
    return _tensor(answer[end : end + size], output["shape"])


def _message(model: str, asked: Mapping[str, Tensor], output: str) -> bytes:
    request = INFER.request(model_name=model)
    request.outputs.add(name=output)
    request.parameters["theta"].double_param = THETA
    for name, each in asked.items():
        request.inputs.add(name=name, datatype=DATATYPES[each.dtype], shape=each.shape)
        request.raw_input_contents.append(each.numpy().tobytes())
    return bytes(request.SerializeToString())


def _read_message(answer: bytes) -> Tensor:
    told = INFER.response.FromString(answer)
    return _tensor(told.raw_output_contents[0], told.outputs[0].shape)


def _tensor(data: bytes, shape: list[int]) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float32).view(*shape)
