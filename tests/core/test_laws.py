"""What a rotation is in each form. The library is held to it beside the four forms."""

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import RopeConfig, Rotate, reference, rotate
from tests.core.oracle import off, randn


def library(x, positions, rope):
    return rotate(Rotate(x.float(), None, rope, positions=positions)).q


FORMS = {
    "complex": (reference.rotate_complex, 1e-9),
    "pairs": (reference.rotate_pairs, 1e-9),
    "elementwise": (reference.rotate_elementwise, 1e-9),
    "matrix": (reference.rotate_matrix, 1e-9),
    "library": (library, 5e-7),
}

ROPES = st.integers(2, 14).flatmap(
    lambda head_dim: st.builds(
        RopeConfig.of,
        st.just(head_dim),
        rotary_dim=st.integers(1, head_dim // 2).map(lambda half: 2 * half),
        theta=st.sampled_from([1.0, 10_000.0, 500_000.0]) | st.floats(1, 1e9),
        layout=st.sampled_from(["half", "interleaved"]),
    )
)
POSITIONS = st.integers(-(2**20), 2**20)
ANGLES = st.floats(-math.pi, math.pi)

every_form = pytest.mark.parametrize(("turn", "bar"), FORMS.values(), ids=FORMS)


def head(rope, seed=0):
    """A token of one head; float32 numbers, so that no form rounds its input."""
    return randn(1, 1, rope.head_dim, seed=seed).double()


def turned(turn, x, position, rope):
    return turn(x, torch.tensor([position]), rope).double()


@every_form
@settings(max_examples=40)
@given(rope=ROPES, m=POSITIONS)
def test_the_forms_agree(turn, bar, rope, m):
    assert off(turned(turn, head(rope), m, rope), rotate_by_hand(head(rope), m, rope)) < bar


def rotate_by_hand(x, m, rope):
    """Pair by pair, with the standard library's complex numbers alone."""
    out, half = x.clone(), rope.rotary_dim // 2
    for i in range(half):
        at = (i, i + half) if rope.layout == "half" else (2 * i, 2 * i + 1)
        z = complex(*x[0, 0, list(at)].tolist())
        z *= cmath.exp(1j * m * rope.theta ** (-2 * i / rope.rotary_dim))
        out[0, 0, list(at)] = torch.tensor([z.real, z.imag], dtype=torch.float64)
    return out


@every_form
@settings(max_examples=40)
@given(rope=ROPES, m=POSITIONS, n=POSITIONS)
def test_rotations_add_up(turn, bar, rope, m, n):
    x = head(rope)
    twice = turned(turn, turned(turn, x, m, rope), n, rope)
    assert off(twice, turned(turn, x, m + n, rope)) < bar


@every_form
@settings(max_examples=40)
@given(rope=ROPES, m=POSITIONS)
def test_norms_are_kept_and_the_inverse_undoes(turn, bar, rope, m):
    x = head(rope)
    there = turned(turn, x, m, rope)
    assert there.norm().item() == pytest.approx(x.norm().item(), rel=bar)
    assert off(turned(turn, there, -m, rope), x) < bar


@every_form
@settings(max_examples=40)
@given(rope=ROPES)
def test_position_zero_is_the_identity(turn, bar, rope):
    assert torch.equal(turned(turn, head(rope), 0, rope), head(rope))


@every_form
@settings(max_examples=40)
@given(rope=ROPES, m=POSITIONS, n=POSITIONS)
def test_scores_depend_on_the_distance_alone(turn, bar, rope, m, n):
    q, k = head(rope, seed=1), head(rope, seed=2)
    score = (turned(turn, q, m, rope) * turned(turn, k, n, rope)).sum().item()
    expected = reference.relative_score(q, k, m - n, rope).item()
    assert score == pytest.approx(expected, abs=bar * (q.norm() * k.norm()).item())


@every_form
@settings(max_examples=40)
@given(rope=ROPES, m=POSITIONS)
def test_rotation_commutes_with_the_repeat_of_heads(turn, bar, rope, m):
    k, at = randn(1, 3, rope.head_dim), torch.tensor([m])
    repeated = turn(k.repeat_interleave(2, 1), at, rope)
    assert off(repeated, turn(k, at, rope).repeat_interleave(2, 1)) < bar


@every_form
@settings(max_examples=40)
@given(rope=ROPES, m=POSITIONS)
def test_the_layouts_are_one_under_the_permutation(turn, bar, rope, m):
    width = {"head_dim": rope.head_dim, "rotary_dim": rope.rotary_dim, "theta": rope.theta}
    half, interleaved = (RopeConfig(**width, layout=name) for name in ("half", "interleaved"))
    p = reference.permutation(rope)
    x = head(rope)
    assert off(turned(turn, x @ p.T, m, half), turned(turn, x, m, interleaved) @ p.T) < bar


@given(rope=ROPES, m=POSITIONS, n=POSITIONS)
def test_matrices_are_rotations_and_add_up(rope, m, n):
    identity = torch.eye(rope.head_dim, dtype=torch.float64)
    r_m, r_n = (reference.rotation_matrix(position, rope) for position in (m, n))
    assert off(r_m.T @ r_m, identity) < 1e-12
    assert torch.linalg.det(r_m).item() == pytest.approx(1, abs=1e-12)
    assert off(r_m @ r_n, reference.rotation_matrix(m + n, rope)) < 1e-9
    assert off(r_m.T, reference.rotation_matrix(-m, rope)) < 1e-12
    assert torch.equal(reference.rotation_matrix(0, rope), identity)


@given(rope=ROPES, m=st.floats(-100, 100))
def test_the_generator_makes_the_matrix(rope, m):
    a = reference.generator(rope)
    r_m, step = reference.rotation_matrix(m, rope), 1e-6
    assert off(torch.linalg.matrix_exp(m * a), r_m) < 1e-10  # it is exact to 2e-11 where m is small
    ahead, behind = (reference.rotation_matrix(m + s, rope) for s in (step, -step))
    assert off((ahead - behind) / (2 * step), a @ r_m) < 1e-8


@given(angle=ANGLES)
def test_eulers_formula(angle):
    one, at = torch.tensor([[[1.0, 0.0]]]), torch.tensor([angle], dtype=torch.float64)
    turn = reference.rotate_complex(one, at, RopeConfig.of(2)).flatten().tolist()
    assert turn == pytest.approx([math.cos(angle), math.sin(angle)], abs=1e-15)


AXES = (reference.rotation_x, reference.rotation_y, reference.rotation_z)


@pytest.mark.parametrize("rotation", AXES)
@given(a=ANGLES, b=ANGLES)
def test_rotations_about_one_axis_are_orthogonal_and_additive(rotation, a, b):
    assert off(rotation(a) @ rotation(b), rotation(a + b)) < 1e-12
    assert off(rotation(a).T @ rotation(a), torch.eye(3)) < 1e-12
    assert torch.linalg.det(rotation(a)).item() == pytest.approx(1)


def test_turns_are_right_handed_and_leave_their_axis():
    x, y, z = torch.eye(3, dtype=torch.float64)
    for rotation, axis, start, end in zip(AXES, (x, y, z), (y, z, x), (z, x, y), strict=True):
        torch.testing.assert_close(rotation(math.pi / 2) @ start, end)
        torch.testing.assert_close(rotation(1.0) @ axis, axis)


def test_turns_about_two_axes_do_not_commute():
    one, other = reference.rotation_x(0.5), reference.rotation_y(0.5)
    assert off(one @ other, other @ one) > 0.1


@given(a=ANGLES, b=st.floats(-1.5, 1.5), c=ANGLES)
def test_turns_about_x_then_y_then_z_are_one_matrix_and_its_angles_are_found(a, b, c):
    matrix = reference.rotation_xyz(a, b, c)
    (sx, sy, sz), (cx, cy, cz) = ([f(angle) for angle in (a, b, c)] for f in (math.sin, math.cos))
    rows = [
        [cy * cz, sx * sy * cz - cx * sz, cx * sy * cz + sx * sz],
        [cy * sz, sx * sy * sz + cx * cz, cx * sy * sz - sx * cz],
        [-sy, sx * cy, cx * cy],
    ]
    assert off(matrix, torch.tensor(rows, dtype=torch.float64)) < 1e-12
    assert off(reference.rotation_xyz(*reference.angles_xyz(matrix)), matrix) < 1e-12
    assert reference.angles_xyz(matrix)[1] == pytest.approx(b, abs=1e-9)
