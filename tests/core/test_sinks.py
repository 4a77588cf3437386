"""Sinks: a score of each head that joins the softmax and brings no value."""

import math

import pytest
import torch

from rope_core import Attend, AttentionConfig, Merge, RopeConfig, attend, merge
from tests.core.oracle import ATTEND_BAR, DTYPES, LSE_BAR, expect, lse_off, off, qkv, randn, run

SINKS = 2 * randn(6)
CONFIGS = {
    "causal": {},
    "all seen": {"causal": False},
    "a window": {"window": 3},
    "a window to both sides": {"causal": False, "window": 2, "window_ahead": 3},
    "chunks": {"chunk": 4},
    "a soft-cap": {"softcap": 0.5},
    "a scale": {"scale": 0.7},
}
every_config = pytest.mark.parametrize("given", CONFIGS.values(), ids=CONFIGS)


@every_config
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "shapes",
    [((9, 6, 16), (9, 2, 16)), ((2, 5, 6, 16), (2, 12, 3, 16)), ((1, 6, 16), (12, 1, 16))],
    ids=str,
)
def test_every_backend_is_near_the_reference(backend, shapes, given, dtype):
    q, k, v = qkv(*shapes, dtype=dtype)
    config = AttentionConfig(**given)
    for sinks in (SINKS, SINKS.bfloat16(), SINKS + 30, SINKS - 30):
        out, lse = run(backend, q, k, v, config, sinks=sinks)
        expected_out, expected_lse = expect(q, k, v, config, sinks=sinks)
        assert out.dtype == dtype
        if expected_out.norm() > 1e-3:  # else below what float16 holds
            assert off(out, expected_out) <= ATTEND_BAR[dtype]
        assert lse_off(lse, expected_lse) <= LSE_BAR[dtype]


def test_a_sink_is_a_key_more_whose_score_is_the_sink_and_whose_value_is_0(backend):
    """A wider head holds it: q's last element is the sink, that of the key more is 1."""
    q, k, v = qkv((5, 6, 16), (9, 2, 16))
    config = AttentionConfig(causal=False, scale=1.0)
    out, lse = run(backend, q, k, v, config, sinks=SINKS)
    wide_q = torch.cat((q, SINKS[None, :, None].expand(5, 6, 1)), -1)
    one = torch.zeros(1, 2, 17)
    one[..., -1] = 1
    wide_k, wide_v = (torch.cat((one * (x is k), pad(x))) for x in (k, v))
    more_out, more_lse = run(backend, wide_q, wide_k, wide_v, config)
    assert off(out, more_out[..., :-1].double()) <= 1e-6
    assert lse_off(lse, more_lse.double()) <= 1e-6


def pad(x):
    return torch.nn.functional.pad(x, (0, 1))


def test_a_sink_of_minus_infinity_is_none(backend):
    q, k, v = qkv((9, 6, 16), (12, 2, 16))
    none = torch.full((6,), -math.inf)
    plain, sunk = run(backend, q, k, v), run(backend, q, k, v, sinks=none)
    assert all(torch.equal(one, other) for one, other in zip(plain, sunk, strict=True))


def test_a_query_that_sees_no_key_answers_0_and_its_sink(backend):
    for num_queries, num_keys in ((7, 3), (3, 0)):
        q, k, v = qkv((num_queries, 6, 8), (num_keys, 2, 8))
        out, lse = run(backend, q, k, v, sinks=SINKS)
        blind = num_queries - num_keys
        assert not out[:blind].any()
        assert torch.equal(lse[:blind], SINKS.expand(blind, 6))


def test_parts_of_the_keys_of_which_one_has_the_sinks_merge_into_one_pass():
    q, k, v = qkv((5, 6, 16), (40, 2, 16))
    see_all = AttentionConfig(causal=False)
    parts = [
        attend(Attend(q, k[at], v[at], None, see_all, return_lse=True, sinks=sinks))
        for at, sinks in ((slice(9), None), (slice(9, 30), SINKS), (slice(30, 40), None))
    ]
    merged = merge(Merge(torch.stack([p.out for p in parts]), torch.stack([p.lse for p in parts])))
    out, lse = expect(q, k, v, see_all, sinks=SINKS)
    assert off(merged.out, out) <= 1e-6
    assert lse_off(merged.lse, lse) <= 1e-6


def test_packed_sequences_share_the_sinks(backend):
    q, k, v = qkv((7, 6, 16), (7, 2, 16))
    ends = torch.tensor([0, 2, 2, 7])
    out, lse = run(backend, q, k, v, None, ends, ends, sinks=SINKS)
    expected_out, expected_lse = expect(q, k, v, AttentionConfig(), ends, ends, sinks=SINKS)
    assert off(out, expected_out) <= 1e-6
    assert lse_off(lse, expected_lse) <= 1e-6


def test_inputs_are_never_written_to():
    q, k, v = qkv((2, 9, 6, 16), (2, 12, 2, 16))
    given = [q, k, v, SINKS, torch.zeros(9, 12)]
    before = [t.clone() for t in given]
    for mask in (None, given[-1]):
        attend(Attend(q, k, v, RopeConfig.of(16), sinks=SINKS, mask=mask))
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))
