"""Small requests to the service, with the results that the library computes on the CPU."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import rope_core
from rope_core import Attend, AttentionConfig, RopeConfig, Rotate


@dataclass(frozen=True, slots=True)
class Request:
    """A request and its expected result."""

    path: str
    tensors: Mapping[str, Tensor]
    params: Mapping[str, object]
    expected: Callable[[], Mapping[str, Tensor]]
    """Computes the tensors of the response with the library, on the CPU."""


def mixed_requests(count: int) -> list[Request]:
    """Return requests with head sizes and groups that models have."""
    rng = random.Random(0)
    return [_request(rng, rng.choice((64, 128)), rng.choice((1, 2, 4)), None) for _ in range(count)]


def odd_requests(count: int) -> list[Request]:
    """Return requests with head sizes and groups that no model has."""
    rng = random.Random(1)
    windows = (None, 7)
    return [
        _request(rng, rng.randrange(40, 122, 2), rng.randint(1, 5), rng.choice(windows))
        for _ in range(count)
    ]


def _request(rng: random.Random, head_dim: int, group: int, window: int | None) -> Request:
    """Return a small rotation or attention of random length and dtype."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    dtype = rng.choice((torch.float32, torch.float16, torch.bfloat16))
    tokens, rope = rng.randint(1, 48), RopeConfig.of(head_dim)
    shapes = [(1, tokens, heads, head_dim) for heads in (2 * group, 2, 2)]
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    if rng.random() < 0.3:
        rotate = Rotate(q, k, rope)
        expected = lambda: result_tensors(rope_core.rotate(rotate))  # noqa: E731
        return Request("/v1/rotate", {"q": q, "k": k}, {}, expected)
    attend = Attend(q, k, v, rope, AttentionConfig(window=window), return_lse=True)
    params = {"return_lse": True} | ({"window": window} if window else {})
    expected = lambda: result_tensors(rope_core.attend(attend))  # noqa: E731
    return Request("/v1/attention", {"q": q, "k": k, "v": v}, params, expected)


def result_tensors(result: Any) -> dict[str, Tensor]:
    """Return the tensors of a result of the library under their names in a response."""
    tensors = ((name, getattr(result, name, None)) for name in ("q", "k", "out", "lse"))
    return {name: tensor for name, tensor in tensors if tensor is not None}
