"""Workloads of the service: inputs, checks of outputs, and the same work in plain torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import oracle, torch_baseline


@dataclass(frozen=True, slots=True)
class Workload:
    """A request for each of `lengths`. The load generator sends them in rotation."""

    name: str
    lengths: tuple[int, ...]
    """Tokens of each request."""

    heads: int
    kv_heads: int = 0
    """0 means rotation."""

    head_dim: int = 64
    protocol: str = "/v1 safetensors"
    """A key of `encodings.ENCODERS`."""

    connections: tuple[int, ...] = (1, 8, 64)
    seconds: int = 3
    """Duration of one measurement."""

    batch: int = 1
    """Calls that plain torch runs as one batch, like the service's batcher."""


def _mixed_lengths() -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(16, 257, (16,), generator=generator).tolist())


TINY = Workload("rotate [1,16,8,64]", (16,), heads=8, batch=16)
S64 = Workload("attention S=64", (64,), heads=8, kv_heads=2)
LARGE = Workload(
    "rotate [1,2048,32,128]", (2048,), heads=32, head_dim=128, connections=(1, 8), seconds=6
)
WORKLOADS = (
    TINY,
    S64,
    Workload("attention S=512", (512,), heads=8, kv_heads=2, seconds=6),
    Workload("attention S=16-256", _mixed_lengths(), heads=8, kv_heads=2),
    replace(TINY, name="rotate [1,16,8,64], JSON", protocol="/v1 JSON"),
    LARGE,
    replace(TINY, name="rotate [1,16,8,64], /v2", protocol="/v2 binary"),
    replace(S64, name="attention S=64, /v2", protocol="/v2 binary"),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}


def tensors(workload: Workload, length: int) -> dict[str, Tensor]:
    """Return the tensors `[1, S, H, D]` of the request with `length` tokens; deterministic."""
    generator = torch.Generator().manual_seed(length)
    num_heads = {"q": workload.heads}
    if workload.kv_heads:
        num_heads |= {"k": workload.kv_heads, "v": workload.kv_heads}
    return {
        name: torch.randn(1, length, heads, workload.head_dim, generator=generator)
        for name, heads in num_heads.items()
    }


def check(workload: Workload, length: int, actual: Tensor) -> None:
    """Check the output `[1, S, H, D]` of a request against float64.

    Raises:
        SystemExit: it is wrong; nothing is timed then.
    """
    inputs, positions = tensors(workload, length), torch.arange(length)
    expected = oracle.rotate(inputs["q"][0], positions)
    if workload.kv_heads:
        k = oracle.rotate(inputs["k"][0], positions)
        expected = oracle.attend(expected, k, inputs["v"][0])
    oracle.check(workload.name, actual[0], expected)


def torch_calls(workload: Workload, batch: int) -> Callable[[], object]:
    """Return a function that does the work of `batch` copies of all requests in plain torch."""
    calls = [torch_call(workload, length, batch) for length in workload.lengths]

    def run() -> None:
        for call in calls:
            call()

    return run if len(calls) > 1 else calls[0]


def torch_call(workload: Workload, length: int, batch: int) -> Callable[[], object]:
    """Return a function that does `batch` requests of `length` tokens in plain torch."""
    inputs = tensors(workload, length)
    cos, sin = torch_baseline.tables(torch.arange(length), workload.head_dim)
    if workload.kv_heads:
        return partial(torch_baseline.attend, inputs["q"], inputs["k"], inputs["v"], cos, sin)
    if batch == 1:
        return partial(torch_baseline.rotate, inputs["q"], cos, sin)
    batch_inputs = [inputs["q"].clone() for _ in range(batch)]
    return partial(torch_baseline.rotate_batch, batch_inputs, cos, sin)
