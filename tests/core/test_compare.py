"""What `compare` says of two ropes, against numpy and against formulas."""

import math

import numpy as np
import pytest
import torch

from rope_core import ConfigError, RopeConfig, compare, resolve, rotate
from rope_core.presets import built_in
from tests.core.test_first_difference import scan

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "max_position_embeddings": 100}
LONG = {
    "rope_type": "longrope",
    "short_factor": (1.0,) * 32,
    "long_factor": (4.0,) * 32,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.0,
}
of = RopeConfig.of


def plain(theta, pairs):
    return theta ** (-np.arange(pairs) / pairs)


def test_a_preset_is_the_same_as_itself():
    for name in ("llama-3.1-8b", "phi-3-mini-128k-instruct", "qwen2-vl-7b-instruct", "mpt-7b"):
        found = compare(name, name)
        assert (found.same, found.first_position, found.differences) == (True, None, ())
        assert found.summary.startswith("The same")
        assert all(angle.largest == 0 for angle in found.angles)


def test_llama_31_without_its_scaling():
    found = compare("llama-3.1-8b", "llama-3-8b")
    rope = resolve("llama-3.1-8b", arithmetic="float64").rope
    theirs = rope.inv_freq.numpy()
    assert found.first_position == scan(theirs, plain(5e5, 64)) == 28
    assert not found.same
    assert found.summary.startswith("The same until position 28: 35 of 64 pairs turn otherwise (")
    assert [angle.position for angle in found.angles] == [1, 8192, 131_072]
    largest = np.abs(theirs - plain(5e5, 64)).max()
    for angle in found.angles:
        assert angle.largest == pytest.approx(angle.position * largest)
    rows = {row.parameter: row for row in found.differences}
    assert [*rows][:2] == ["rope_type", "factor"]
    assert (rows["rope_type"].rope, rows["rope_type"].other) == ("llama3", "default")
    assert rows["rope_type"].config_key == "rope_scaling.rope_type"
    assert (rows["factor"].rope, rows["factor"].other) == (8.0, None)
    assert torch.equal(found.tensors["inv_freq"], resolve("llama-3.1-8b").inv_freq)
    assert torch.equal(found.tensors["inv_freq_other"], resolve("llama-3-8b").inv_freq)


def test_every_preset_against_another_base():
    """The search is exact for the frequencies of every family that has one axis."""
    for name in [*built_in()][::6]:
        try:
            rope = resolve(name, arithmetic="float64").rope
        except ConfigError:
            rope = resolve(name, layer=0, arithmetic="float64").rope
        if rope is None or rope.num_axes > 1 or rope.needs_length:
            continue
        other = of(rope.head_dim, rotary_dim=rope.rotary_dim, theta=1.003 * rope.theta)
        expected = scan(rope.inv_freq.numpy(), plain(1.003 * rope.theta, rope.half))
        assert compare(rope, other).first_position == expected, name


def test_dynamic_frequencies_are_those_of_the_shortest_call_with_a_position():
    found = compare(of(64, **DYNAMIC), of(64))
    grown = 1e4 * (2 * 101 / 100 - 1) ** (64 / 62)
    assert np.abs(np.cos(100 * plain(grown, 32)) - np.cos(100 * plain(1e4, 32))).max() > 1e-3
    assert found.first_position == 100
    assert not found.same
    assert "same until position 100" in found.summary
    assert compare(of(64, **DYNAMIC), of(64, **DYNAMIC)).same
    fixed = compare(of(64, **DYNAMIC, length=200), of(64))
    grown = 1e4 * (2 * 200 / 100 - 1) ** (64 / 62)
    assert fixed.first_position == scan(plain(grown, 32), plain(1e4, 32))


def grown(theta, factor, trained, positions, pairs):
    """Return dynamic frequencies of calls of `positions` + 1 tokens, `[T, pairs]`."""
    length = np.maximum(positions + 1, trained)
    growth = factor * length / trained - (factor - 1)
    base = theta * growth ** (pairs / (pairs - 1))
    return base[:, None] ** (-np.arange(pairs) / pairs)


@pytest.mark.parametrize("pairs", [2, 4, 32])
@pytest.mark.parametrize("other", [2.5, 2.001, 2.00001])
@pytest.mark.parametrize("trained", [1, 100, 2048])
def test_near_factors_of_dynamic_frequencies(pairs, other, trained):
    positions = np.arange(1, 8_000, dtype=np.float64)
    angles = [
        positions[:, None] * grown(1e4, factor, trained, positions, pairs)
        for factor in (2.0, other)
    ]
    apart = np.abs(np.cos(angles[0]) - np.cos(angles[1])).max(1) > 1e-3
    expected = 1 + int(apart.argmax()) if apart.any() else None
    ropes = [
        of(2 * pairs, rope_type="dynamic", factor=factor, max_position_embeddings=trained)
        for factor in (2.0, other)
    ]
    found = compare(*ropes).first_position
    assert (found if found is None or found < 8_000 else None) == expected


def test_slow_dynamic_frequencies_are_not_tried_one_by_one():
    slow = {"axes": "interpolated", "interpolate_factor": 1e6}
    found = compare(of(64, **DYNAMIC, **slow), None)
    assert found.first_position == math.floor(math.acos(0.999) * 1e6) + 1


def test_longrope_differs_from_the_trained_length_on():
    found = compare(of(64, **LONG), of(64))
    assert found.first_position == 64
    assert found.angles[-1].position == 64
    assert found.angles[-1].largest == pytest.approx(64 * 0.75)
    steps = {"rope_type": "dynamic_alpha", "original_max_position_embeddings": 8192}
    assert compare(of(64, **steps), of(64)).first_position == 8192
    assert "8,192" in compare(of(64, **steps), of(64)).summary


@pytest.mark.parametrize(
    ("rope", "other", "words"),
    [
        ({}, {"layout": "interleaved"}, "other channels are paired (half and interleaved)"),
        ({"layout": "interleaved"}, {"layout": "interleaved_to_half"}, "in another order"),
        ({"rotary_dim": 32}, {"rotary_dim": 32, "trailing": True}, "(half and half, trailing)"),
        ({}, {"blocks": 2}, "(half and half, 2 blocks)"),
        ({}, {"negative": True}, "opposite directions"),
        ({"inv_freq": [1.0] * 32}, {"inv_freq": [1.0] * 31 + [-1.0]}, "opposite directions"),
        (
            {"inv_freq": [1.0] * 32},
            {"inv_freq": [1.0] * 32, "attention_factor": 1.5},
            "cos and sin have gains of 1 and 1.5",
        ),
        ({}, {"rope_type": "xpos"}, "the scale of xPos differs"),
        ({}, {"axes": "mrope", "mrope_section": (8, 12, 12)}, "which text does not show"),
        (
            {"axes": "mrope", "mrope_section": (12, 10, 10)},
            {"axes": "mrope", "mrope_section": (8, 12, 12)},
            "other axes of a position",
        ),
        ({}, {"axes": "xdrope", "xdrope_section": (8,) * 4}, "other axes of a position"),
        ({}, {"values": "rotated"}, "values turn otherwise (kept and rotated)"),
        ({}, {"learned": "frequencies"}, "weights of the model"),
    ],
)
def test_equal_cosines_can_be_another_rotation(rope, other, words):
    found = compare(of(64, **rope), of(64, **other))
    assert (found.same, found.first_position) == (False, None)
    assert found.differences
    assert words in found.summary


@pytest.mark.parametrize(
    ("rope", "other"),
    [
        ({}, {"rope_type": "linear", "factor": 1.0}),
        ({}, {"arithmetic": "hf", "rounding": "activation"}),
        ({"rotary_dim": 2}, {"rotary_dim": 2, "layout": "interleaved"}),
        ({}, {"inv_freq": (1e4 ** (-torch.arange(32).double() / 32)).tolist()}),
    ],
)
def test_the_same_rotation_with_other_parameters(rope, other):
    found = compare(of(64, **rope), of(64, **other))
    assert (found.same, found.first_position) == (True, None)
    assert found.differences


def test_of_different_widths_the_leading_pairs_are_compared():
    found = compare(of(64), of(64, rotary_dim=32))
    assert found.first_position == scan(plain(1e4, 32)[:16], plain(1e4, 16))
    assert "of 32 and 16 pairs the first 16 are compared" in found.summary


def test_a_rope_that_does_not_rotate():
    found = compare("llama-2-7b", None)
    assert found.summary == "Only the first rotates: they differ from position 1 on."
    assert [row.parameter for row in found.differences] == ["rotates"]
    assert [*found.tensors] == ["inv_freq"]
    assert not found.same
    assert found.angles[0].largest == 1
    assert compare(None, "mpt-7b").same
    slow = compare(of(64, inv_freq=[1e-6] * 32), {"preset": "smollm3-3b", "layer": 3})
    assert slow.first_position == math.floor(math.acos(0.999) / 1e-6) + 1


def test_parameters_have_the_width_of_the_other_rope():
    assert compare({"theta": 5e5}, "llama-3-8b").same
    assert compare("llama-3-8b", {"theta": 5e5}).same
    with pytest.raises(ConfigError, match="head_dim"):
        compare({"theta": 5e5}, {"theta": 5e5})


def test_errors_name_the_second_rope():
    with pytest.raises(ConfigError, match=r"^rope must be the name of a preset"):
        compare("no-such-preset", "llama-2-7b")
    with pytest.raises(ConfigError, match=r"^other must be the name of a preset"):
        compare("llama-3-8b", "no-such")
    with pytest.raises(ConfigError, match=r"^other\.layer_type must be one of"):
        compare("llama-2-7b", "gemma-3-27b-it")


def test_keys_of_configs():
    layers = [{"preset": "gemma-3-27b-it", "layer": layer} for layer in (0, 5)]
    keys = {row.parameter: row.config_key for row in compare(*layers).differences}
    assert keys["factor"] == "text_config.rope_scaling.factor"
    assert keys["theta"] is None  # of the class
    presets = "command-r-v01", "llama-2-7b"
    keys = {row.parameter: row.config_key for row in compare(*presets).differences}
    assert keys["theta"] == "rope_theta"


@pytest.mark.parametrize(
    ("rope", "other"),
    [
        ({}, {"layout": "interleaved"}),
        ({"rotary_dim": 32}, {"rotary_dim": 32, "layout": "interleaved", "trailing": True}),
        ({"rotary_dim": 32, "trailing": True}, {"rotary_dim": 32}),
    ],
)
def test_the_permutation_turns_one_rotation_into_the_other(rope, other):
    rope, other = ({"head_dim": 64, **each} for each in (rope, other))
    order = compare(rope, other).permutation
    assert order is not None
    assert sorted(order) == [*range(64)]
    x = torch.randn(1, 8, 2, 64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        rotate(x[..., list(order)], rope=other),
        rotate(x, rope=rope)[..., list(order)],
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"layout": "interleaved", "theta": 5e5},
        {"layout": "interleaved", "attention_factor": 2.0, "rope_type": "yarn", "factor": 1.0}
        | {"original_max_position_embeddings": 64},
        {"layout": "interleaved_to_half"},
        {"layout": "interleaved", "negative": True},
    ],
)
def test_there_is_no_permutation_where_more_or_nothing_differs(other):
    assert compare({"head_dim": 64}, {"head_dim": 64, **other}).permutation is None
