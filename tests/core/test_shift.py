"""Keys that are rotated already move to other positions by a pure rotation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rope_core import RopeConfig, Rotate, Rotated, Shift, reference, rotate, shift
from tests.core.oracle import DTYPES, LAYOUTS, ROTATE_BAR, off, randn

POSITIONS = st.integers(-(2**20), 2**20)


@pytest.fixture(params=LAYOUTS)
def rope(request):
    return RopeConfig.of(10, rotary_dim=8, theta=500.0, layout=request.param)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(at=POSITIONS, delta=POSITIONS)
def test_a_shifted_key_is_one_rotated_further(layout, at, delta):
    rope, k = RopeConfig.of(10, rotary_dim=8, layout=layout), randn(1, 2, 10)
    there = rotate(Rotate(None, k, rope, positions=torch.tensor([at]))).k
    moved = shift(Shift(there, torch.tensor(delta), rope)).k
    expected = reference.rotate_complex(k, torch.tensor([at + delta]), rope)
    assert off(moved, expected) <= 3e-7


DELTAS = {
    "one number": torch.tensor(7),
    "one number, back": torch.tensor(-900),
    "one number, int32": torch.tensor(7, dtype=torch.int32),
    "for all rows": torch.tensor([3, 0, -5, 70_000]),
    "for each row": torch.tensor([[3, 0, -5, 70_000], [1, 2, 3, 4]]),
}


@pytest.mark.parametrize("delta", DELTAS.values(), ids=DELTAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_delta_is_one_number_or_one_of_each_token(delta, dtype, rope):
    k = randn(2, 4, 50, 10, dtype=dtype)
    moved = shift(Shift(k, delta, rope))
    assert moved.q is None
    assert moved.k.dtype == dtype
    expected = reference.rotate_complex(k, delta.expand(2, 4), rope)
    assert off(moved.k, expected) <= ROTATE_BAR[dtype]
    assert torch.equal(moved.k[..., 8:], k[..., 8:]), "the rest passes through"


@pytest.mark.parametrize("delta", [torch.tensor(3), torch.tensor([3, 0, -5, 70_000])], ids=str)
def test_packed_keys(delta, rope):
    k = randn(4, 50, 10)
    expected = reference.rotate_complex(k, delta.expand(4), rope)
    assert off(shift(Shift(k, delta, rope)).k, expected) <= ROTATE_BAR[torch.float32]


def test_where_the_keys_are_does_not_matter(rope):
    k, delta = randn(4, 2, 10), torch.tensor(9)
    told = shift(Shift(k, delta, rope, positions=torch.tensor([5, 6, 7, 1_000]))).k
    assert torch.equal(told, shift(Shift(k, delta, rope)).k)


def test_there_and_back_is_where_it_was(rope):
    k, delta = randn(4, 2, 10), torch.tensor([1, -2, 3_000, 0])
    there = shift(Shift(k, delta, rope)).k
    assert off(shift(Shift(there, -delta, rope)).k, k) <= 2e-7


def test_no_tokens_and_out(rope):
    assert shift(Shift(torch.empty(0, 2, 10), torch.tensor(3), rope)).k.shape == (0, 2, 10)
    k, out = randn(4, 2, 10), torch.full((4, 2, 10), torch.nan)
    before = k.clone()
    assert shift(Shift(k, torch.tensor(3), rope), Rotated(None, out)).k is out
    assert torch.equal(out, shift(Shift(k, torch.tensor(3), rope)).k)
    assert torch.equal(k, before)
