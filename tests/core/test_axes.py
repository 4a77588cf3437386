"""Positions of several axes: each scheme against its own formula, and what all of them promise."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import SCHEMES, VARIANTS, ConfigError, CosSin, RopeConfig, Rotate, cos_sin, rotate
from tests.core.oracle import off, randn
from tests.core.specs import every_scheme, of_scheme, rope_of, scheme_of

PAIRS = 12
LINEAR = [name for name in SCHEMES if name != "timestamps"]
OF_TEXT = ["mrope", "mrope_interleaved", "mrope_hw_t", "alternating", "xdrope"]
ROTATIONS = [name for name in LINEAR if name != "xdrope"]


def geometric(width, theta=1e4):
    return [theta ** (-2 * i / width) for i in range(width // 2)]


# The angles of one position p, pair by pair, each in plain Python


def of_mrope(p, *, mrope_section):
    t, h, _ = mrope_section
    return [
        w * p[0 if i < t else 1 if i < t + h else 2] for i, w in enumerate(geometric(2 * PAIRS))
    ]


def of_mrope_interleaved(p, *, mrope_section):
    _, h, w = mrope_section

    def axis(i):
        if i % 3 == 1 and i < 3 * h:
            return 1
        return 2 if i % 3 == 2 and i < 3 * w else 0

    return [w * p[axis(i)] for i, w in enumerate(geometric(2 * PAIRS))]


def of_mrope_hw_t(p, *, mrope_section):
    h, w, _ = mrope_section
    return [f * (p[0] if i >= h + w else p[1 + i % 2]) for i, f in enumerate(geometric(2 * PAIRS))]


def of_alternating(p):
    return [w * p[i % 2] for i, w in enumerate(geometric(2 * PAIRS))]


def of_xdrope(p, *, xdrope_section):
    channels = [axis for axis, n in enumerate(xdrope_section) for _ in range(2 * n)]
    return [w * p[axis] for w, axis in zip(geometric(2 * PAIRS) * 2, channels, strict=True)]


def of_axial(p, *, axes_dim, axes_order):
    return [w * p[axis] for axis in axes_order for w in geometric(axes_dim[axis])]


def of_axial_ntk(p, *, axes_dim, rope_scale):
    angles = []
    for x, width, scale in zip(p, axes_dim, rope_scale, strict=True):
        angles += [w * x for w in geometric(width, 1e4 * scale ** (width / (width - 2)))]
    return angles


def of_axial_alternating(p, *, axes_order):
    return [w * p[axis] for w in geometric(PAIRS) for axis in axes_order]


def of_axial_split(p):
    w = geometric(2 * PAIRS)
    return [x * p[0] for x in w[::2]] + [x * p[1] for x in w[1::2]]


def of_axial_centred(p):
    w = [1e4 ** (-4 * i / (2 * PAIRS)) for i in range(PAIRS // 2)]
    return [2 * math.pi * x * c for c in p for x in w]


def of_axial_log(p):
    w = [1e4 ** (j / 3) * math.pi / 2 for j in range(4)]  # from 1 to theta
    return [x * c for x in w for c in p]


def of_axial_pixel(p, *, max_freq, num_axes):
    num_pairs = PAIRS // num_axes
    w = [math.pi * (1 + j / (num_pairs - 1) * (max_freq / 2 - 1)) for j in range(num_pairs)]
    return [x * c for c in p for x in w]


def of_atoms(p, *, num_spatial_pairs, num_uid_pairs, spatial_theta, uid_theta):
    space = [spatial_theta ** (-j / num_spatial_pairs) for j in range(num_spatial_pairs)]
    uid = [uid_theta ** (-j / num_uid_pairs) for j in range(num_uid_pairs)]
    return [w * x for x in p[:3] for w in space] + [w * p[3] for w in uid] + [0.0]


def of_timestamps(p):
    return [p[0] * x * w for x in p[1:] for w in geometric(PAIRS)]


def of_interpolated(p, *, interpolate_factor):
    return [p[0] / interpolate_factor * w for w in geometric(2 * PAIRS)]


ORACLES = {name: globals().get(f"of_{name}") for name in SCHEMES}


def place(scheme, *numbers):
    """Return one position `[A, 1]`, or `[1]` of the scheme that has one axis."""
    count = scheme_of(scheme).num_axes
    at = torch.tensor(numbers[:count], dtype=torch.float64)[:, None]
    return at if count > 1 else at[0]


def turned(x, at, rope):
    return rotate(Rotate(x, None, rope, positions=at)).q.double()


def head(seed=0):
    return randn(1, 1, 2 * PAIRS, seed=seed)


COORDINATE = st.integers(-200, 200)
PLACES = st.tuples(*[COORDINATE] * 4)


def test_every_scheme_has_parameters_and_a_formula_here():
    for name in SCHEMES:
        assert scheme_of(name).axes == name, "tests/core/specs.py"
        assert ORACLES[name] is not None, f"of_{name}"


def test_parameters_of_schemes_are_none_of_variants():
    of_variants = {name for entry in VARIANTS.values() for name in entry.parameters}
    of_config = {field.name for field in dataclasses.fields(RopeConfig) if field.init}
    for entry in SCHEMES.values():
        assert not of_variants & entry.parameters.keys()
        assert not of_config & entry.parameters.keys()


@every_scheme
@settings(max_examples=12)
@given(p=PLACES)
def test_values(scheme, p):
    at = place(scheme, *p)
    table = cos_sin(CosSin(at, scheme_of(scheme)))
    angles = ORACLES[scheme](at.flatten().tolist(), **of_scheme(scheme))
    bar = 6e-8 + 1e-15 * max(map(abs, angles))  # float32 of a table, float64 of an angle
    for actual, function in ((table.cos, math.cos), (table.sin, math.sin)):
        assert actual[0].tolist() == pytest.approx([function(a) for a in angles], rel=0, abs=bar)


@every_scheme
@pytest.mark.parametrize("arithmetic", ["float64", "hf"])
def test_whole_positions_that_look_up_a_table_are_those_that_are_computed(scheme, arithmetic):
    rope = scheme_of(scheme, arithmetic=arithmetic)
    at = torch.randint(0, 300, (rope.num_axes, 7), generator=torch.Generator().manual_seed(0))
    at = at if rope.num_axes > 1 else at[0]
    for whole in (at, at.int()):
        looked_up, computed = cos_sin(CosSin(whole, rope)), cos_sin(CosSin(at.double(), rope))
        assert torch.equal(looked_up.cos, computed.cos)
        assert torch.equal(looked_up.sin, computed.sin)


@pytest.mark.parametrize("scheme", OF_TEXT)
@settings(max_examples=12)
@given(m=st.integers(-1000, 100_000))
def test_a_token_of_text_is_as_on_one_axis(scheme, m):
    rope, plain, x = scheme_of(scheme), RopeConfig.of(2 * PAIRS), head()
    at = torch.tensor([m])
    agreed = at.expand(rope.num_axes, 1)
    expected = turned(x, at, plain)
    assert torch.equal(turned(x, at, rope), turned(x, agreed, rope))
    assert off(turned(x, agreed, rope), expected) < 2e-7  # not fused as the plain one is
    tables = [cos_sin(CosSin(at, config)).cos[0, :PAIRS] for config in (rope, plain)]
    assert torch.equal(*tables)


def test_which_schemes_take_text():
    assert [name for name in SCHEMES if scheme_of(name).frequency_table.broadcasts_axes] == [
        *OF_TEXT,
        "interpolated",
    ]


@pytest.mark.parametrize("scheme", ROTATIONS)
@settings(max_examples=12)
@given(m=PLACES, n=PLACES)
def test_turns_add_up_axis_by_axis(scheme, m, n):
    rope, x = scheme_of(scheme), head()
    twice = turned(turned(x, place(scheme, *m), rope).float(), place(scheme, *n), rope)
    together = [a + b for a, b in zip(m, n, strict=True)]
    assert rope.is_composable
    assert off(twice, turned(x, place(scheme, *together), rope)) < 1e-6


@pytest.mark.parametrize("scheme", ROTATIONS)
@settings(max_examples=12)
@given(m=PLACES, n=PLACES, by=PLACES)
def test_scores_depend_on_the_distance_alone(scheme, m, n, by):
    rope, q, k = scheme_of(scheme), head(seed=1), head(seed=2)

    def score(*step):
        at, other = ([a + s for a, s in zip(p, step, strict=True)] for p in (m, n))
        rotated = turned(q, place(scheme, *at), rope), turned(k, place(scheme, *other), rope)
        return (rotated[0] * rotated[1]).sum().item()

    assert score(0, 0, 0, 0) == pytest.approx(score(*by), abs=3e-6 * (q.norm() * k.norm()).item())


@every_scheme
@settings(max_examples=12)
@given(p=PLACES)
def test_the_inverse_undoes(scheme, p):
    rope, x, at = scheme_of(scheme), head(), place(scheme, *p)
    if scheme == "xdrope":  # it can be undone but where two angles are a quarter turn apart
        angles = torch.tensor(of_xdrope(p, **of_scheme(scheme)))
        if (angles[:PAIRS] - angles[PAIRS:]).cos().abs().min() < 0.05:
            return
    there = rotate(Rotate(x, None, rope, positions=at)).q
    back = rotate(Rotate(there, None, rope, positions=at, inverse=True)).q
    assert off(back, x) < (1e-5 if scheme == "xdrope" else 1e-6)
    if scheme != "xdrope":
        assert there.norm().item() == pytest.approx(x.norm().item(), rel=1e-6)


def test_xdrope_is_no_rotation_where_axes_differ():
    rope, x = scheme_of("xdrope"), head()
    assert not rope.is_rotation
    assert not rope.is_composable
    there = turned(x, torch.tensor([[3], [10], [70], [2]]), rope)
    assert abs(there.norm().item() / x.norm().item() - 1) > 0.01
    q, k = head(seed=1), head(seed=2)
    scores = [
        (turned(q, m + by, rope) * turned(k, n + by, rope)).sum().item()
        for by in (0, 5)
        for m, n in [(torch.tensor([[3], [1], [7], [2]]), torch.tensor([[1], [4], [1], [5]]))]
    ]
    assert scores[0] != pytest.approx(scores[1], rel=1e-2)


def test_timestamps_do_not_add_up():
    rope, x = scheme_of("timestamps"), head()
    assert rope.is_rotation
    assert not rope.is_composable
    one, other = place("timestamps", 1, 2, 3), place("timestamps", 2, 2, 1)
    twice = turned(turned(x, one, rope).float(), other, rope)
    assert off(twice, turned(x, one + other, rope)) > 0.1


def test_positions_of_each_row_and_of_all_rows():
    rope, x = scheme_of("axial"), randn(2, 3, 1, 24)
    at = torch.tensor([[0, 1, 2], [5, 3, 1], [2, 2, 9]])
    per_row = at[:, None].expand(3, 2, 3)
    assert torch.equal(turned(x, at, rope), turned(x, per_row, rope))
    assert torch.equal(turned(x[0], at, rope), turned(x, per_row, rope)[0])


@every_scheme
def test_variants_that_are_scaled_scale_every_axis(scheme):
    """A scheme with a fixed formula for its frequencies refuses them."""
    parameters = of_scheme(scheme)
    if scheme in ("axial_centred", "axial_log", "axial_pixel", "atoms"):
        with pytest.raises(ConfigError, match='rope_type must be "default"'):
            RopeConfig.of(24, axes=scheme, rope_type="linear", factor=4.0, **parameters)
        return
    scaled = RopeConfig.of(24, axes=scheme, rope_type="linear", factor=4.0, **parameters)
    torch.testing.assert_close(
        scaled.frequency_table.inv_freq, scheme_of(scheme).frequency_table.inv_freq / 4
    )


def test_the_gain_of_a_variant_holds_on_several_axes():
    parameters = of_scheme("mrope")
    yarn = {"factor": 8.0, "original_max_position_embeddings": 64}
    rope = RopeConfig.of(24, axes="mrope", rope_type="yarn", **yarn, **parameters)
    assert rope.attention_scaling == rope_of("yarn").attention_scaling != 1


def test_dynamic_frequencies_look_at_all_axes():
    parameters = {"factor": 2.0, "max_position_embeddings": 8, **of_scheme("mrope")}
    rope = RopeConfig.of(24, axes="mrope", rope_type="dynamic", **parameters)
    at = torch.tensor([[0, 1], [0, 30], [0, 2]])
    assert Rotate(randn(2, 1, 24), None, rope, positions=at).rope == rope.for_length(31)


@pytest.mark.parametrize(
    ("sections", "counts"),
    [((24, 20, 20), (24, 20, 20)), ((11, 11, 10), (11, 11, 10)), ((16, 24, 24), (22, 21, 21))],
)
def test_interleaved_sections_take_turns(sections, counts):
    """Where time has less than a third, the others have what turns there are."""
    half = sum(sections)
    rope = RopeConfig.of(2 * half, axes="mrope_interleaved", mrope_section=sections)
    assert tuple(rope.frequency_table.axis.bincount().tolist()) == counts
    assert rope.frequency_table.axis[:4].tolist() == [0, 1, 2, 0]
