"""Attention again where a tensor is not finite, decided on the device."""

import math
from itertools import accumulate

import pytest
import torch

from rope_core import AttentionConfig
from rope_core.backends import AttentionWork
from rope_core.backends.repair import repair
from tests.core.oracle import ATTEND_BAR, LSE_BAR, expect, lse_off, off, qkv

LENGTHS = [1, 0, 70, 20, 3], [1500, 4, 90, 700, 0]
"""Queries and keys: rows of each tile, keys in several splits, none."""


@pytest.fixture
def work(device):
    q, k, v = qkv((94, 4, 16), (2294, 2, 16), dtype=torch.bfloat16)
    ends = tuple(torch.tensor([0, *accumulate(n)], dtype=torch.int32) for n in LENGTHS)
    q, k, v, *ends = (t.to(device) for t in (q, k, v, *ends))
    return AttentionWork(q, k, v, AttentionConfig(), LENGTHS, tuple(ends))


def repaired(work):
    out, lse = torch.full_like(work.q, 7), torch.full_like(work.q[..., 0], 7, dtype=torch.float32)
    repair(work, out, lse, (work.q, work.k, work.v))
    return out, lse


def test_nothing_is_written_where_all_is_finite(work):
    out, lse = repaired(work)
    assert out.eq(7).all()
    assert lse.eq(7).all()


@pytest.mark.parametrize("bad", [math.nan, -math.inf, 2.0**50], ids=str)
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_all_is_written_where_a_number_is_not_finite(work, where, bad):
    expected = expect(work.q, work.k, work.v, work.config, *work.cu_seqlens)
    getattr(work, where)[0] = bad  # the first sequence sees it
    out, lse = repaired(work)
    assert off(out[1:], expected[0][1:]) <= ATTEND_BAR[torch.bfloat16]
    assert lse_off(lse[1:], expected[1][1:]) <= LSE_BAR[torch.bfloat16]
    assert not out[0].eq(7).any()
