"""The bar for recorded vectors is neither deaf nor more than it says."""

import pytest
import torch

from tests.ulp import within_ulp


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_two_units_are_within_and_three_are_not(dtype):
    eps = torch.finfo(dtype).eps
    one = torch.ones(3, dtype=dtype)
    for units, expected in ((0, True), (2, True), (-2, True), (3, False), (-3, False)):
        moved = one + torch.tensor([0, units * eps, 0], dtype=dtype)
        assert within_ulp(moved, one, size=1.0) is expected
    assert within_ulp(one * (1 + 3 * eps), one, size=2.0), "operands are twice as large"


def test_near_zero_a_unit_is_that_of_the_operands():
    terms = torch.tensor([2.9, -2.9])
    rounded = torch.stack((torch.nextafter(terms[0], torch.tensor(3.0)), terms[1]))
    assert rounded.sum() != terms.sum()
    assert within_ulp(rounded.sum(), terms.sum(), size=2.9)
    assert not within_ulp(rounded.sum(), terms.sum(), size=terms.sum().abs())
    assert not within_ulp(terms.sum() + 1e-6, terms.sum(), size=2.9)


def test_a_unit_of_the_angle_counts_in_float32():
    angle = torch.tensor([1000.0])
    following = torch.nextafter(angle, torch.tensor([torch.inf]))
    assert not within_ulp(following.sin(), angle.sin(), size=1.0)
    assert within_ulp(following.sin(), angle.sin(), size=1.0, angle=angle)
    assert not within_ulp((angle + 1e-3).sin(), angle.sin(), size=1.0, angle=angle)


def test_another_shape_or_dtype_and_nan_are_never_within():
    one = torch.ones(2)
    assert not within_ulp(one[:1], one, size=1.0)
    assert not within_ulp(one.bfloat16(), one, size=1.0)
    assert not within_ulp(one * torch.nan, one, size=1.0)
