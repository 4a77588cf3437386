"""Operands that do not lie in a row in memory are answered as those that do."""

import dataclasses

import pytest
import torch

from rope_core import Attend, Merge, RopeConfig, Rotate, merge
from tests.core.oracle import attended, off, randn
from tests.core.test_rotate import rotated_by

ENDS = torch.tensor([0, 9, 2, 9, 6, 9], dtype=torch.int32)[::2]
PLACES = torch.arange(12)[::2]
GIVEN = {
    "sinks": {"sinks": torch.arange(8.0)[::2]},
    "one sink for all heads": {"sinks": torch.tensor([50.0, 1, 1, 1])[:1].expand(4)},
    "boundaries": {"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS},
    "places": {"q_index": PLACES, "k_index": PLACES},
    "places of a pack": {
        "q_index": PLACES,
        "k_index": PLACES,
        "cu_seqlens_q": ENDS,
        "cu_seqlens_k": ENDS,
    },
    "a mask": {"mask": (randn(6, 12, seed=3) > -0.5)[:, ::2]},
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_what_comes_with_attention(backend, given):
    q, k = randn(6, 4, 16), randn(6, 2, 16, seed=1)
    even = {name: value.contiguous() for name, value in given.items()}
    found, expected = (attended(Attend(q, k, k, None, **g), backend) for g in (given, even))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("in_place", [False, True])
def test_heads_that_are_rotated(backend, in_place):
    lies = randn(5, 4, 64)[..., ::2]
    even, rope = lies.contiguous(), RopeConfig.of(32, rotary_dim=16)
    call, expected = Rotate(lies, None, rope), rotated_by(backend, Rotate(even, None, rope))
    out = dataclasses.replace(expected, q=lies) if in_place else None
    assert torch.equal(rotated_by(backend, call, out).q, expected.q)


def test_parts_that_are_merged(backend):
    if backend.name == "sdpa":
        pytest.skip("sdpa: it computes attention only")
    parts, lse = randn(3, 6, 4, 32)[..., ::2], randn(3, 4, 6, seed=1).transpose(1, 2)
    found = merge(Merge(parts, lse), backend.name)
    even = merge(Merge(parts.contiguous(), lse.contiguous()), "eager")
    assert off(found.out, even.out.double()) <= 1e-6
    assert off(found.lse, even.lse.double()) <= 1e-6
