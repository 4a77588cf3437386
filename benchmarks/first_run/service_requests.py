"""Small requests to the service, and what the library answers to them on the CPU."""

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
    """A request, and the tensors that the library answers to it on the CPU."""

    path: str
    tensors: Mapping[str, Tensor]
    params: Mapping[str, object]
    expected: Callable[[], Mapping[str, Tensor]]


def mixed(count: int) -> list[Request]:
    """Return requests of the shapes of models."""
    rng = random.Random(0)
    return [_request(rng, rng.choice((64, 128)), rng.choice((1, 2, 4)), None) for _ in range(count)]


def odd(count: int) -> list[Request]:
    """Return requests of shapes that no model has."""
    rng = random.Random(1)
    windows = (None, 7)
    return [
        _request(rng, rng.randrange(40, 122, 2), rng.randint(1, 5), rng.choice(windows))
        for _ in range(count)
    ]


def _request(rng: random.Random, width: int, group: int, window: int | None) -> Request:
    """Return a small rotation or attention of random length and dtype."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    dtype = rng.choice((torch.float32, torch.float16, torch.bfloat16))
    tokens, rope = rng.randint(1, 48), RopeConfig.of(width)
    shapes = [(1, tokens, heads, width) for heads in (2 * group, 2, 2)]
    q, k, v = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    if rng.random() < 0.3:
        call = Rotate(q, k, rope)
        return Request("/v1/rotate", {"q": q, "k": k}, {}, lambda: named(rope_core.rotate(call)))
    attend = Attend(q, k, v, rope, AttentionConfig(window=window), return_lse=True)
    params = {"return_lse": True} | ({"window": window} if window else {})
    expected = lambda: named(rope_core.attend(attend))  # noqa: E731
    return Request("/v1/attention", {"q": q, "k": k, "v": v}, params, expected)


def named(result: Any) -> dict[str, Tensor]:
    """Return the tensors of an answer of the library by their names in a message."""
    found = ((name, getattr(result, name, None)) for name in ("q", "k", "out", "lse"))
    return {name: tensor for name, tensor in found if tensor is not None}
