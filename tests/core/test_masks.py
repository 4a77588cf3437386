"""Which keys a query sees: masks, chunks, and windows that look ahead."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import Attend, AttentionConfig, RopeConfig, attend
from rope_core.backends import eager
from rope_core.reference import attention_mask
from tests.core.oracle import ATTEND_BAR, DTYPES, LSE_BAR, expect, lse_off, off, qkv, randn, run

SEE_ALL = AttentionConfig(causal=False)
CONFIGS = {
    "causal": AttentionConfig(),
    "all seen": SEE_ALL,
    "a window": AttentionConfig(window=3),
    "a window to both sides": AttentionConfig(causal=False, window=2, window_ahead=3),
    "chunks": AttentionConfig(chunk=4),
    "a soft-cap": AttentionConfig(softcap=0.5, scale=1.0),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def pattern(num_queries, num_keys, **config):
    seen = attention_mask(num_queries, num_keys, AttentionConfig(**config))
    return ["".join(".x"[key] for key in row) for row in seen.int().tolist()]


def test_what_is_seen():
    assert pattern(5, 5, chunk=3) == ["x....", "xx...", "xxx..", "...x.", "...xx"]
    assert pattern(2, 5, chunk=3) == ["...x.", "...xx"]
    assert pattern(4, 2, chunk=1) == ["..", "..", "x.", ".x"]
    assert pattern(5, 5, chunk=3, causal=False) == ["xxx..", "xxx..", "xxx..", "...xx", "...xx"]
    assert pattern(2, 5, chunk=3, window=2) == ["...x.", "...xx"]
    ahead = {"causal": False, "window_ahead": 1}
    assert pattern(4, 4, window=2, **ahead) == ["xx..", "xxx.", ".xxx", "..xx"]
    assert pattern(2, 4, window=1, **ahead) == ["..xx", "...x"]
    assert pattern(4, 2, window=1, **ahead) == ["..", "x.", "xx", ".x"]


QUERIES, KEYS = st.integers(1, 12), st.integers(1, 12)
SEEING = st.builds(
    AttentionConfig,
    causal=st.booleans(),
    window=st.none() | st.integers(1, 14),
    chunk=st.none() | st.integers(1, 14),
) | st.builds(
    AttentionConfig,
    causal=st.just(False),
    window=st.integers(1, 14),
    window_ahead=st.integers(0, 14),
    chunk=st.none() | st.integers(1, 14),
)


@settings(max_examples=200)
@given(num_queries=QUERIES, num_keys=KEYS, config=SEEING)
def test_what_is_seen_is_a_mask_of_it(num_queries, num_keys, config):
    q, k, v = qkv((2, num_queries, 4, 8), (2, num_keys, 2, 8))
    answer = attend(Attend(q, k, v, None, config, return_lse=True))
    seen = attention_mask(num_queries, num_keys, config)
    masked = attend(Attend(q, k, v, None, SEE_ALL, return_lse=True, mask=seen))
    assert off(answer.out, masked.out.double()) <= 1e-6
    assert lse_off(answer.lse, masked.lse.double()) <= 1e-6


@pytest.mark.parametrize("fields", [{}, {"causal": False}, {"window": 3}], ids=str)
def test_chunks_are_attended_to_one_by_one(backend, fields):
    q, k, v = qkv((2, 9, 4, 16), (2, 11, 2, 16))
    out, lse = run(backend, q, k, v, AttentionConfig(chunk=4, **fields))
    for queries, keys in (
        (slice(2), slice(4)),
        (slice(2, 6), slice(4, 8)),
        (slice(6, 9), slice(8, 11)),
    ):
        parts = q[:, queries], k[:, keys], v[:, keys]
        part_out, part_lse = run(backend, *parts, AttentionConfig(**fields))
        assert off(out[:, queries], part_out.double()) <= 1e-6
        assert lse_off(lse[:, queries], part_lse.double()) <= 1e-6


def test_a_window_looks_ahead_as_it_looks_behind(backend):
    """Read backwards, what was ahead is behind."""
    q, k, v = qkv((20, 4, 16), (20, 2, 16))
    for behind, ahead in ((3, 3), (2, 5), (0, 4)):
        out, lse = run(backend, q, k, v, both_sides(behind, ahead))
        back = run(backend, *(x.flip(0) for x in (q, k, v)), both_sides(ahead, behind))
        assert off(out, back[0].flip(0).double()) <= 1e-6
        assert lse_off(lse, back[1].flip(0).double()) <= 1e-6


def both_sides(behind, ahead):
    return AttentionConfig(causal=False, window=behind + 1, window_ahead=ahead)


def some(*shape, dtype=torch.float32):
    """Return a mask in which two keys of three are seen, with a number where not of booleans."""
    seen = randn(*shape, seed=7) > -0.4
    if dtype == torch.bool:
        return seen
    return randn(*shape, dtype=dtype, seed=8).masked_fill(~seen, -math.inf)


SHAPES = [(5, 9), (1, 9), (5, 1), (1, 1), (2, 4, 5, 9), (2, 1, 1, 9), (1, 4, 5, 9), (1, 4, 1, 1)]


@every_config
@pytest.mark.parametrize("kind", [torch.bool, *DTYPES], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks_of_every_shape_and_kind(shape, kind, config):
    q, k, v = qkv((2, 5, 4, 16), (2, 9, 2, 16))
    mask = some(*shape, dtype=kind)
    answer = attend(Attend(q, k, v, None, config, return_lse=True, mask=mask))
    out, lse = expect(q, k, v, config, mask=mask)
    assert off(answer.out, out) <= ATTEND_BAR[torch.float32]
    assert lse_off(answer.lse, lse) <= LSE_BAR[torch.float32]


@every_config
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_backend_that_takes_a_mask_is_near_the_reference(backend, config, dtype):
    q, k, v = qkv((7, 6, 16), (7, 2, 16), dtype=dtype)
    ends, sinks = torch.tensor([[0, 3, 3, 7], [0, 1, 5, 7]]), randn(6)
    for mask in (some(7, 7, dtype=torch.bool), some(1, 6, 7, 7)):
        for cu_seqlens in ((), ends):
            out, lse = run(backend, q, k, v, config, *cu_seqlens, sinks=sinks, mask=mask)
            expected = expect(q, k, v, config, *cu_seqlens, sinks=sinks, mask=mask)
            assert off(out, expected[0]) <= ATTEND_BAR[dtype]
            assert lse_off(lse, expected[1]) <= LSE_BAR[dtype]


def test_false_is_minus_infinity_and_true_is_0(backend):
    q, k, v = qkv((2, 7, 4, 16), (2, 9, 2, 16))
    mask = some(2, 4, 7, 9, dtype=torch.bool)
    added = torch.zeros(mask.shape).masked_fill(~mask, -math.inf)
    one, other = (run(backend, q, k, v, mask=m) for m in (mask, added))
    assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def test_what_is_added_to_all_keys_alike_changes_lse_alone(backend):
    q, k, v = qkv((7, 4, 16), (9, 2, 16))
    added = randn(7, 1)
    out, lse = run(backend, q, k, v)
    more_out, more_lse = run(backend, q, k, v, mask=added)
    assert off(more_out, out.double()) <= 1e-6
    assert lse_off(more_lse, lse.double() + added) <= 1e-6


def test_a_soft_cap_comes_before_the_mask(backend):
    q, k, v = qkv((3, 4, 16), (5, 2, 16))
    config = AttentionConfig(causal=False, softcap=1.0)
    added = torch.tensor([50.0, 0, 0, 0, 0])
    out, _ = run(backend, q, k, v, config, mask=added[None])
    assert off(out, v[:1].repeat_interleave(2, 1).expand(3, 4, 16)) <= 1e-6, "the first wins"


def test_a_padded_row_is_the_row_without_its_padding(backend):
    q, k, v = qkv((2, 8, 4, 16), (2, 8, 2, 16))
    mask = torch.ones(2, 1, 1, 8, dtype=torch.bool)
    mask[0, ..., :3] = False
    out, lse = run(backend, q, k, v, mask=mask)
    alone_out, alone_lse = run(backend, q[0, 3:], k[0, 3:], v[0, 3:])
    assert off(out[0, 3:], alone_out.double()) <= 1e-6
    assert lse_off(lse[0, 3:], alone_lse.double()) <= 1e-6
    assert not out[0, :3].any()
    assert (lse[0, :3] == -math.inf).all()


def test_a_query_that_sees_no_key_answers_0_and_minus_infinity(backend):
    q, k, v = qkv((4, 4, 8), (6, 2, 8))
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[1] = False
    mask[2, :5] = False  # and the last is later
    for same_mask in (mask, torch.zeros(4, 6).masked_fill(~mask, -math.inf)):
        out, lse = run(backend, q, k, v, mask=same_mask)
        assert not out[1:3].any()
        assert (lse[1:3] == -math.inf).all()
        assert lse[::3].isfinite().all()
        _, lse = run(backend, q, k, v, mask=same_mask, sinks=randn(4))
        assert torch.equal(lse[1:3], randn(4).expand(2, 4))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "largest"])
@pytest.mark.parametrize("where", ["k", "v"])
@pytest.mark.parametrize("kind", [torch.bool, torch.float32], ids=str)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_masked_key_or_value_holds_reaches_no_output(heads, kind, where, bad, dtype):
    q, k, v = qkv((6, 4, 8), (6, 2, 8), dtype=dtype)
    q = q.abs()  # so that the products with the largest number are infinite, not NaN
    seen = torch.ones(1, heads, 6, 6, dtype=torch.bool)
    seen[:, -1, 2:, 1] = False
    mask = seen if kind == torch.bool else torch.zeros(seen.shape).masked_fill(~seen, -math.inf)
    clean = attend(Attend(q, k, v, None, return_lse=True, mask=mask))
    (k if where == "k" else v)[1] = torch.finfo(dtype).max if bad == "largest" else bad
    answer = attend(Attend(q, k, v, None, return_lse=True, mask=mask))
    blind = ~(seen & attention_mask(6, 6, AttentionConfig()))[0, :, :, 1].T.expand(6, 4)
    assert off(answer.out[blind], clean.out[blind]) <= ATTEND_BAR[dtype]
    assert lse_off(answer.lse[blind], clean.lse[blind].double()) <= LSE_BAR[dtype]
    if bad is math.nan:
        assert answer.out[~blind].isnan().all(), "what is seen is not lost"


def test_a_finite_number_hides_nothing():
    q, k, v = qkv((1, 4, 8), (3, 2, 8))
    lowest = torch.finfo(torch.float32).min
    mask = torch.tensor([[0.0, lowest, 0.0]])
    v[1] = math.nan
    assert attend(Attend(q, k, v, None, mask=mask)).out.isnan().all()
    v[1] = 0
    even = attend(Attend(q, k, v, None, mask=torch.full((1, 3), lowest)))
    assert off(even.out, v.mean(0).repeat_interleave(2, 0)[None]) <= 1e-6, "as transformers does"


def test_more_scores_than_are_computed_at_a_time(monkeypatch):
    monkeypatch.setattr(eager, "SCORE_ELEMENTS", 1_000)
    q, k, v = qkv((70, 4, 16), (90, 2, 16))
    for shape in ((70, 90), (1, 90), (1, 4, 70, 1)):
        for config in (AttentionConfig(), AttentionConfig(chunk=32)):
            mask = some(*shape)
            out, lse = expect(q, k, v, config, mask=mask)
            answer = attend(Attend(q, k, v, None, config, return_lse=True, mask=mask))
            assert off(answer.out, out) <= ATTEND_BAR[torch.float32]
            assert lse_off(answer.lse, lse) <= LSE_BAR[torch.float32]


@every_config
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_a_batch_are_answered_as_if_alone(config, dtype):
    rope, sinks = RopeConfig.of(16), randn(6)
    q, k, v = qkv((3, 9, 6, 16), (3, 12, 2, 16), dtype=dtype)
    for mask in (some(3, 6, 9, 12, dtype=torch.bool), some(3, 1, 1, 12)):
        call = Attend(q, k, v, rope, config, return_lse=True, sinks=sinks, mask=mask)
        batch = attend(call)
        for row in range(3):
            parts = q[row], k[row], v[row]
            masked = {"sinks": sinks, "mask": mask[row : row + 1]}
            alone = attend(Attend(*parts, rope, config, return_lse=True, **masked))
            assert torch.equal(batch.out[row], alone.out)
            assert torch.equal(batch.lse[row], alone.lse)


def test_masks_of_no_tokens():
    for num_queries, num_keys in ((0, 3), (3, 0), (0, 0)):
        q, k, v = qkv((2, num_queries, 4, 8), (2, num_keys, 2, 8))
        for shape in ((num_queries, num_keys), (2, 1, 1, num_keys), (1, 1)):
            for config in (AttentionConfig(), AttentionConfig(chunk=2)):
                call = Attend(q, k, v, None, config, return_lse=True, mask=torch.zeros(shape))
                answer = attend(call)
                assert not answer.out.any()
                assert (answer.lse == -math.inf).all()
