"""The gradient of a rotation is the transpose of its matrix; other functions refuse gradients."""

import pytest
import torch

from rope_core import (
    Attend,
    ConfigError,
    CosSin,
    Merge,
    RopeConfig,
    Rotate,
    Rotated,
    ShapeError,
    Shift,
    attend,
    cos_sin,
    merge,
    rotate,
    shift,
)
from rope_core.calls import with_fields
from tests.core.oracle import DTYPES, randn
from tests.core.specs import every_scheme, every_variant, rope_of, scheme_of

POSITIONS = torch.tensor([0, 3, 7, 50, 2])
ROPE = RopeConfig(head_dim=8)

FORMS = {
    "half": {},
    "interleaved": {"layout": "interleaved"},
    "partial": {"rotary_dim": 8},
    "trailing": {"rotary_dim": 8, "layout": "interleaved", "trailing": True},
    "neighbours to halves": {"layout": "interleaved_to_half"},
    "tiled": {"layout": "interleaved_tiled"},
    "negative": {"negative": True},
    "blocks": {"blocks": 3},
    "halves in blocks": {"blocks": 3, "layout": "interleaved_to_half"},
    "transformers": {"arithmetic": "hf", "rounding": "activation"},
    "float64": {"rounding": "float64"},
}

both_ways = pytest.mark.parametrize("inverse", [False, True], ids=["forth", "back"])


def check(rope, position=(7,), **given):
    """Compare the gradients of q and k at one position with the matrix of the rotation."""
    width = rope.head_dim
    positions = torch.tensor(position)[:, None].expand(-1, width)
    positions = positions if len(position) > 1 else positions[0]
    call = Rotate(*[torch.eye(width)[:, None]] * 2, rope, positions, **given)
    columns = rotate(call)  # token i is column i of the matrix
    gradient, second = (randn(width, 1, width, seed=s).requires_grad_() for s in (0, 1))
    for name in ("q", "k"):
        matrix = getattr(columns, name)[:, 0].mT
        x = randn(width, 1, width, seed=2).requires_grad_()
        rotated = getattr(rotate(with_fields(call, {"q": x, "k": x})), name)
        (x_grad,) = torch.autograd.grad(rotated, x, gradient, create_graph=True)
        bounds = {"rtol": 1e-5, "atol": 1e-5 * float(matrix.abs().max())}
        torch.testing.assert_close(x_grad, gradient @ matrix, **bounds)
        (twice,) = torch.autograd.grad(x_grad, gradient, second)
        torch.testing.assert_close(twice, second @ matrix.mT, **bounds)


@both_ways
@pytest.mark.parametrize("fields", FORMS.values(), ids=FORMS)
def test_each_layout(fields, inverse):
    check(RopeConfig.of(12, **fields), inverse=inverse)


@both_ways
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_differences_of_float64(layout, inverse):
    """The rotation is linear, so differences over a step of 1 are exact but for rounding."""
    rope = RopeConfig(head_dim=4, layout=layout)

    def in_float64(q, k):
        rotated = rotate(Rotate(q.float(), k.float(), rope, POSITIONS[:2], inverse=inverse))
        return rotated.q.double(), rotated.k.double()

    xs = [randn(2, 1, 4, seed=s).double().requires_grad_() for s in (0, 1)]
    bounds = {"eps": 1.0, "atol": 1e-5, "rtol": 1e-5}
    assert torch.autograd.gradcheck(in_float64, xs, **bounds)
    assert torch.autograd.gradgradcheck(in_float64, xs, **bounds)


@both_ways
@every_variant
def test_each_variant(variant, inverse):
    check(rope_of(variant), inverse=inverse)


@both_ways
@every_scheme
def test_each_scheme(scheme, inverse):
    rope = scheme_of(scheme)
    check(rope, [7, 3, 5, 2][: rope.num_axes], inverse=inverse)


def test_frequencies_of_the_call():
    check(RopeConfig.of(8, learned="frequencies"), [7, 3], frequencies=randn(2, 1, 4))
    log_scale = RopeConfig.of(8, learned="log_scale")
    x = randn(5, 1, 8).requires_grad_()
    rotated = rotate(x, rope=log_scale, frequencies=randn(4))
    (gradient,) = torch.autograd.grad(rotated, x, rotated.detach())
    torch.testing.assert_close(gradient, x.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 3, 8), (5, 3, 8)], ids=["batch", "packed"])
def test_gradient_of_a_rotation_is_the_rotation_back(dtype, shape):
    q = randn(*shape, dtype=dtype).requires_grad_()
    rotated = rotate(q, positions=POSITIONS, rope=ROPE)
    assert torch.equal(rotated, rotate(q.detach(), positions=POSITIONS, rope=ROPE))
    gradient = randn(*shape, dtype=dtype, seed=1)
    rotated.backward(gradient)
    back = rotate(gradient, positions=POSITIONS, rope=ROPE, inverse=True)
    assert torch.equal(q.grad, back)


def test_gradients_of_packed_sequences_and_expanded_gradients():
    q = randn(5, 3, 8).requires_grad_()
    starts = torch.tensor([0, 2, 5])
    rotate(q, cu_seqlens=starts, rope=ROPE).sum().backward()
    ones = torch.ones(5, 3, 8)
    assert torch.equal(q.grad, rotate(ones, cu_seqlens=starts, rope=ROPE, inverse=True))


def test_only_what_requires_a_gradient_gets_one():
    q, k = randn(5, 3, 8), randn(5, 1, 8).requires_grad_()
    rotated = rotate(Rotate(q, k, ROPE))
    assert not rotated.q.requires_grad
    assert rotated.k.requires_grad
    rotated.k.sum().backward()
    assert q.grad is None
    with torch.no_grad():
        assert not rotate(k, rope=ROPE).requires_grad
    with torch.inference_mode():
        assert rotate(k, rope=ROPE).is_inference()


def test_positions_that_change_before_the_gradient_are_an_error():
    q, positions = randn(5, 3, 8).requires_grad_(), POSITIONS.clone()
    rotated = rotate(q, positions=positions, rope=ROPE)
    positions += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        rotated.sum().backward()


def test_results_without_gradients_can_be_used_with_weights():
    weight = randn(8).requires_grad_()
    (rotate(randn(5, 3, 8), rope=ROPE) * weight).sum().backward()
    assert weight.grad is not None


GRAD = randn(5, 1, 8).requires_grad_()
PLAIN = randn(5, 1, 8)
FREQUENCIES = randn(1, 1, 4).requires_grad_()
LEARNED = RopeConfig.of(8, learned="frequencies")
TEXT = r"must be without gradients.* \(call detach\(\)"
REFUSED = {
    "attend": (lambda: attend(PLAIN, PLAIN, GRAD, rope=ROPE), "v"),
    "attend call": (lambda: attend(Attend(GRAD, PLAIN, PLAIN, ROPE)), "q"),
    "shift": (lambda: shift(Shift(GRAD, torch.tensor(1), ROPE)), "k"),
    "merge": (lambda: merge(Merge(GRAD, PLAIN[..., 0])), "out"),
    "cos_sin": (
        lambda: cos_sin(CosSin(torch.zeros(1, 2).long(), LEARNED, FREQUENCIES)),
        "frequencies",
    ),
    "frequencies": (
        lambda: rotate(PLAIN, rope=LEARNED, positions=[[0] * 5], frequencies=FREQUENCIES),
        "frequencies",
    ),
    "positions": (
        lambda: rotate(GRAD, rope=ROPE, positions=torch.zeros(5, requires_grad=True)),
        "positions",
    ),
}


@pytest.mark.parametrize(("run", "name"), REFUSED.values(), ids=REFUSED)
def test_other_gradients_are_refused(run, name):
    with pytest.raises(ShapeError, match=f"^{name} {TEXT}"):
        run()
    with torch.no_grad():
        run()


def test_out_is_refused_with_gradients():
    out = Rotated(torch.empty(5, 1, 8), None)
    with pytest.raises(ConfigError, match="out must be None for tensors that require gradients"):
        rotate(Rotate(GRAD, None, ROPE), out)
    with torch.no_grad():
        assert rotate(Rotate(GRAD, None, ROPE), out).q is out.q
