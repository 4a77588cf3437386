"""The function that every peer serves: rotation, or rotation and causal attention, in torch."""

import warnings
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from benchmarks import torch_baseline

MAX_POSITIONS = 4096
MAX_BATCH = 16

Tensors = dict[str, Tensor]
"""q `[B, S, H, D]` float32 and positions `[B, S]` int64; for attention also k and v."""


def set_up() -> None:
    """Prepare the process that computes: one thread, as it has one core."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "The given buffer is not writable")


@torch.inference_mode()
def compute(tensors: Tensors) -> Tensor:
    """Return the rotated q, or attention, `[B, S, H, D]`."""
    q, positions = tensors["q"], tensors["positions"]
    cos, sin = (table[positions] for table in _tables(q.shape[-1]))
    if "k" in tensors:
        return torch_baseline.attend(q, tensors["k"], tensors["v"], cos, sin).contiguous()
    return torch_baseline.rotate(q, cos, sin)


def compute_batch(requests: Sequence[Tensors]) -> Sequence[Tensor]:
    """Return the output of each request; requests with equal shapes are computed at once."""
    first = requests[0]
    if len(requests) == 1 or any(_shapes(request) != _shapes(first) for request in requests):
        return [compute(request) for request in requests]
    batch = {name: torch.cat([request[name] for request in requests]) for name in first}
    return compute(batch).split(1)


def read_raw(body: bytes) -> Tensors:
    """Return the tensors of a body: four int64, and then one tensor after another.

    The numbers are tokens, heads, heads of k and v (0 for a rotation), and head_dim.
    """
    tokens, heads, kv_heads, head_dim = torch.frombuffer(body, dtype=torch.int64, count=4).tolist()
    num_heads = {"q": heads, "k": kv_heads, "v": kv_heads} if kv_heads else {"q": heads}
    tensors, offset = {}, 32
    for name, n in num_heads.items():
        count = tokens * n * head_dim
        flat = torch.frombuffer(body, dtype=torch.float32, count=count, offset=offset)
        tensors[name] = flat.view(1, tokens, n, head_dim)
        offset += 4 * count
    tensors["positions"] = torch.frombuffer(body, dtype=torch.int64, offset=offset)[None]
    return tensors


@cache
def _tables(head_dim: int) -> tuple[Tensor, Tensor]:
    return torch_baseline.tables(torch.arange(MAX_POSITIONS), head_dim)


def _shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
