"""What a variant does to each pair, and which channels and axes a pair has."""

import dataclasses
import math

import pytest
import torch

from rope_core import RopeConfig, resolve, rotate
from rope_core.pairs import SEVERAL_AXES, channel_pairs, pair_axis
from rope_core.scaling import Scaling, divisors, exact_frequencies, scaling, unscaled

YARN = {"rope_type": "yarn", "original_max_position_embeddings": 4096}
LONG = {
    "rope_type": "longrope",
    "short_factor": (1.0,) * 16 + (2.0,) * 16,
    "long_factor": (4.0,) * 32,
    "original_max_position_embeddings": 64,
    "factor": 2.0,
}


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("llama-3.1-8b", Scaling(29, 6, 29, 8.0)),
        ("llama-4-scout-17b-16e-instruct", Scaling(35, 0, 29, 16.0)),
        ("deepseek-v3", Scaling(11, 12, 9, 40.0)),
        ("gpt-oss-20b", Scaling(9, 9, 14, 32.0)),
        ("llama-2-7b-32k", Scaling(0, 0, 64, 8.0)),
        ("hunyuan-7b-instruct", Scaling(1, 62, 1, 1000.0)),
        ("internlm3-8b-instruct", Scaling(64, 0, 0, 1.0)),
        ("qwen3-8b", Scaling(64, 0, 0, 1.0)),
    ],
)
def test_presets(preset, expected):
    assert scaling(resolve(preset).rope) == expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"rope_type": "linear", "factor": 0.5}, Scaling(0, 0, 32, 0.5)),
        ({"rope_type": "ntk", "factor": 4.0}, Scaling(1, 30, 1, 4.0)),
        ({**YARN, "max_position_embeddings": 8192}, Scaling(11, 12, 9, 2.0)),
        ({**YARN, "factor": 1.0}, Scaling(32, 0, 0, 1.0)),
        ({**LONG}, Scaling(16, 0, 16, 2.0)),
        ({**LONG, "length": 65}, Scaling(0, 0, 32, 4.0)),
        ({"freq_factors": [1.0] * 20 + [2.0] + [8.0] * 11}, Scaling(20, 1, 11, 8.0)),
        ({"inv_freq": [0.0] * 8 + [1.0, -1.0] * 12}, Scaling(24, 0, 0, 1.0)),
        ({"inv_freq": [0.0] * 32}, Scaling(0, 0, 0, 1.0)),
        (
            {"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0},
            Scaling(0, 0, 8, 2.0),
        ),
        ({"axes": "interpolated", "interpolate_factor": 3.0}, Scaling(0, 0, 32, 3.0)),
        ({"axes": "mrope", "mrope_section": (8, 12, 12), **YARN, "factor": 4.0}, None),
        ({"rope_type": "xpos"}, Scaling(32, 0, 0, 1.0)),
    ],
)
def test_variants(parameters, expected):
    for arithmetic in ("float64", "hf"):
        rope = RopeConfig.of(64, arithmetic=arithmetic, **parameters)
        counts = scaling(rope)
        assert counts == expected or expected is None
        turning = int((rope.inv_freq[:32] != 0).sum())
        assert counts.kept + counts.blended + counts.divided == turning
        assert int((~divisors(rope).isnan()).sum()) == turning


def test_scale_of_an_axis():
    rope = RopeConfig.of(60, axes="axial_ntk", axes_dim=(20,) * 3, rope_scale=(2.0, 1.0, 1.0))
    plain = RopeConfig.of(60, axes="axial", axes_dim=(20,) * 3)
    assert unscaled(rope) == plain
    assert scaling(rope) == Scaling(21, 8, 1, 2.0)


def test_unscaled_is_the_plain_progression():
    rope = resolve("llama-3.1-8b").rope
    plain = unscaled(rope)
    expected = 5e5 ** (-torch.arange(64, dtype=torch.float64) / 64)
    torch.testing.assert_close(plain.inv_freq.double(), expected, rtol=1e-6, atol=0)
    assert dataclasses.replace(plain, arithmetic="float64") == RopeConfig.of(
        128, theta=5e5, rounding="activation"
    )


AXIAL = {"axes": "axial", "axes_dim": (16,) * 3}
ROTATIONS = {
    "half": {},
    "interleaved": {"layout": "interleaved"},
    "partial": {"rotary_dim": 16},
    "trailing": {"rotary_dim": 16, "trailing": True, "layout": "interleaved"},
    "negative": {"negative": True},
    "blocks": {"blocks": 3, **AXIAL},
    "blocks, interleaved": {"blocks": 3, "layout": "interleaved", **AXIAL},
    "mrope": {"axes": "mrope", "mrope_section": (6, 8, 10)},
    "mrope_interleaved": {"axes": "mrope_interleaved", "mrope_section": (8, 8, 8)},
    "axial_centred": {"axes": "axial_centred"},
    "interpolated": {"axes": "interpolated", "interpolate_factor": 3.0},
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5},
    "gain": {"rope_type": "inv_freq", "inv_freq": [0.1] * 24, "attention_factor": 1.5},
}


@pytest.mark.parametrize("name", ROTATIONS)
def test_pairs_are_those_that_a_rotation_mixes(name):
    """One-hot vectors show the matrix of a rotation; each axis has a position of its own."""
    rope = RopeConfig.of(48, **ROTATIONS[name])
    at = torch.arange(1, rope.num_axes + 1, dtype=torch.float64)
    positions = at[:, None].expand(-1, 48) if rope.num_axes > 1 else at.expand(48)
    rotated = rotate(torch.eye(48)[:, None], rope=rope, positions=positions)
    expected = torch.eye(48, dtype=torch.float64)
    axis, frequencies = pair_axis(rope), exact_frequencies(rope)
    for pair, (a, b) in enumerate(channel_pairs(rope).tolist()):
        angle = float(frequencies[pair] * at[axis[pair]])
        cos, sin = math.cos(angle), math.sin(angle)
        turn = torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float64)
        expected[[[a], [b]], [[a, b]]] = rope.attention_scaling * turn
    torch.testing.assert_close(rotated[:, 0].double(), expected, rtol=0, atol=1e-6)


def test_pairs_of_several_axes():
    sections = {"axes": "xdrope", "xdrope_section": (2, 2, 2, 2)}
    assert pair_axis(RopeConfig.of(16, **sections)).tolist() == [SEVERAL_AXES] * 8
    one = {"axes": "xdrope", "xdrope_section": (8, 0)}
    assert pair_axis(RopeConfig.of(16, **one)).tolist() == [0] * 8
    assert pair_axis(RopeConfig.of(16, axes="timestamps")).tolist() == [SEVERAL_AXES] * 8
    moved = RopeConfig.of(16, layout="interleaved_to_half", axes="mrope", mrope_section=(2, 3, 3))
    assert pair_axis(moved).tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert channel_pairs(moved).tolist() == [[2 * i, 2 * i + 1] for i in range(8)]
