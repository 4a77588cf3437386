"""Attention over parts of the keys, merged, is attention over all of them."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import Attend, AttentionConfig, Merge, attend, merge
from tests.core.oracle import ATTEND_BAR, DTYPES, expect, lse_off, off, qkv

SEE_ALL = AttentionConfig(causal=False)


def shards(q, k, v, ends, config=SEE_ALL):
    """Attend to the keys between `ends` each, and stack the answers."""
    answers = [
        attend(Attend(q, k[..., i:j, :, :], v[..., i:j, :, :], None, config, return_lse=True))
        for i, j in itertools.pairwise(ends)
    ]
    return Merge(torch.stack([a.out for a in answers]), torch.stack([a.lse for a in answers]))


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 40), max_size=6).map(sorted))
def test_merged_parts_are_one_pass(cuts):
    q, k, v = qkv((5, 4, 16), (40, 2, 16))
    merged = merge(shards(q, k, v, [0, *cuts, 40]))  # cuts that coincide leave a part empty
    out, lse = expect(q, k, v, SEE_ALL)
    assert off(merged.out, out) <= 1e-6
    assert lse_off(merged.lse, lse) <= 1e-6


@pytest.mark.parametrize("lead", [(), (3,)], ids=["packed", "batch"])
def test_parts_of_any_shape(lead):
    q, k, v = qkv((*lead, 5, 4, 16), (*lead, 40, 2, 16), value_dim=7)
    merged = merge(shards(q, k, v, [0, 13, 40]))
    out, lse = expect(q, k, v, SEE_ALL)
    assert off(merged.out, out) <= 1e-6
    assert lse_off(merged.lse, lse) <= 1e-6


def test_a_causal_part_and_those_before_it():
    q, k, v = qkv((8, 4, 16), (24, 2, 16))
    past, own = shards(q, k, v, [0, 16]), shards(q, k, v, [16, 24], AttentionConfig())
    merged = merge(Merge(torch.cat((past.out, own.out)), torch.cat((past.lse, own.lse))))
    out, lse = expect(q, k, v, AttentionConfig())
    assert off(merged.out, out) <= 1e-6
    assert lse_off(merged.lse, lse) <= 1e-6


@pytest.mark.parametrize("first", [1, 2, 3])
def test_merging_is_associative(first):
    parts = shards(*qkv((5, 4, 16), (40, 2, 16)), [0, 7, 7, 12, 40])
    one, other = (
        merge(Merge(parts.out[part], parts.lse[part])) for part in (slice(first), slice(first, 4))
    )
    nested = merge(Merge(torch.stack((one.out, other.out)), torch.stack((one.lse, other.lse))))
    flat = merge(parts)
    assert off(nested.out, flat.out) <= 1e-6
    assert lse_off(nested.lse, flat.lse.double()) <= 1e-6


def test_order_does_not_matter():
    parts = shards(*qkv((5, 4, 16), (40, 2, 16)), [0, 7, 12, 40])
    assert off(merge(Merge(parts.out.flip(0), parts.lse.flip(0))).out, merge(parts).out) <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_part_is_itself(dtype):
    part = shards(*qkv((5, 4, 16), (40, 2, 16), dtype=dtype), [0, 40])
    merged = merge(part)
    assert merged.out.dtype == dtype
    assert torch.equal(merged.out, part.out[0])
    assert torch.equal(merged.lse, part.lse[0])


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_parts_in_half_precision_cost_a_rounding_each(dtype):
    q, k, v = qkv((5, 4, 16), (40, 2, 16), dtype=dtype)
    merged = merge(shards(q, k, v, range(0, 41, 4)))
    out, _ = expect(q, k, v, SEE_ALL)
    assert merged.out.dtype == dtype
    assert merged.lse.dtype == torch.float32
    assert off(merged.out, out) <= 1.3 * ATTEND_BAR[dtype]


def test_a_part_that_saw_no_key_counts_for_nothing_whatever_it_holds():
    parts = shards(*qkv((5, 4, 16), (40, 2, 16)), [0, 7, 40])
    empty = torch.full_like(parts.lse[:1], -math.inf)
    for junk in (0.0, math.nan, math.inf):
        out = torch.cat((parts.out[:1], torch.full_like(parts.out[:1], junk), parts.out[1:]))
        merged = merge(Merge(out, torch.cat((parts.lse[:1], empty, parts.lse[1:]))))
        assert off(merged.out, merge(parts).out) <= 1e-6
        assert lse_off(merged.lse, merge(parts).lse.double()) <= 1e-6


def test_where_no_part_saw_a_key_there_is_nothing():
    merged = merge(Merge(torch.full((2, 5, 4, 16), math.nan), torch.full((2, 5, 4), -math.inf)))
    assert torch.equal(merged.out, torch.zeros(5, 4, 16))
    assert torch.equal(merged.lse, torch.full((5, 4), -math.inf))


@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_large_log_sum_exps_do_not_overflow(far):
    parts = shards(*qkv((5, 4, 16), (40, 2, 16)), [0, 7, 40])
    merged = merge(Merge(parts.out, parts.lse + far))
    assert off(merged.out, merge(parts).out) <= 2e-3  # float32 holds 1e4 to within 1e-3
    assert off(merged.lse, merge(parts).lse + far) <= 1e-6


def test_no_rows_give_no_rows_and_inputs_are_never_written_to():
    assert merge(Merge(torch.empty(3, 0, 4, 16), torch.empty(3, 0, 4))).out.shape == (0, 4, 16)
    parts = shards(*qkv((5, 4, 16), (40, 2, 16)), [0, 7, 40])
    before = parts.out.clone(), parts.lse.clone()
    merge(parts)
    assert torch.equal(parts.out, before[0])
    assert torch.equal(parts.lse, before[1])
