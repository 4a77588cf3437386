"""Layouts against the general operator written out, their inverses, and conversion between them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import (
    ConfigError,
    RopeConfig,
    Rotate,
    ShapeError,
    convert,
    convert_weight,
    reference,
    rotate,
)
from tests.core.oracle import DTYPES, ROTATE_BAR, off, randn
from tests.core.specs import rope_of

LAYOUTS = ("half", "interleaved", "interleaved_to_half", "interleaved_tiled")
TURNING = ("half", "interleaved", "interleaved_to_half")
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
PLACES = {
    "whole head": {},
    "leading part": {"rotary_dim": 12},
    "trailing part": {"rotary_dim": 12, "trailing": True},
    "negative": {"negative": True},
    "blocks": {"blocks": 2},
    "negative blocks at the end": {"rotary_dim": 18, "trailing": True, "negative": True}
    | {"blocks": 3},
    "gain": YARN,
    "gain, trailing part": {**YARN, "rotary_dim": 12, "trailing": True},
    "xPos": {"rope_type": "xpos", "length": 10, "scale_base": 100.0},
}

every_place = pytest.mark.parametrize("place", PLACES)


def rope_at(place, layout):
    return RopeConfig.of(24, **PLACES[place], layout=layout)


def by_definition(x, position, rope):
    """Rotate one head, a list of numbers, channel by channel."""
    d, start = rope.rotary_dim, len(x) - rope.rotary_dim if rope.trailing else 0
    w, sign = rope.frequency_table.inv_freq.tolist(), -1 if rope.negative else 1
    width, out = d // rope.blocks, list(x)
    pairs = width // 2
    for block in range(rope.blocks):
        first = start + block * width
        of_block = w[block * pairs : (block + 1) * pairs]
        for i in range(pairs):
            near = first + 2 * i, first + 2 * i + 1
            apart = first + i, first + i + pairs
            read = apart if rope.layout == "half" else near
            written = near if rope.layout in ("interleaved", "interleaved_tiled") else apart
            angles = of_block[i], of_block[i]
            if rope.layout == "interleaved_tiled":
                angles = of_block[2 * i % pairs], of_block[(2 * i + 1) % pairs]
            (one, other), (a, b) = (x[c] for c in read), (sign * position * w for w in angles)
            gain = rope.attention_scaling
            out[written[0]] = gain * (one * math.cos(a) - other * math.sin(a))
            out[written[1]] = gain * (other * math.cos(b) + one * math.sin(b))
    return out


@every_place
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values(place, layout, dtype):
    if place == "xPos":
        pytest.skip("tests/core/test_variants.py")
    rope, x, at = rope_at(place, layout), randn(3, 2, 24, dtype=dtype), torch.tensor([0, 5, 700])
    q = rotate(Rotate(x, None, rope, positions=at)).q
    expected = [
        [by_definition(head, m, rope) for head in token]
        for token, m in zip(x.double().tolist(), at.tolist(), strict=True)
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    assert off(q, expected) <= 1.25 * ROTATE_BAR[dtype]  # few numbers, and a gain
    outside = slice(0, 24 - rope.rotary_dim) if rope.trailing else slice(rope.rotary_dim, 24)
    assert torch.equal(q[..., outside], x[..., outside]), "the rest passes through"


@every_place
@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=10)
@given(m=st.integers(-500, 100_000))
def test_the_inverse_undoes_and_the_gain_with_it(place, layout, m):
    if layout == "interleaved_tiled":
        if place == "xPos":
            return  # refused
        angles = m * rope_at(place, layout).frequency_table.inv_freq
        blocks = angles.unflatten(-1, (rope_at(place, layout).blocks, -1))
        tiled = torch.cat((blocks, blocks), -1).unflatten(-1, (-1, 2))
        if (tiled[..., 0] - tiled[..., 1]).cos().abs().min() < 0.05:
            return  # nearly singular
    rope, x, at = rope_at(place, layout), randn(1, 2, 24), torch.tensor([m])
    if place == "xPos" and abs(m) > 500:
        at = at % 500
    rotated = rotate(Rotate(x, x, rope, positions=at))
    back = rotate(Rotate(rotated.q, rotated.k, rope, positions=at, inverse=True))
    bar = 1e-5 if layout == "interleaved_tiled" else 1e-6
    assert off(back.q, x) < bar, "x itself, not the square of the gain times x"
    assert off(back.k, x) < bar


@every_place
@pytest.mark.parametrize("layout", TURNING)
@settings(max_examples=10)
@given(m=st.integers(-500, 100_000))
def test_norms_are_kept_but_for_the_gain(place, layout, m):
    if place == "xPos":
        return
    rope, x = rope_at(place, layout), randn(1, 1, 24)
    q = rotate(Rotate(x, None, rope, positions=torch.tensor([m]))).q
    start = 24 - rope.rotary_dim if rope.trailing else 0
    turning = slice(start, start + rope.rotary_dim)
    ratio = (q[..., turning].norm() / x[..., turning].norm()).item()
    assert ratio == pytest.approx(rope.attention_scaling, rel=1e-6)


def test_tiled_angles_are_no_rotation():
    rope = rope_at("whole head", "interleaved_tiled")
    assert not rope.is_rotation
    assert not rope.is_composable
    x = randn(50, 1, 24)
    ratio = rotate(Rotate(x, None, rope)).q.norm(dim=-1) / x.norm(dim=-1)
    assert ratio.max() > 1.05
    assert ratio.min() < 0.95

    def score(m, n):
        q, k = (rotate(Rotate(x[:1], None, rope, positions=torch.tensor([at]))).q for at in (m, n))
        return (q * k).sum().item()

    assert score(3, 1) != pytest.approx(score(9, 7), rel=1e-2)


@every_place
@settings(max_examples=10)
@given(m=st.integers(-500, 100_000))
def test_reading_neighbours_and_writing_halves_is_interleaved_under_the_permutation(place, m):
    at, x = torch.tensor([m % 500 if place == "xPos" else m]), randn(1, 2, 24)
    fields = PLACES[place]
    inner = {name: fields[name] for name in ("rotary_dim", "trailing") if name in fields}
    mixed, plain, half = (
        rotate(Rotate(x, None, rope_at(place, layout), positions=at)).q
        for layout in ("interleaved_to_half", "interleaved", "half")
    )
    if "blocks" not in fields:
        assert off(mixed, convert(plain, "interleaved", "half", **inner)) < 2e-7
        converted = convert(x, "interleaved", "half", **inner)
        q = rotate(Rotate(converted, None, rope_at(place, "half"), positions=at)).q
        assert off(q, convert(plain, "interleaved", "half", **inner)) < 2e-7
    assert off(half, mixed) > 1e-3 or not m


WIDTHS = st.integers(1, 12).flatmap(
    lambda width: st.tuples(st.just(width + 1), st.integers(1, (width + 1) // 2), st.booleans())
)


@given(widths=WIDTHS, source=st.booleans())
def test_conversion_there_and_back(widths, source):
    width, pairs, trailing = widths
    names = ("half", "interleaved") if source else ("interleaved", "half")
    inner = {"rotary_dim": 2 * pairs, "trailing": trailing}
    x = torch.arange(3 * width).view(3, width)
    converted = convert(x, *names, **inner)
    assert torch.equal(convert(converted, *reversed(names), **inner), x)
    assert sorted(converted[0].tolist()) == x[0].tolist()
    same = convert(x, names[0], names[0], **inner)
    assert torch.equal(same, x)
    assert same.data_ptr() != x.data_ptr()


def test_conversion_is_the_permutation_of_the_reference():
    rope = RopeConfig.of(10, rotary_dim=6)
    x = randn(4, 10, dtype=torch.float64)
    assert torch.equal(
        convert(x, "interleaved", "half", rotary_dim=6), x @ reference.permutation(rope).T
    )


MODELS = {  # heads of q, heads of k, head_dim, rotary_dim, trailing
    "MHA": (4, 4, 8, 8, False),
    "GQA": (4, 2, 8, 8, False),
    "MQA, partial": (4, 1, 12, 6, False),
    "GQA, trailing": (6, 2, 12, 4, True),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("names", [("interleaved", "half"), ("half", "interleaved")])
def test_converted_weights_give_converted_heads_and_the_same_scores(model, names):
    num_heads, num_kv_heads, head_dim, rotary_dim, trailing = MODELS[model]
    inner = {"rotary_dim": rotary_dim, "trailing": trailing}
    source, target = (RopeConfig.of(head_dim, layout=name, **inner) for name in names)
    x, rotated = randn(7, 16, seed=3), {}
    for name, heads in (("q", num_heads), ("k", num_kv_heads)):
        weight, bias = randn(heads * head_dim, 16, seed=4), randn(heads * head_dim, seed=5)
        moved = [convert_weight(w, heads, *names, **inner) for w in (weight, bias)]
        assert moved[0].shape == weight.shape
        projected, converted = (
            torch.nn.functional.linear(x, *pair).unflatten(-1, (heads, head_dim))
            for pair in ((weight, bias), moved)
        )
        rotated[name] = before, after = [
            rotate(Rotate(tensor, None, rope)).q
            for tensor, rope in ((projected, source), (converted, target))
        ]
        assert off(after, convert(before, *names, **inner)) < 5e-7
    scores = [
        torch.einsum("qhd,khd->hqk", q, k.repeat_interleave(num_heads // num_kv_heads, 1))
        for q, k in zip(rotated["q"], rotated["k"], strict=True)
    ]
    assert off(*scores) < 1e-6


def test_what_conversion_refuses():
    x = torch.empty(2, 6)
    for wrong, message in (
        ((x, "neox", "half"), r"source must be one of \['half', 'interleaved'\], got 'neox'"),
        ((x, "half", "interleaved_to_half"), "target must be .* got 'interleaved_to_half'"),
    ):
        with pytest.raises(ConfigError, match=message):
            convert(*wrong)
    for rotary_dim in (0, 3, 8, -2):
        expected = rf"rotary_dim must be even and in \[2, 6\], got {rotary_dim}"
        with pytest.raises(ConfigError, match=expected):
            convert(x, "half", "interleaved", rotary_dim=rotary_dim)
    with pytest.raises(ShapeError, match=r"x must be \[\.\.\., head_dim\], got one number"):
        convert(torch.tensor(1.0), "half", "interleaved")
    for weight, heads in ((x, 4), (x, 0), (torch.tensor(1.0), 1)):
        with pytest.raises(ShapeError, match=f"weight must be of rows for {heads} heads"):
            convert_weight(weight, heads, "half", "interleaved")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_unfused_roundings_are_near_the_fused_one(dtype):
    x = randn(5, 2, 16, dtype=dtype)
    for rounding in ("float32", "complex", "tables", "activation", "float64"):
        for layout in ("half", "interleaved"):
            rounded = rotate(
                Rotate(x, None, rope_of("default", rounding=rounding, layout=layout))
            ).q
            expected = rotate(Rotate(x, None, rope_of("default", layout=layout))).q
            assert rounded.dtype == dtype
            assert off(rounded, expected) <= 4 * ROTATE_BAR[dtype], rounding


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_inverse_of_what_is_no_rotation_is_finite_in_low_precision(dtype):
    """Pairs that turn by angles nearly at right angles enlarge what rounding has lost."""
    parameters = {
        "axes": "xdrope",
        "xdrope_section": (4, 4),
        "rounding": "tables",
        "arithmetic": "hf",
    }
    rope = RopeConfig.of(16, **parameters)
    torch.manual_seed(0)
    at = torch.randint(0, 200, (2, 4000))
    q = torch.randn(4000, 2, 16).to(dtype)
    back = rotate(Rotate(q, None, rope, at, inverse=True)).q
    assert back.isfinite().all()


def test_xpos_is_refused_where_its_scale_leaves_float32():
    rope = RopeConfig.of(8, rope_type="xpos", length=1)
    far = torch.tensor([2**31])
    with pytest.raises(ShapeError, match="positions must be within 30,720 of 0"):
        Rotate(torch.ones(1, 1, 8), None, rope, far)
