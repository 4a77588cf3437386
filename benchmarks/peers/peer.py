"""The peers, and how each takes its requests."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import encodings
from benchmarks.encodings import EncodedRequest
from benchmarks.workloads import Workload


@dataclass(frozen=True, slots=True)
class Peer:
    """A server with the torch function of `functions.py`."""

    name: str
    module: str
    """A module of this package, which serves on `--http-port`."""

    encode: Callable[[Workload, int], EncodedRequest]
    workloads: tuple[str, ...]
    requirements: str | None = None
    """A file of `requirements/`; None if the packages of the service are enough."""

    ready_path: str = "/readyz"
    grpc: bool = False
    """Whether the server also takes `--grpc-port`."""


def _raw(workload: Workload, length: int) -> EncodedRequest:
    """Encode the body that `functions.read_raw` reads."""
    tensors = encodings.inputs(workload, length)
    shape = struct.pack("=4q", length, workload.heads, workload.kv_heads, workload.head_dim)
    body = b"".join((shape, *(tensor.numpy().tobytes() for tensor in tensors.values())))
    headers = {"Content-Type": "application/octet-stream"}
    output_shape = 1, length, workload.heads, workload.head_dim
    return EncodedRequest(
        "/compute",
        headers,
        body,
        lambda body: torch.frombuffer(bytearray(body), dtype=torch.float32).view(output_shape),
    )


def _json(workload: Workload, length: int) -> EncodedRequest:
    tensors = encodings.inputs(workload, length)
    body = json.dumps({name: tensor.tolist() for name, tensor in tensors.items()}).encode()
    headers = {"Content-Type": "application/json"}
    return EncodedRequest(
        "/compute", headers, body, lambda body: torch.tensor(json.loads(body)["out"])
    )


def _triton_http(workload: Workload, length: int) -> EncodedRequest:
    model, tensors = _triton_call(workload, length)
    return encodings.binary_request(f"/v2/models/{model}/infer", tensors, "out")


def _triton_grpc(workload: Workload, length: int) -> EncodedRequest:
    model, tensors = _triton_call(workload, length)
    return encodings.grpc_request(model, tensors, "out")


def _triton_call(workload: Workload, length: int) -> tuple[str, dict[str, torch.Tensor]]:
    tensors = encodings.inputs(workload, length)
    tensors["positions"] = tensors["positions"][None]
    return "attend" if workload.kv_heads else "rotate", tensors


TENSORS = (
    "rotate [1,16,8,64]",
    "attention S=64",
    "attention S=512",
    "attention S=16-256",
    "rotate [1,2048,32,128]",
)
PEERS = (
    Peer("FastAPI", "fastapi_raw", _raw, TENSORS),
    Peer("FastAPI + orjson", "fastapi_orjson", _json, ("rotate [1,16,8,64], JSON",)),
    Peer("LitServe", "litserve_server", _raw, TENSORS, "litserve", "/health"),
    Peer(
        "Triton, HTTP", "triton_server", _triton_http, TENSORS, "triton", "/v2/health/ready", True
    ),
    # h2load sends one body, and a run of it is too short for 32 MiB
    Peer(
        "Triton, gRPC",
        "triton_server",
        _triton_grpc,
        TENSORS[:3],
        "triton",
        "/v2/health/ready",
        True,
    ),
    Peer("Ray Serve", "ray_server", _raw, TENSORS, "ray", "/-/healthz"),
)
