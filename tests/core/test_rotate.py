"""`rotate` and `cos_sin` against the float64 reference, and what they promise about memory."""

import math

import pytest
import torch

from rope_core import (
    CosSin,
    NoBackend,
    RopeConfig,
    Rotate,
    Rotated,
    angles,
    cos_sin,
    reference,
    rotate,
)
from tests.core.oracle import DTYPES, LAYOUTS, ROTATE_BAR, off, randn, skip_declined

WIDTHS = [(2, 2), (64, 64), (80, 32), (7, 4), (6, 2), (130, 130)]  # head_dim, rotary_dim


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def expect(x, positions, rope):
    return reference.rotate_complex(x, positions.double(), rope)


def test_is_as_near_the_reference_as_its_dtype_allows(layout, dtype):
    positions = torch.tensor([0, 1, 2, 255, 256, 4_097, 131_071, 1_048_576])
    for head_dim, rotary_dim in WIDTHS:
        for theta in (10_000.0, 500_000.0):
            rope = RopeConfig.of(head_dim, rotary_dim=rotary_dim, theta=theta, layout=layout)
            x = randn(8, 50, head_dim, dtype=dtype)
            q = rotate(Rotate(x, None, rope, positions=positions)).q
            assert q.dtype == dtype
            assert off(q, expect(x, positions, rope)) <= ROTATE_BAR[dtype]
            assert torch.equal(q[..., rotary_dim:], x[..., rotary_dim:]), "the rest passes through"


def test_rotates_back(layout, dtype):
    rope = RopeConfig.of(10, rotary_dim=8, layout=layout)
    x, positions = randn(5, 50, 10, dtype=dtype), torch.tensor([0, 3, 300, -7, 70_000])
    back = rotate(Rotate(x, None, rope, positions=positions, inverse=True)).q
    assert off(back, expect(x, -positions, rope)) <= ROTATE_BAR[dtype]


POSITIONS = {
    "negative": torch.tensor([-1, -2, -300, -131_072, 5]),
    "duplicate": torch.tensor([3, 3, 0, 3, 0]),
    "falling": torch.tensor([9, 7, 5, 3, 1]),
    "int32": torch.tensor([0, 1, 500, 2**31 - 1, 7], dtype=torch.int32),
    "fractional float64": torch.tensor([0.5, 1.25, -3.75, 1e5 + 0.1, 0], dtype=torch.float64),
    "fractional float32": torch.tensor([0.5, 1.1, -3.7, 1e5 + 0.125, 0]),
    "around the end of a table": torch.tensor([255, 256, 257, 511, 512]),
    "beyond every table": torch.tensor([2**18 - 1, 2**18, 2**18 + 1, 2**20, 0]),
}


@pytest.mark.parametrize("positions", POSITIONS.values(), ids=POSITIONS)
def test_positions_of_every_kind(positions, layout):
    rope = RopeConfig.of(16, layout=layout)
    x = randn(5, 60, 16)
    q = rotate(Rotate(x, None, rope, positions=positions)).q
    assert off(q, expect(x, positions, rope)) <= ROTATE_BAR[torch.float32]


@pytest.mark.parametrize("far", [2**31, 2**31 + 1, 2**40 + 3, -(2**40)])
def test_positions_that_32_bits_cannot_hold(far):
    one = RopeConfig.of(2)  # its only pair turns by 1 radian, so that float64 is exact enough
    x = torch.tensor([[[1.0, 0.0]]])
    q = rotate(Rotate(x, None, one, positions=torch.tensor([far]))).q
    assert q.flatten().tolist() == pytest.approx([math.cos(far), math.sin(far)], abs=1e-7)
    rope, wide = RopeConfig.of(64), randn(1, 60, 64)
    q = rotate(Rotate(wide, None, rope, positions=torch.tensor([far]))).q
    bar = ROTATE_BAR[torch.float32] + abs(far) * 2**-52  # float64 holds no finer angle
    assert off(q, expect(wide, torch.tensor([far]), rope)) <= bar


def test_a_batch_takes_positions_for_all_rows_or_for_each(layout):
    rope = RopeConfig.of(12, rotary_dim=6, layout=layout)
    x = randn(3, 4, 30, 12)
    per_row = torch.tensor([[0, 1, 2, 3], [900, 901, 902, 903], [7, 7, -7, 0]])
    for positions in (per_row, per_row[1]):
        q = rotate(Rotate(x, None, rope, positions=positions)).q
        assert off(q, expect(x, positions.expand(3, 4), rope)) <= ROTATE_BAR[torch.float32]


def test_missing_positions_count_from_zero_in_each_sequence(layout):
    rope = RopeConfig.of(12, rotary_dim=6, layout=layout)
    counted = torch.arange(7)
    batch, packed = randn(3, 7, 30, 12), randn(7, 30, 12)
    for x, cu_seqlens, positions in (
        (batch, None, counted.expand(3, 7)),
        (packed, None, counted),
        (packed, torch.tensor([0, 2, 2, 6, 7]), torch.tensor([0, 1, 0, 1, 2, 3, 0])),
        (packed, torch.tensor([0, 0, 7, 7], dtype=torch.int32), counted),
    ):
        q = rotate(Rotate(x, None, rope, cu_seqlens=cu_seqlens)).q
        assert off(q, expect(x, positions, rope)) <= ROTATE_BAR[torch.float32]


def test_positions_given_win_over_those_counted():
    rope, x, at = RopeConfig.of(8), randn(3, 2, 8), torch.tensor([5, 6, 9])
    q = rotate(Rotate(x, None, rope, positions=at, cu_seqlens=torch.tensor([0, 1, 3]))).q
    assert torch.equal(q, rotate(Rotate(x, None, rope, positions=at)).q)


def test_q_and_k_turn_alike_and_either_may_be_missing(dtype):
    rope, at = RopeConfig.of(8), torch.tensor([0, 400])
    q, k = randn(2, 4, 8, dtype=dtype), randn(2, 1, 8, dtype=dtype, seed=1)
    both = rotate(Rotate(q, k, rope, positions=at))
    only_q, only_k = (
        rotate(Rotate(*tensors, rope, positions=at)) for tensors in ((q, None), (None, k))
    )
    assert torch.equal(both.q, only_q.q)
    assert torch.equal(both.k, only_k.k)
    assert only_q.k is None
    assert only_k.q is None
    assert off(both.k, expect(k, at, rope)) <= ROTATE_BAR[dtype]


def test_more_tokens_than_are_rotated_at_a_time(layout, dtype):
    rope = RopeConfig.of(66, rotary_dim=64, layout=layout)
    x = randn(4_500, 3, 66, dtype=dtype)
    q = rotate(Rotate(x, None, rope)).q
    assert off(q, expect(x, torch.arange(4_500), rope)) <= ROTATE_BAR[dtype]


def uneven(shape, dtype):
    """Return views of `shape` that lie in memory in every other way."""
    *tokens, heads, width = shape
    yield randn(*tokens, heads, 2 * width, dtype=dtype)[..., ::2]
    yield randn(*tokens, heads, width + 3, dtype=dtype)[..., 3:]
    yield randn(*tokens, width, heads, dtype=dtype).mT
    yield randn(*tokens[:-1], heads, tokens[-1], width, dtype=dtype).transpose(-2, -3)
    yield randn(*tokens, 1, width, dtype=dtype).expand(shape)
    yield randn(*tokens, heads, 1, dtype=dtype).expand(shape)
    yield randn(math.prod(shape) + 1, dtype=dtype)[1:].view(shape)


def test_strides_do_not_matter(layout, dtype):
    for width, rotary_dim in ((8, 8), (7, 4), (33, 32), (32, 32)):
        rope = RopeConfig.of(width, rotary_dim=rotary_dim, layout=layout)
        for shape in ((2, 5, 3, width), (5, 3, width), (1, 1, width)):
            for x in uneven(shape, dtype):
                before = x.clone()
                q = rotate(Rotate(x, None, rope)).q
                assert q.is_contiguous()
                assert torch.equal(q, rotate(Rotate(x.contiguous().clone(), None, rope)).q)
                assert torch.equal(x, before), "an input is never written to"


def test_out_is_written_in_full_and_answered(layout, dtype):
    for width, rotary_dim in ((8, 8), (7, 4), (9, 2), (33, 32), (32, 32)):
        rope = RopeConfig.of(width, rotary_dim=rotary_dim, layout=layout)
        q, k = randn(2, 5, 3, width, dtype=dtype), randn(2, 5, 1, width, dtype=dtype)
        at = torch.tensor([0, 5, 2, 1, 1_000])
        call = Rotate(q, k, rope, positions=at)
        memory = torch.full((q.numel() + k.numel() + 2,), math.nan, dtype=dtype)
        out = Rotated(  # at odd places of one buffer
            memory[1 : 1 + q.numel()].view(q.shape), memory[1 + q.numel() : -1].view(k.shape)
        )
        answer, expected = rotate(call, out), rotate(call)
        assert answer.q is out.q
        assert answer.k is out.k
        assert torch.equal(out.q, expected.q)
        assert torch.equal(out.k, expected.k)
        assert memory[[0, -1]].isnan().all(), "nor anything beside it"


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 4), (2, 5, 3), (7, 3), (1, 3), (0, 3)], ids=str)
@pytest.mark.parametrize("width", [(8, 8), (7, 4), (32, 32), (32, 16)], ids=str)
def test_in_place_is_the_same_as_beside(backend, shape, width, inverse, layout, dtype):
    head_dim, rotary_dim = width
    rope = RopeConfig.of(head_dim, rotary_dim=rotary_dim, layout=layout)
    q, k = (randn(*shape, head_dim, dtype=dtype, seed=seed) for seed in (0, 1))
    call = Rotate(q, k[..., :1, :].contiguous(), rope, inverse=inverse)
    expected = rotated_by(backend, call)
    answer = rotated_by(backend, call, Rotated(call.q, call.k))
    assert answer.q is call.q
    assert torch.equal(call.q, expected.q)
    assert torch.equal(call.k, expected.k)


def rotated_by(backend, call, out=None):
    try:
        return rotate(call, out, backend.name)
    except NoBackend as declined:
        skip_declined(backend.name, declined.reasons[backend.name])


@pytest.mark.parametrize("rounding", ["float32", "tables", "activation", "complex"])
def test_in_place_whatever_is_rounded(rounding, layout, dtype):
    rope = RopeConfig.of(16, layout=layout, rounding=rounding)
    call = Rotate(randn(5, 3, 16, dtype=dtype), None, rope)
    expected = rotate(call).q
    rotate(call, Rotated(call.q, None))
    assert torch.equal(call.q, expected)


def test_in_place_within_wider_rows(layout, dtype):
    """As q and k lie in the answer of one projection."""
    rope, both = RopeConfig.of(32, layout=layout), randn(2, 700, 6, 32, dtype=dtype)
    whole = both.clone()
    call = Rotate(both[:, :, :4], both[:, :, 4:], rope)
    expected = rotate(Rotate(whole, None, rope)).q
    rotate(call, Rotated(call.q, call.k))
    assert torch.equal(both, expected)


def test_in_place_of_what_is_no_row_of_tokens_is_refused():
    x = randn(3, 2, 4, 32).transpose(0, 1)
    with pytest.raises(RuntimeError, match="view"):
        rotate(Rotate(x, None, RopeConfig.of(32)), Rotated(x, None))


def test_large_rows_at_the_same_positions_are_rotated_as_if_alone(monkeypatch, layout, dtype):
    monkeypatch.setattr(angles, "ROW_ELEMENTS", 1)
    rope, at = RopeConfig.of(32, layout=layout), torch.tensor([4, 0, 9])
    q, k = randn(2, 3, 4, 32, dtype=dtype), randn(2, 3, 1, 32, dtype=dtype, seed=1)
    for positions in (at, None):
        both = rotate(Rotate(q, k, rope, positions=positions))
        for row in range(2):
            alone = rotate(Rotate(q[row], k[row], rope, positions=positions))
            assert torch.equal(both.q[row], alone.q)
            assert torch.equal(both.k[row], alone.k)


def test_answers_never_share_memory(dtype):
    rope, x = RopeConfig.of(8), randn(3, 2, 8, dtype=dtype)
    call = Rotate(x, x, rope, positions=torch.zeros(3, dtype=torch.int64))
    first, second = rotate(call), rotate(call)
    places = {t.untyped_storage().data_ptr() for t in (x, first.q, first.k, second.q, second.k)}
    assert len(places) == 5
    table = cos_sin(CosSin(torch.arange(3), rope))
    with torch.inference_mode():
        table.cos.zero_()
    assert cos_sin(CosSin(torch.arange(3), rope)).cos[0, 0] == 1, "a cached table is never lent"
    one = cos_sin(CosSin(torch.tensor([0]), rope))
    with torch.inference_mode():
        one.cos.zero_()
    assert cos_sin(CosSin(torch.tensor([0]), rope)).cos[0, 0] == 1, "nor that of one token"


@pytest.mark.parametrize("shape", [(0, 2, 8), (2, 0, 2, 8), (0, 3, 2, 8), (0, 0, 2, 8)])
def test_no_tokens_give_no_tokens(shape, layout, dtype):
    rope, x = RopeConfig.of(8, rotary_dim=6, layout=layout), torch.empty(shape, dtype=dtype)
    for positions in (None, torch.arange(shape[-3]), torch.empty(shape[:-2])):
        assert rotate(Rotate(x, x, rope, positions=positions)).k.shape == shape
    if len(shape) == 3:
        assert rotate(Rotate(x, None, rope, cu_seqlens=torch.tensor([0, 0]))).q.shape == shape
        assert rotate(Rotate(x, None, rope, cu_seqlens=torch.tensor([0]))).q.shape == shape


def test_two_ropes_never_share_a_table():
    at, thetas = torch.arange(16), (10_000.0, 10_000.5, 1e6)
    for layout in LAYOUTS:
        for theta in thetas + thetas[::-1]:
            rope, x = RopeConfig.of(8, theta=theta, layout=layout), randn(16, 40, 8)
            assert off(rotate(Rotate(x, None, rope)).q, expect(x, at, rope)) <= 1e-7


def test_answers_beyond_the_cached_tables_are_right():
    for head_dim in range(2, 100, 2):
        rope, far = RopeConfig.of(head_dim), torch.tensor([0, 2**21])
        assert off(cos_sin(CosSin(far, rope)).sin, (far[:, None] * freqs(rope)).sin()) <= 1e-7
        rotate(Rotate(None, randn(3, 1, head_dim), rope))
    widest = RopeConfig.of(8_192)
    counted = cos_sin(CosSin(torch.arange(400), widest))
    assert off(counted.cos, (torch.arange(400)[:, None] * freqs(widest)).cos()) <= 1e-7


def freqs(rope):
    return reference.frequencies(rope)


def test_cos_sin_is_float32_of_any_shape_rounded_once():
    rope = RopeConfig.of(16, rotary_dim=12, theta=500.0)
    for at in (torch.tensor(3), torch.arange(6).view(2, 3), torch.tensor([[-0.5]]), torch.empty(0)):
        table, angles = cos_sin(CosSin(at, rope)), at.double()[..., None] * freqs(rope)
        assert table.cos.dtype == table.sin.dtype == torch.float32
        torch.testing.assert_close(table.cos, angles.cos().float(), rtol=1e-7, atol=1e-12)
        torch.testing.assert_close(table.sin, angles.sin().float(), rtol=1e-7, atol=1e-12)
