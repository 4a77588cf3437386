"""What is asked of the service: bodies, the answers they must get, and the bare calls of torch."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import safetensors.torch
import torch
from torch import Tensor

from benchmarks import oracle, torch_baseline

MEDIA_TYPE = "application/x-safetensors"


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that are sent in turn."""

    name: str
    path: str
    lengths: tuple[int, ...]
    """Tokens of each body."""

    heads: int
    kv_heads: int = 0
    """0: rotation."""

    head_dim: int = 64
    connections: tuple[int, ...] = (1, 8, 64)
    seconds: int = 3
    """Of one measurement."""

    batch: int = 1
    """Calls that the bare one of torch runs as one, as the service's batcher does."""


def _mixed_lengths() -> tuple[int, ...]:
    seeded = torch.Generator().manual_seed(0)
    return tuple(torch.randint(16, 257, (16,), generator=seeded).tolist())


WORKLOADS = (
    Workload("rotate [1,16,8,64]", "/v1/rotate", (16,), heads=8, batch=16),
    Workload("attention S=64", "/v1/attention", (64,), heads=8, kv_heads=2),
    Workload("attention S=512", "/v1/attention", (512,), heads=8, kv_heads=2, seconds=6),
    Workload(
        "rotate [1,2048,32,128]",
        "/v1/rotate",
        (2048,),
        heads=32,
        head_dim=128,
        connections=(1, 8),
        seconds=8,
    ),
    Workload("attention S=16-256", "/v1/attention", _mixed_lengths(), heads=8, kv_heads=2),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}
LARGE = BY_NAME["rotate [1,2048,32,128]"]


def tensors(workload: Workload, length: int) -> dict[str, Tensor]:
    """Return the tensors of the request of `length` tokens, the same in every process."""
    seeded = torch.Generator().manual_seed(length)
    wanted = {"q": workload.heads}
    if workload.kv_heads:
        wanted |= {"k": workload.kv_heads, "v": workload.kv_heads}
    return {
        name: torch.randn(1, length, heads, workload.head_dim, generator=seeded)
        for name, heads in wanted.items()
    }


def body(workload: Workload, length: int) -> bytes:
    """Return a request's body, positions included, written by the format's own library."""
    sent = {**tensors(workload, length), "positions": torch.arange(length)}
    params = {"params": json.dumps({"rope": {"theta": 10_000}})}
    return safetensors.torch.save(sent, params)


def check(workload: Workload, length: int, answer: bytes) -> None:
    """Compare an answer with the float64 one; leaves the program if it is wrong."""
    name = "out" if workload.kv_heads else "q"
    check_tensor(workload, length, safetensors.torch.load(answer)[name])


def check_tensor(workload: Workload, length: int, got: Tensor) -> None:
    """Compare the tensor of an answer with the float64 one; leaves the program if it is wrong."""
    asked, at = tensors(workload, length), torch.arange(length)
    q = oracle.rotate(asked["q"][0], at)
    if workload.kv_heads:
        expected = oracle.attend(q, oracle.rotate(asked["k"][0], at), asked["v"][0])
    else:
        expected = q
    oracle.check(workload.name, got[0], expected)


def bare(workload: Workload, batch: int) -> Callable[[], object]:
    """Return the work of `batch` times all bodies as plain calls of torch, `batch` calls as one."""
    calls = [bare_call(workload, length, batch) for length in workload.lengths]

    def run() -> None:
        for call in calls:
            call()

    return run if len(calls) > 1 else calls[0]


def bare_call(workload: Workload, length: int, batch: int) -> Callable[[], object]:
    asked = tensors(workload, length)
    cos, sin = torch_baseline.tables(torch.arange(length), workload.head_dim)
    if workload.kv_heads:
        return partial(torch_baseline.attend, asked["q"], asked["k"], asked["v"], cos, sin)
    if batch == 1:
        return partial(torch_baseline.rotate, asked["q"], cos, sin)
    apart = [asked["q"].clone() for _ in range(batch)]
    return partial(torch_baseline.rotate_batch, apart, cos, sin)
