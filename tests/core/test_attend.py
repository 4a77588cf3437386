"""Attention on every backend, and `attend`, against the float64 reference."""

from itertools import pairwise

import pytest
import torch

from rope_core import Attend, AttentionConfig, RopeConfig, attend, reference
from rope_core.backends import BACKENDS, AttentionWork
from tests.core.oracle import (
    ATTEND_BAR,
    DTYPES,
    LSE_BAR,
    expect,
    lse_off,
    off,
    qkv,
    randn,
    run,
)

BOTH_SIDES = {"causal": False, "window": 5, "window_ahead": 3}

# shapes of q and of k; what the config says
CASES = {
    "one head": ((9, 1, 16), (9, 1, 16), {}),
    "as many heads": ((33, 4, 32), (33, 4, 32), {}),
    "groups of 4": ((33, 8, 32), (33, 2, 32), {}),
    "groups of 3": ((21, 9, 16), (21, 3, 16), {}),
    "one kv head for 7": ((21, 7, 16), (21, 1, 16), {}),
    "a batch": ((3, 11, 4, 16), (3, 11, 2, 16), {}),
    "a batch with a past": ((3, 5, 4, 16), (3, 17, 2, 16), {}),
    "a past": ((40, 4, 16), (200, 2, 16), {}),
    "more queries than keys": ((50, 4, 16), (20, 2, 16), {}),
    "all seen": ((40, 4, 16), (50, 2, 16), {"causal": False}),
    "all seen by more queries": ((50, 4, 16), (20, 2, 16), {"causal": False}),
    "decode": ((1, 8, 16), (300, 2, 16), {}),
    "decode of a batch": ((4, 1, 8, 16), (4, 300, 2, 16), {}),
    "decode of one head each": ((1, 4, 16), (300, 4, 16), {}),
    "decode in a window": ((1, 8, 16), (300, 2, 16), {"window": 17}),
    "a window": ((64, 4, 16), (64, 2, 16), {"window": 5}),
    "a window of 1": ((20, 4, 16), (20, 2, 16), {"window": 1}),
    "a window as long as the keys": ((20, 4, 16), (20, 2, 16), {"window": 20}),
    "a window longer than the keys": ((20, 4, 16), (20, 2, 16), {"window": 2**31 - 1}),
    "a window and a past": ((30, 4, 16), (70, 2, 16), {"window": 25}),
    "a window and more queries": ((70, 4, 16), (30, 2, 16), {"window": 7}),
    "a window hides later keys": ((30, 4, 16), (30, 2, 16), {"window": 7, "causal": False}),
    "a window over many rows": ((1_100, 2, 16), (1_150, 1, 16), {"window": 600}),
    "many rows": ((1_100, 1, 16), (1_150, 1, 16), {}),
    "a window to both sides": ((64, 4, 16), (64, 2, 16), BOTH_SIDES),
    "a window to both sides and a past": ((30, 4, 16), (70, 2, 16), BOTH_SIDES),
    "a window to both sides and more queries": ((70, 4, 16), (30, 2, 16), BOTH_SIDES),
    "a window to both sides of one query": ((1, 8, 16), (300, 2, 16), BOTH_SIDES),
    "a window over many rows to both sides": (
        (1_100, 2, 16),
        (1_150, 1, 16),
        {"causal": False, "window": 600, "window_ahead": 300},
    ),
    "a window of later keys": ((20, 4, 16), (20, 2, 16), BOTH_SIDES | {"window": 1}),
    "a window to all that is behind": ((20, 4, 16), (20, 2, 16), BOTH_SIDES | {"window": 20}),
    "a window to all that is ahead": (
        (20, 4, 16),
        (20, 2, 16),
        BOTH_SIDES | {"window_ahead": 2**31 - 1},
    ),
    "a window to all": ((20, 4, 16), (20, 2, 16), BOTH_SIDES | {"window": 20, "window_ahead": 19}),
    "chunks": ((64, 4, 16), (64, 2, 16), {"chunk": 10}),
    "chunks of 1": ((20, 4, 16), (20, 2, 16), {"chunk": 1}),
    "a chunk as long as the keys": ((20, 4, 16), (20, 2, 16), {"chunk": 20}),
    "a chunk longer than the keys": ((20, 4, 16), (20, 2, 16), {"chunk": 2**31 - 1}),
    "chunks and a past": ((30, 4, 16), (75, 2, 16), {"chunk": 16}),
    "chunks and more queries": ((70, 4, 16), (30, 2, 16), {"chunk": 8}),
    "chunks all seen": ((30, 4, 16), (40, 2, 16), {"chunk": 7, "causal": False}),
    "chunks all seen by more queries": ((40, 4, 16), (30, 2, 16), {"chunk": 7, "causal": False}),
    "chunks in a window": ((30, 4, 16), (40, 2, 16), {"chunk": 16, "window": 5}),
    "chunks in a window to both sides": ((30, 4, 16), (40, 2, 16), BOTH_SIDES | {"chunk": 8}),
    "chunks of a batch": ((3, 11, 4, 16), (3, 17, 2, 16), {"chunk": 4}),
    "soft-capped chunks": ((30, 4, 16), (40, 2, 16), {"chunk": 16, "softcap": 1.0}),
    "decode in a chunk": ((1, 8, 16), (300, 2, 16), {"chunk": 128}),
    "decode where a chunk begins": ((1, 8, 16), (257, 2, 16), {"chunk": 128}),
    "a soft-cap": ((33, 4, 16), (33, 2, 16), {"softcap": 0.7, "scale": 1.0}),
    "a soft-cap in a window": ((33, 4, 16), (40, 2, 16), {"softcap": 2.0, "window": 9}),
    "a scale": ((33, 4, 16), (33, 2, 16), {"scale": 0.7}),
    "decode with a scale": ((1, 8, 16), (300, 2, 16), {"scale": 0.7}),
    "a negative scale": ((33, 4, 16), (40, 2, 16), {"scale": -0.3}),
    "a negative scale of a square": ((33, 4, 16), (33, 2, 16), {"scale": -0.3}),
    "a tiny scale": ((33, 4, 16), (33, 2, 16), {"scale": 1e-30}),
    "a scale of 0": ((33, 4, 16), (33, 2, 16), {"scale": 0.0}),
    "a width of 1": ((33, 4, 1), (33, 2, 1), {}),
    "a width of 20": ((33, 4, 20), (40, 2, 20), {}),
    "a width of 80": ((70, 2, 80), (70, 1, 80), {}),
    "a width of 67": ((33, 2, 67), (33, 2, 67), {}),
    "a width of 288": ((20, 2, 288), (20, 1, 288), {}),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("q_shape", "kv_shape", "fields"), CASES.values(), ids=CASES)
def test_every_backend_is_near_the_reference(backend, q_shape, kv_shape, fields, dtype):
    config = AttentionConfig(**fields)
    q, k, v = qkv(q_shape, kv_shape, dtype=dtype)
    out, lse = run(backend, q, k, v, config)
    expected_out, expected_lse = expect(q, k, v, config)
    assert out.dtype == dtype
    assert off(out, expected_out) <= ATTEND_BAR[dtype]
    assert lse_off(lse, expected_lse) <= LSE_BAR[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "fields",
    [{}, {"window": 3}, {"causal": False}, {"softcap": 1.0}, {"chunk": 2}, BOTH_SIDES],
    ids=str,
)
@pytest.mark.parametrize("lengths", [(3, 5, 9), (9, 3, 5), (0, 4, 0), (4, 0, 0), (1, 1, 1)])
def test_packed_sequences_do_not_see_each_other(backend, lengths, fields, dtype):
    config = AttentionConfig(**fields)
    ends_q = torch.tensor([0, *lengths]).cumsum(0)
    ends_k = torch.tensor([0, *lengths[::-1]]).cumsum(0)
    q, k, v = qkv((sum(lengths), 6, 16), (sum(lengths), 2, 16), dtype=dtype)
    out, lse = run(backend, q, k, v, config, ends_q, ends_k)
    expected_out, expected_lse = expect(q, k, v, config, ends_q, ends_k)
    assert off(out, expected_out) <= ATTEND_BAR[dtype]
    assert lse_off(lse, expected_lse) <= LSE_BAR[dtype]


@pytest.mark.parametrize("value_dim", [1, 8, 24])
def test_values_may_have_a_width_of_their_own(backend, value_dim):
    q, k, v = qkv((2, 9, 4, 16), (2, 12, 2, 16), value_dim=value_dim)
    out, lse = run(backend, q, k, v)
    expected_out, expected_lse = expect(q, k, v, AttentionConfig())
    assert off(out, expected_out) <= ATTEND_BAR[torch.float32]
    assert lse_off(lse, expected_lse) <= LSE_BAR[torch.float32]


def test_more_scores_than_are_computed_at_a_time(backend, monkeypatch):
    if backend.name == "eager":
        monkeypatch.setattr(backend, "SCORE_ELEMENTS", 1_000)
    q, k, v = qkv((70, 4, 16), (90, 2, 16))
    for config in (AttentionConfig(), AttentionConfig(window=7), AttentionConfig(causal=False)):
        out, lse = run(backend, q, k, v, config)
        expected_out, expected_lse = expect(q, k, v, config)
        assert off(out, expected_out) <= ATTEND_BAR[torch.float32]
        assert lse_off(lse, expected_lse) <= LSE_BAR[torch.float32]


def test_large_scores_do_not_overflow(backend):
    q, k, v = qkv((9, 4, 16), (12, 2, 16))
    config = AttentionConfig(scale=200.0)
    out, lse = run(backend, q, k, v, config)
    expected_out, expected_lse = expect(q, k, v, config)
    # a score of 2,000 is 1e-4 from the exact one in float32, and so is the weight it gives; a small
    # score as well, as it is the sum of large terms
    assert off(out, expected_out) <= 1e-4
    size = expected_lse.abs().max().item()
    assert lse_off(lse / size, expected_lse / size) <= LSE_BAR[torch.float32]


def test_eager_accepts_everything_and_is_asked_last():
    q, k, v = qkv((3, 4, 16), (3, 2, 16), value_dim=7)
    everything = AttentionConfig(softcap=1.0, window=2)
    mask = torch.zeros(1, 1, 3, 3)
    work = AttentionWork(
        q[None], k[None], v[None] * torch.nan, everything, None, None, mask[0, 0, 0], mask
    )
    assert BACKENDS[-1].name == "eager"
    assert BACKENDS[-1].why_not(work) is None


ENDS = torch.tensor([0, 2, 3, 7])

# Attend: positions and packing, beside the shapes and configs above
CALLS = {
    "counted": ((2, 9, 4, 16), (2, 9, 2, 16), {}),
    "counted, other lengths": ((2, 5, 4, 16), (2, 9, 2, 16), {}),
    "more than is rotated together": ((140, 60, 16), (140, 30, 16), {}),
    "for all rows": (
        (2, 3, 4, 16),
        (2, 5, 2, 16),
        {"q_positions": torch.tensor([70, 71, 72]), "k_positions": torch.arange(68, 73)},
    ),
    "for each row": (
        (2, 3, 4, 16),
        (2, 3, 4, 16),
        {"q_positions": torch.tensor([[70, 71, 72], [0, -1, 5]])},
    ),
    "fractional": ((3, 4, 16), (3, 2, 16), {"k_positions": torch.tensor([0.5, 2.25, -1.75])}),
    "packed alike": ((7, 4, 16), (7, 2, 16), {"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS}),
    "packed otherwise": (
        (7, 4, 16),
        (7, 2, 16),
        {"cu_seqlens_q": ENDS, "cu_seqlens_k": torch.tensor([0, 5, 7, 7])},
    ),
    "packed, other lengths": (
        (6, 4, 16),
        (7, 2, 16),
        {
            "cu_seqlens_q": torch.tensor([0, 2, 2, 5, 6], dtype=torch.int32),
            "cu_seqlens_k": torch.tensor([0, 3, 4, 4, 7]),
        },
    ),
}


@pytest.mark.parametrize(
    "rope", [None, RopeConfig.of(16), RopeConfig.of(16, rotary_dim=6)], ids=str
)
@pytest.mark.parametrize(("q_shape", "kv_shape", "fields"), CALLS.values(), ids=CALLS)
def test_attend_rotates_then_attends(q_shape, kv_shape, fields, rope):
    q, k, v = qkv(q_shape, kv_shape)
    call = Attend(q, k, v, rope, AttentionConfig(window=4), return_lse=True, **fields)
    answer = attend(call)
    cu_seqlens = (call.cu_seqlens_q, call.cu_seqlens_k)
    if rope is not None:
        q = rotated(q, call.q_positions, call.cu_seqlens_q, rope)
        k = rotated(k, call.k_positions, call.cu_seqlens_k, rope)
    out, lse = expect(q, k, v, call.attention, *cu_seqlens)
    assert off(answer.out, out) <= ATTEND_BAR[torch.float32]
    assert lse_off(answer.lse, lse) <= LSE_BAR[torch.float32]


def rotated(x, positions, cu_seqlens, rope):
    if positions is None:
        ends = [0, x.shape[-3]] if cu_seqlens is None else cu_seqlens.tolist()
        spans = pairwise(ends)
        positions = torch.tensor([at for start, end in spans for at in range(end - start)])
    return reference.rotate_complex(x, positions.expand(x.shape[:-2]), rope)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_attend_rounds_rotated_heads_once(dtype):
    rope = RopeConfig.of(64)
    q, k, v = qkv((2, 40, 4, 64), (2, 40, 2, 64), dtype=dtype)
    answer = attend(Attend(q, k, v, rope))
    turned = (reference.rotate_complex(x, torch.arange(40).expand(2, 40), rope) for x in (q, k))
    out, _ = expect(*(x.to(dtype) for x in turned), v, AttentionConfig())
    assert answer.out.dtype == dtype
    assert answer.lse is None, "not requested"
    assert off(answer.out, out) <= ATTEND_BAR[dtype]


def test_attend_takes_what_the_first_backends_decline():
    q, k, v = qkv((3, 4, 16), (3, 2, 16), value_dim=5)
    config = AttentionConfig(softcap=0.5)
    out, _ = expect(q, k, v, config)
    assert off(attend(Attend(q, k, v, None, config)).out, out) <= ATTEND_BAR[torch.float32]


def test_scores_of_attention_depend_on_distances_alone():
    q, k, v = qkv((5, 4, 16), (9, 2, 16))
    rope, at = RopeConfig.of(16), torch.arange(9)
    near, far = (
        attend(Attend(q, k, v, rope, q_positions=at[4:] + by, k_positions=at + by)).out
        for by in (0, 1_000_000)
    )
    assert off(far, near) <= 1e-6


def test_inputs_are_never_written_to():
    q, k, v = qkv((2, 9, 4, 16), (2, 12, 2, 16))
    before = [t.clone() for t in (q, k, v)]
    for rope in (None, RopeConfig.of(16)):
        for config in (AttentionConfig(), AttentionConfig(softcap=1.0), AttentionConfig(window=2)):
            attend(Attend(q, k, v, rope, config))
    assert all(torch.equal(now, then) for now, then in zip((q, k, v), before, strict=True))


def test_key_heads_serve_neighbouring_query_heads():
    q, k, v = randn(1, 6, 8).expand(5, 6, 8), randn(5, 2, 8), torch.zeros(5, 2, 8)
    v[:, 1] = 1.0
    out = attend(Attend(q, k, v, None)).out
    assert out[..., 0].tolist() == [pytest.approx([0, 0, 0, 1, 1, 1])] * 5
