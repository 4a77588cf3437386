"""Rotation in one launch: its laws, and the float64 reference."""

import itertools
import math

import pytest
import torch

from rope_core.kernels.rotary import rotate
from tests.core.oracle import ROTATE_BAR, off, randn
from tests.kernels.rotations import (
    empty_like,
    expected_rotation,
    qk,
    rotate_by_position,
    rotate_by_table,
)

LARGE_POSITIONS = [2**31 - 1, 2**31, -(2**31) - 5, 2**40 + 3, 2**53 - 111, -(2**62) - 12_345]


def test_the_norm_of_every_pair_is_kept(layout, device):
    (x,) = qk(6, [3], 10, device)
    (y,) = rotate_by_position([x], torch.tensor([0, 1, -7, 300, 2**40, 5]), layout)
    for before, after in zip(pairs(x, layout), pairs(y, layout), strict=True):
        torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1), rtol=3e-7, atol=0)


def pairs(x, layout):
    groups = x.unflatten(-1, (-1, 2)) if layout == "interleaved" else x.unflatten(-1, (2, -1)).mT
    return groups.unbind(-2)


def test_the_inverse_undoes_a_rotation(layout, device):
    xs, positions = qk(5, [3, 1], 14, device), torch.tensor([0, 9, -300, 2**35, 70_000])
    for rotation in (rotate_by_position, rotate_by_table):
        back = rotation(rotation(xs, positions, layout), positions, layout, inverse=True)
        assert all(off(b, x) <= 2e-7 for b, x in zip(back, xs, strict=True))


def test_rotations_add_up(layout, device):
    (x,) = qk(4, [2], 8, device)
    m, n = torch.tensor([1, 70, -5, 2**20]), torch.tensor([4, -70, 2**20, 2**21])
    (twice,) = rotate_by_position(rotate_by_position([x], m, layout), n, layout)
    (once,) = rotate_by_position([x], m + n, layout)
    assert off(twice, once) <= 2e-7


def test_scores_depend_on_the_distance_alone(layout, device):
    positions = torch.tensor([12, 5])
    q, k = (x.expand(2, 1, 16).contiguous() for x in qk(1, [1, 1], 16, device))
    scores = []
    for shift in (0, 1, 10_000, 2**30):
        a, b = rotate_by_position([q, k], positions + shift, layout)
        scores.append((a[0] @ b[1].T).item())
    assert scores == pytest.approx([scores[0]] * 4, abs=3e-6)


@pytest.mark.parametrize("where", [{}, {"trailing": True}], ids=["leading", "trailing"])
def test_in_place_is_out_of_place_bit_for_bit(layout, dtype, where, device):
    positions = torch.tensor([3, 0, -9, 2**33, 8])
    for rotation, rotary_dim in itertools.product((rotate_by_position, rotate_by_table), (12, 6)):
        xs = qk(5, [3, 2], 12, device, dtype)
        apart = rotation(xs, positions, layout, rotary_dim=rotary_dim, **where)
        rotation(xs, positions, layout, rotary_dim=rotary_dim, outs=xs, **where)
        assert all(torch.equal(x, y) for x, y in zip(xs, apart, strict=True))


def test_a_token_has_the_same_bits_alone_and_in_a_batch(layout, device):
    xs, positions = qk(5, [4, 2], 6, device), torch.tensor([3, 0, -9, 2**33, 8])
    for rotation in (rotate_by_position, rotate_by_table):
        together = rotation(xs, positions, layout)
        alone = [
            rotation([x[i : i + 1] for x in xs], positions[i : i + 1], layout) for i in range(5)
        ]
        only_k = rotation(xs[1:], positions, layout)
        for j in range(2):
            assert torch.equal(together[j], torch.cat([some[j] for some in alone]))
        assert torch.equal(together[1], only_k[0])


# head_dim, rotary_dim: the least, not powers of two, odd rests, wide
WIDTHS = [(2, 2), (12, 12), (7, 4), (40, 26), (80, 80), (33, 32), (576, 64), (512, 512)]


@pytest.mark.parametrize(("head_dim", "rotary_dim"), WIDTHS)
def test_the_error_is_one_rounding_of_the_dtype(head_dim, rotary_dim, layout, dtype, device):
    positions = torch.tensor([131_071, 0, -2, 131_071, 255])
    trailing = head_dim % 2 == 0
    bar = ROTATE_BAR[dtype] * (1.3 if head_dim == 2 else 1)  # few elements
    options = {"rotary_dim": rotary_dim, "trailing": trailing}
    for rotation, sign in itertools.product((rotate_by_position, rotate_by_table), (1, -1)):
        xs = qk(5, [5, 1] if head_dim < 512 else [2, 1], head_dim, device, dtype)
        for x, y in zip(
            xs, rotation(xs, positions, layout, inverse=sign < 0, **options), strict=True
        ):
            expected = expected_rotation(x, sign * positions, rotary_dim, layout, trailing=trailing)
            assert off(y.cpu(), expected) <= bar
            rest = slice(head_dim - rotary_dim) if trailing else slice(rotary_dim, None)
            assert torch.equal(y[..., rest], x[..., rest]), "other elements are copied"


def test_positions_beyond_32_bits(layout, dtype, device):
    positions = torch.tensor(LARGE_POSITIONS)
    xs = qk(len(LARGE_POSITIONS), [9, 3], 32, device, dtype)
    for x, y in zip(xs, rotate_by_position(xs, positions, layout), strict=True):
        assert off(y.cpu(), expected_rotation(x, positions, 32, layout)) <= ROTATE_BAR[dtype]


def test_cosines_and_sines_of_any_angle_are_within_a_rounding(device):
    near = torch.arange(-40, 40).double() * math.pi / 4  # about the borders of the quadrants
    near = torch.cat((near, near.nextafter(near + 1), near.nextafter(near - 1)))
    spread = torch.cat([randn(400, seed=n).double() * 10.0**n for n in range(-3, 19)])
    positions = torch.cat((near, spread))
    x = torch.tensor([1.0, 0.0]).expand(len(positions), 1, 2).to(device)
    y = empty_like(x)
    one = torch.ones(1, dtype=torch.float64, device=device)
    rotate([x], [y], rotary_dim=2, layout="half", inv_freq=one, index=positions.to(device))
    cos, sin = y.cpu().double().squeeze(1).unbind(-1)
    assert (cos - positions.cos()).abs().max() <= 1e-7
    assert (sin - positions.sin()).abs().max() <= 1e-7


def test_positions_of_every_kind(layout, device):
    (x,) = qk(4, [3], 8, device)
    fractional = torch.tensor([0.5, -3.75, 1e5 + 0.125, 7.0])
    strided = torch.tensor([[5, 0], [9, 1], [-2, 2], [5, 3]])[:, 0]
    one_for_all = torch.tensor(1_234).expand(4)
    for positions in (fractional, fractional.double(), strided, strided.int(), one_for_all):
        (y,) = rotate_by_position([x], positions, layout)
        assert off(y.cpu(), expected_rotation(x, positions, 8, layout)) <= 1e-7


def test_rows_of_a_table_are_gathered(layout, dtype, device):
    xs, rows = qk(5, [3, 1], 12, device, dtype), torch.tensor([9, 0, 9, 3, 1])
    for x, y in zip(xs, rotate_by_table(xs, torch.arange(10), layout, rows=rows), strict=True):
        assert off(y.cpu(), expected_rotation(x, rows, 12, layout)) <= ROTATE_BAR[dtype]


def test_attention_scaling_multiplies_the_answer(layout, device):
    (x,) = qk(3, [2], 8, device)
    positions = torch.tensor([1, 20, -3])
    (y,) = rotate_by_position([x], positions, layout, attention_scaling=1.25)
    assert off(y.cpu(), 1.25 * expected_rotation(x, positions, 8, layout)) <= 1e-7
