"""Requests of the overload profiles, with the responses that the server must give."""

import json
from dataclasses import replace

import safetensors.torch
import torch

from benchmarks import encodings
from benchmarks.encodings import EncodedRequest
from benchmarks.load import Exchange
from benchmarks.servers import Server
from benchmarks.workloads import S64, Workload


def exchange(
    server: Server,
    deadline_ms: int | None,
    workload: Workload = S64,
    *,
    closes: bool = False,
    key: str = "",
) -> Exchange:
    """Return a request of a workload, and the response of the server, which is checked."""
    (length,) = workload.lengths
    request = encodings.encode(workload, length)
    if key:
        request = replace(request, headers={**request.headers, "Authorization": f"Bearer {key}"})
    response = encodings.output(workload, length, request, server)
    headers = {"X-Request-Timeout-Ms": str(deadline_ms)} if deadline_ms else {}
    headers |= {"Connection": "close"} if closes else {}
    return Exchange(replace(request, headers={**request.headers, **headers}).http(), response)


def sized_exchange(server: Server, size: int, deadline_ms: int) -> Exchange:
    """Return a rotation with a request of about `size` bytes, and its response."""
    heads, head_dim = (1, 64) if size < 1 << 15 else (32, 128)
    tokens = (size - 512) // (heads * head_dim * 4 + 8)
    name = f"rotate {tokens} tokens of {heads} x {head_dim}"
    workload = Workload(name, (tokens,), heads=heads, head_dim=head_dim)
    return exchange(server, deadline_ms, workload)


def large_answer_request() -> EncodedRequest:
    """Return a request of 128 KiB whose answer has 64 MiB."""
    width = 1024
    positions = torch.arange((64 << 20) // (width * 4))
    params = json.dumps({"rope": {"head_dim": width}})
    body = safetensors.torch.save({"positions": positions}, {"params": params})
    headers = {"Content-Type": "application/x-safetensors"}
    return EncodedRequest("/v1/cos_sin", headers, body, lambda body: torch.empty(0))
