"""Valid parameters of every variant and scheme; a registered name without any fails the suite."""

import pytest

from rope_core import SCHEMES, VARIANTS, RopeConfig

TRAINED = 64
"""The length that variants here are trained for: short, so that calls exceed it."""


def of_variant(name, dim=16):
    """Return parameters of a variant, for frequencies of `dim` channels."""
    original = {"original_max_position_embeddings": TRAINED}
    half = (dim + 1) // 2
    return {
        "default": {},
        "linear": {"factor": 4.0},
        "ntk": {"factor": 4.0},
        "ntk_alpha": {"alpha": 50.0},
        "ntk_mixed": {"factor": 4.0, "mixed_b": 0.625},
        "dynamic": {"factor": 2.0, "max_position_embeddings": TRAINED},
        "dynamic_alpha": original,
        "yarn": {"factor": 8.0, "beta_fast": 4, **original},
        "longrope": {
            "short_factor": tuple(1 + i / 50 for i in range(half)),
            "long_factor": tuple(1.5 + i for i in range(half)),
            "factor": 8.0,
            **original,
        },
        "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **original},
        "proportional": {"partial_rotary_factor": 0.5, "factor": 2.0},
        "xpos": {"scale_base": 100.0},
        "inv_freq": {"inv_freq": tuple(0.75**i for i in range(half)), "attention_factor": 1.25},
        "freq_factors": {
            "freq_factors": tuple(2 + i / 4 for i in range(half)),
            "attention_factor": 0.75,
        },
    }[name]


def of_scheme(name):
    """Return parameters of a scheme, for 24 channels."""
    return {
        "mrope": {"mrope_section": (3, 5, 4)},
        "mrope_interleaved": {"mrope_section": (5, 4, 3)},
        "mrope_hw_t": {"mrope_section": (4, 4, 4)},
        "alternating": {},
        "xdrope": {"xdrope_section": (3, 3, 3, 3)},
        "axial": {"axes_dim": (4, 12, 8), "axes_order": (1, 0, 2)},
        "axial_ntk": {"axes_dim": (8, 6, 10), "rope_scale": (2.0, 1.0, 3.0)},
        "axial_alternating": {"axes_order": (1, 0)},
        "axial_split": {},
        "axial_centred": {},
        "axial_log": {},
        "axial_pixel": {"max_freq": 10.0, "num_axes": 3},
        "atoms": {
            "num_spatial_pairs": 3,
            "num_uid_pairs": 2,
            "spatial_theta": 100.0,
            "uid_theta": 1e4,
        },
        "timestamps": {},
        "interpolated": {"interpolate_factor": 2.5},
    }[name]


def rope_of(variant, dim=16, *, length=2 * TRAINED, **fields):
    """Return a rope of a variant, for a call of `length` where frequencies depend on it."""
    given = of_variant(variant, fields.get("frequency_dim") or dim)
    head_dim = fields.pop("head_dim", dim)
    rope = RopeConfig.of(head_dim, rotary_dim=dim, rope_type=variant, **fields, **given)
    return rope.for_length(length)


def scheme_of(name, **fields):
    """Return a rope of a scheme."""
    return RopeConfig.of(24, axes=name, **of_scheme(name), **fields)


OF_LENGTH = ("dynamic", "dynamic_alpha", "longrope", "xpos")
"""Variants whose rotation depends on the length of the call."""

every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_scheme = pytest.mark.parametrize("scheme", SCHEMES)
