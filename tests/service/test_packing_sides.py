"""Packs of attention that rotates one side answer what each call answers alone."""

import dataclasses

import pytest
import torch

from rope_core import Attend, RopeConfig, attend
from service.batching.packing.attention import attention_key, pack_attention
from tests.core.oracle import randn

ROPE = RopeConfig.of(16)


def call(num_queries: int, num_keys: int, side: str, counts: bool) -> Attend:
    q, k = randn(1, num_queries, 4, 16, seed=num_keys), randn(1, num_keys, 2, 16, seed=1)
    places = {}
    if not counts and side != "none":
        places = {f"{name}_positions": None for name in "qk"}
        for name, length in (("q", num_queries), ("k", num_keys)):
            if side in ("both", name):
                places[f"{name}_positions"] = torch.arange(3, 3 + length)[None]
    return Attend(q, k, k, ROPE, rotate=side, **places)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("side", ["both", "q", "k", "none"])
def test_a_pack_answers_as_its_calls(side, counts):
    calls = [call(2, 7, side, counts), call(5, 5, side, counts), call(1, 3, side, counts)]
    calls = [each for each in calls if attention_key(each) == attention_key(calls[0])]
    assert len(calls) >= 2
    pack = pack_attention(calls)
    assert ("k_positions" in pack.inputs) == (side in ("both", "k"))
    results = pack.split(attend(pack.on_host, "eager"))
    for each, result in zip(calls, results, strict=True):
        torch.testing.assert_close(result.out, attend(each, "eager").out)


def test_other_sides_are_not_packed_together():
    calls = [call(2, 7, side, counts=True) for side in ("both", "q", "k", "none")]
    assert len({attention_key(each) for each in calls}) == 4
    unscaled = dataclasses.replace(calls[1], rotate="both")
    assert attention_key(unscaled) == attention_key(calls[0])
