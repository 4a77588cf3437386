"""Laws of every variant."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import VARIANTS, CosSin, Rotate, cos_sin, rotate
from tests.core.oracle import off, randn
from tests.core.specs import TRAINED, every_variant, rope_of

NEAR = st.integers(-1000, 1000)
FAR = st.integers(-(2**20), 2**20)
GAINS = {
    "yarn": 0.1 * math.log(8) + 1,
    "longrope": math.sqrt(1 + math.log(8) / math.log(TRAINED)),
    "inv_freq": 1.25,
    "freq_factors": 0.75,
}
MIXED = 4 ** -((1 / 8) ** 0.625)
FIRST = {
    "linear": 1 / 4,
    "longrope": 1 / 1.5,
    "proportional": 1 / 2,
    "freq_factors": 1 / 2,
    "ntk_mixed": MIXED,
}
"""The first frequency where it is not 1: that of the spec's own factor, or factors."""


def turned(x, m, rope, name="q"):
    """Return `x` as it is at position m, without the gain."""
    tensors = (x, None) if name == "q" else (None, x)
    rotated = rotate(Rotate(*tensors, rope, positions=torch.tensor([m])))
    return getattr(rotated, name).double() / rope.attention_scaling


def head(seed=0):
    return randn(1, 1, 16, seed=seed)


def test_every_variant_has_parameters_here():
    for name in VARIANTS:
        assert rope_of(name).rope_type == name, "tests/core/specs.py"


@every_variant
@pytest.mark.parametrize("arithmetic", ["float64", "hf"])
def test_frequencies_fall_from_the_first_and_are_positive(variant, arithmetic):
    rope = rope_of(variant, arithmetic=arithmetic)
    w = rope.frequency_table.inv_freq
    assert w.dtype == (torch.float64 if arithmetic == "float64" else torch.float32)
    assert w.shape == (8,)
    assert w[0].item() == pytest.approx(FIRST.get(variant, 1), rel=1e-6)
    assert bool((w.diff() <= 0).all())
    turning = w[: 4 if variant == "proportional" else 8]
    assert bool((turning > 0).all())
    assert not w[len(turning) :].any()


@every_variant
@settings(max_examples=20)
@given(m=FAR)
def test_cosine_and_sine_have_the_gain(variant, m):
    rope = rope_of(variant)
    table = cos_sin(CosSin(torch.tensor([m]), rope))
    assert table.attention_scaling == rope.attention_scaling
    assert rope.attention_scaling == pytest.approx(GAINS.get(variant, 1.0), rel=1e-12)
    length = (table.cos.double() ** 2 + table.sin.double() ** 2).sqrt()
    torch.testing.assert_close(length, torch.full_like(length, table.attention_scaling))


@every_variant
@settings(max_examples=20)
@given(m=NEAR, n=NEAR)
def test_turns_add_up(variant, m, n):
    rope = rope_of(variant, length=1)  # xPos: no centre
    there = turned(turned(head(), m, rope).float(), n, rope)
    assert off(there, turned(head(), m + n, rope)) < 1e-6


@every_variant
@settings(max_examples=20)
@given(m=NEAR, n=NEAR, by=NEAR)
def test_scores_depend_on_the_distance_alone(variant, m, n, by):
    rope, q, k = rope_of(variant), head(seed=1), head(seed=2)
    here, there = (
        (turned(q, m + s, rope) * turned(k, n + s, rope, "k")).sum().item() for s in (0, by)
    )
    size = (q.norm() * k.norm()).item()
    growth = 10 ** (abs(m - n) / 100) if variant == "xpos" else 1  # of zeta ** (distance / base)
    assert here == pytest.approx(there, abs=3e-6 * size * growth)


@every_variant
@settings(max_examples=20)
@given(m=NEAR)
def test_norms_are_kept_but_for_xpos_whose_scores_decay(variant, m):
    rope, x = rope_of(variant), head()
    there = turned(x, m, rope)
    if variant != "xpos":
        assert there.norm().item() == pytest.approx(x.norm().item(), rel=1e-6)
    back = rotate(Rotate(x, x, rope, positions=torch.tensor([m])))
    back = rotate(Rotate(back.q, back.k, rope, positions=torch.tensor([m]), inverse=True))
    assert off(back.q, x) < 1e-6
    assert off(back.k, x) < 1e-6


@every_variant
def test_an_odd_width_of_frequencies_rounds_up(variant):
    if variant in ("proportional", "inv_freq"):
        pytest.skip("its exponents run over the head, or it has none")
    rope = rope_of(variant, 16, frequency_dim=15)
    assert rope.frequency_table.inv_freq.shape == (8,)
    assert rope.frequency_table.inv_freq[1] < rope_of(variant).frequency_table.inv_freq[1]
