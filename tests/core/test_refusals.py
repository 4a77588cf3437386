"""Each refusal of a configuration: it names the parameter, the rule and what came."""

import math
import re

import pytest

from rope_core import SCHEMES, VARIANTS, ConfigError, RopeConfig
from rope_core.config import MAX_HEAD_DIM
from tests.core.specs import of_scheme, of_variant

NAN, HUGE = math.nan, 10**400


FIELDS = {  # fields and what the error says
    "head_dim of 0": ({"head_dim": 0}, "head_dim must be in [1, 8192], got 0"),
    "head_dim too wide": (
        {"head_dim": MAX_HEAD_DIM + 2},
        "head_dim must be in [1, 8192], got 8194",
    ),
    "head_dim of another type": ({"head_dim": 8.0}, "head_dim must be a whole number, got 8.0"),
    "head_dim a boolean": ({"head_dim": True}, "head_dim must be a whole number, got True"),
    "odd rotary_dim": (
        {"rotary_dim": 7},
        "rotary_dim must be even and in [2, head_dim = 16], got 7",
    ),
    "no rotary_dim": ({"rotary_dim": 0}, "rotary_dim must be even and in [2, head_dim = 16]"),
    "rotary_dim wider than the head": (
        {"rotary_dim": 18},
        "rotary_dim must be even and in [2, head_dim = 16], got 18",
    ),
    "rotary_dim a text": ({"rotary_dim": "8"}, "rotary_dim must be a whole number, got '8'"),
    "theta of 0": ({"theta": 0}, "theta must be finite and in [1e-6, 1e12], got 0"),
    "theta below 0": ({"theta": -1e4}, "theta must be finite and in [1e-6, 1e12], got -10000.0"),
    "theta NaN": ({"theta": NAN}, "theta must be finite and in [1e-6, 1e12], got nan"),
    "theta infinite": ({"theta": math.inf}, "theta must be finite and in [1e-6, 1e12], got inf"),
    "theta a text": ({"theta": "10000"}, "theta must be a number, got '10000'"),
    "theta a boolean": ({"theta": True}, "theta must be a number, got True"),
    "layout": ({"layout": "neox"}, "layout must be one of ['half', 'interleaved',"),
    "arithmetic": ({"arithmetic": "f32"}, "arithmetic must be one of ['float64', 'hf'], got 'f32'"),
    "rounding": ({"rounding": None}, "rounding must be one of ['once',"),
    "values": ({"values": "none"}, "values must be one of ['kept', 'rotated', 'and_back']"),
    "learned": ({"learned": "all"}, "learned must be one of ['frequencies', 'log_scale']"),
    "no blocks": ({"blocks": 0}, "blocks must be a divisor of 8 pairs, got 0"),
    "blocks that split pairs": ({"blocks": 3}, "blocks must be a divisor of 8 pairs, got 3"),
    "blocks a text": ({"blocks": "2"}, "blocks must be a whole number, got '2'"),
    "frequency_dim of 0": ({"frequency_dim": 0}, "frequency_dim must be in [1, 8192], got 0"),
    "frequency_dim below": ({"frequency_dim": -4}, "frequency_dim must be in [1, 8192], got -4"),
    "frequency_dim a text": ({"frequency_dim": "8"}, "frequency_dim must be a whole number"),
    "frequency_dim of others": ({"frequency_dim": 8}, "rotary_dim must be twice the 4 angles"),
    "unknown rope_type": ({"rope_type": "yarm"}, "rope_type must be one of ['default',"),
    "rope_type a list": ({"rope_type": []}, "rope_type must be one of ['default',"),
    "unknown axes": ({"axes": "mroope"}, "axes must be one of ['mrope',"),
    "axes a list": ({"axes": []}, "axes must be one of ['mrope',"),
    "a parameter of no variant": (
        {"factor": 2.0},
        "a parameter must be one of [] for default, got 'factor'",
    ),
    "a field by its inner name": ({"_hash": 1}, "a parameter must be one of [] for default"),
    "a scheme's parameter without it": (
        {"mrope_section": (4, 2, 2)},
        "a parameter must be one of [] for default, got 'mrope_section'",
    ),
}

GAIN = "attention_factor must be 0, or such that the attention scaling is in [1e-06, 1e+06], got"
PARAMETERS = {  # variant, what is changed of its parameters, and what the error says
    "linear": [
        ({"factor": 0}, "factor must be a number of at least 1e-06, got 0"),
        ({"factor": -2.0}, "factor must be a number of at least 1e-06, got -2.0"),
        ({"factor": NAN}, "factor must be a number, got nan"),
        ({"factor": math.inf}, "factor must be a number, got inf"),
        ({"factor": HUGE}, "factor must be a number, got 1000"),
        ({"factor": "4"}, "factor must be a number, got '4'"),
        ({"factor": True}, "factor must be a number, got True"),
        ({"factor": None}, "factor must be a number, got None"),
        ({"factor": [4.0]}, "factor must be a number, got [4.0]"),
        ({"factr": 4.0}, "a parameter must be one of ['factor'] for linear, got 'factr'"),
    ],
    "ntk": [
        ({"factor": 0.0}, "factor must be a number of at least 1e-06, got 0.0"),
        ({"factor": 1e300}, "factor must be small enough to be raised to"),
    ],
    "ntk_alpha": [
        ({"alpha": 0.0}, "alpha must be a number of at least 1e-06, got 0.0"),
        ({"alpha": 1e305}, "alpha must be small enough to be raised to"),
    ],
    "ntk_mixed": [
        ({"factor": 0.5}, "factor must be a number of at least 1.0, got 0.5"),
        ({"mixed_b": 0.0}, "mixed_b must be in [1e-06, 1000], got 0.0"),
    ],
    "dynamic_alpha": [
        (
            {"original_max_position_embeddings": 0},
            "original_max_position_embeddings must be a number of at least 1, got 0",
        ),
    ],
    "dynamic": [
        ({"factor": 0.5}, "factor must be a number of at least 1.0, got 0.5"),
        ({"max_position_embeddings": 0}, "max_position_embeddings must be a number of at least 1"),
        (
            {"max_position_embeddings": 1.5},
            "max_position_embeddings must be a whole number, got 1.5",
        ),
        ({"length": 2**63, "arithmetic": "hf"}, "length must be a whole number, got 9223372036"),
        ({"factor": 1e300, "length": 10**6}, "factor must be small enough to be raised to"),
        ({"alpha": 0.0}, "alpha must be a number of at least 1e-06, got 0.0"),
    ],
    "yarn": [
        ({"factor": 0.5}, "factor must be a number of at least 1.0, got 0.5"),
        ({"factor": None}, "factor must be given, or max_position_embeddings, got neither"),
        (
            {"factor": None, "max_position_embeddings": 16},
            "factor must be a number of at least 1.0, got 0.25",
        ),
        (
            {"original_max_position_embeddings": 0},
            "original_max_position_embeddings must be a number of at least 1, got 0",
        ),
        ({"theta": 1.0}, "theta must be other than 1 for yarn, got 1.0"),
        ({"beta_fast": -1}, "beta_fast must be a number of at least 1e-06, got -1"),
        ({"beta_slow": -2.0}, "beta_slow must be a number of at least 1e-06, got -2.0"),
        ({"truncate": "no"}, "truncate must be true or false, got 'no'"),
        ({"truncate": 1}, "truncate must be true or false, got 1"),
        ({"attention_factor": 1e-9}, f"{GAIN} 1e-09"),
        ({"attention_factor": -1e300}, f"{GAIN} -1e+300"),
        (
            {"factor": math.e, "mscale": 1.0, "mscale_all_dim": -10.0},
            "mscale_all_dim must be such that the attention scaling is finite, got -10.0",
        ),
    ],
    "longrope": [
        (
            {"short_factor": (1.0,) * 7},
            "short_factor must be a list of 8 numbers, one for each pair",
        ),
        (
            {"long_factor": (1.0,) * 9},
            "long_factor must be a list of 8 numbers, one for each pair, got 9",
        ),
        ({"long_factor": (0.0,) + (1.0,) * 7}, "long_factor must be of positive numbers"),
        ({"short_factor": "1" * 8}, "short_factor must be a list of numbers, got '11111111'"),
        ({"short_factor": (NAN,) * 8}, "short_factor must be a list of finite numbers, got nan"),
        ({"short_factor": (HUGE,) * 8}, "short_factor must be a list of finite numbers"),
        ({"short_factor": (True,) * 8}, "short_factor must be a list of finite numbers"),
        (
            {"short_factor": (1e-20,) * 8},
            "theta must be such that no scaled frequency is above 1e+18, got 10000.0",
        ),
        (
            {"short_factor": (1e-50,) * 8, "arithmetic": "hf"},
            "theta must be such that no scaled freq",
        ),
        ({"factor": 0.9}, "factor must be a number of at least 1.0, got 0.9"),
        ({"factor": None}, "factor must be given, or max_position_embeddings, got neither"),
        (
            {"original_max_position_embeddings": 1},
            "original_max_position_embeddings must be above 1, got 1",
        ),
        ({"original_max_position_embeddings": -4}, "original_max_position_embeddings must be a"),
        ({"short_mscale": 1e7}, f"{GAIN} 10000000.0"),
    ],
    "llama3": [
        ({"factor": 0.5}, "factor must be a number of at least 1.0, got 0.5"),
        ({"low_freq_factor": 0}, "low_freq_factor must be a number of at least 1e-06, got 0"),
        ({"high_freq_factor": -4}, "high_freq_factor must be a number of at least 1e-06, got -4"),
        ({"original_max_position_embeddings": 0}, "original_max_position_embeddings must be a"),
    ],
    "proportional": [
        (
            {"partial_rotary_factor": 1.5},
            "partial_rotary_factor must be in [0, 1], got 1.5",
        ),
        ({"partial_rotary_factor": -0.5}, "partial_rotary_factor must be in [0, 1], got -0.5"),
        ({"factor": 0}, "factor must be a number of at least 1e-06, got 0"),
    ],
    "xpos": [
        ({"scale_base": 0}, "scale_base must be a number of at least 1.0, got 0"),
        ({"axes": "alternating"}, "rope_type must be other than xpos: xPos needs one axis"),
        ({"layout": "interleaved_tiled"}, "rope_type must be other than xpos"),
    ],
}

SECTIONS = "mrope_section must be 3 whole numbers that add up to 12 pairs, got"
AXES = {  # scheme, what is changed of its parameters, and what the error says
    "mrope": [
        ({"mrope_section": (3, 5, 5)}, f"{SECTIONS} [3, 5, 5]"),
        ({"mrope_section": (6, 6)}, f"{SECTIONS} [6, 6]"),
        ({"mrope_section": ()}, f"{SECTIONS} []"),
        ({"mrope_section": (-1, 8, 5)}, f"{SECTIONS} [-1, 8, 5]"),
        ({"mrope_section": (3.5, 5, 3.5)}, "mrope_section must be a list of whole numbers, got"),
        ({"mrope_section": "abc"}, "mrope_section must be a list of numbers, got 'abc'"),
        ({"section": (3, 5, 4)}, "a parameter must be one of [] for default, got 'section'"),
    ],
    "mrope_interleaved": [({"mrope_section": (12,)}, f"{SECTIONS} [12]")],
    "mrope_hw_t": [
        ({"mrope_section": (4, 4, 5)}, f"{SECTIONS} [4, 4, 5]"),
        ({"mrope_section": (5, 3, 4)}, "mrope_section must be of equal h and w, got [5, 3, 4]"),
    ],
    "xdrope": [
        ({"xdrope_section": (3, 3, 3)}, "xdrope_section must be 3 whole numbers that add up to 12"),
        ({"xdrope_section": ()}, "xdrope_section must be 0 whole numbers"),
    ],
    "axial": [
        ({"axes_dim": (4, 12)}, "axes_order must be an order of 2 axes, got [1, 0, 2]"),
        ({"axes_dim": (4, 12, 6)}, "axes_dim must be even widths that add up to 24"),
        ({"axes_dim": (5, 11, 8)}, "axes_dim must be even widths that add up to 24, got [5, 11,"),
        ({"axes_dim": (0, 16, 8)}, "axes_dim must be even widths that add up to 24, got [0, 16,"),
        ({"axes_dim": (4.5, 11.5, 8)}, "axes_dim must be a list of whole numbers"),
        ({"axes_order": (1, 1, 2)}, "axes_order must be an order of 3 axes, got [1, 1, 2]"),
        ({"axes_order": (0, 1, HUGE)}, "axes_order must be a list of whole numbers"),
    ],
    "axial_ntk": [
        ({"rope_scale": (2.0, 1.0)}, "rope_scale must be 3 numbers of at least 1e-6"),
        ({"rope_scale": (2.0, -1.0, 1.0)}, "rope_scale must be 3 numbers of at least 1e-6"),
        ({"rope_scale": (1e300, 1.0, 1.0)}, "rope_scale must be small enough to be raised to"),
        ({"axes_dim": (2, 12, 10)}, "axes_dim must be above 2 with axial_ntk, got [2, 12, 10]"),
    ],
    "axial_alternating": [
        ({"axes_order": (0, 2)}, "axes_order must be an order of axes that share 12 pairs evenly"),
        ({"axes_order": ()}, "axes_order must be an order of axes that share 12 pairs evenly"),
        ({"axes_order": (0, 1, 2, 3, 4)}, "axes_order must be an order of axes that share 12"),
    ],
    "axial_split": [({"head_dim": 22}, "rotary_dim must be a multiple of 4 with axial_split")],
    "axial_centred": [({"head_dim": 22}, "rotary_dim must be twice the 12 angles, got 22")],
    "axial_log": [
        ({"head_dim": 22}, "rotary_dim must be a multiple of 6 with axial_log, got 22"),
        (
            {"rope_type": "linear", "factor": 2.0},
            'rope_type must be "default" with axial_log, whose frequencies are its own',
        ),
    ],
    "axial_pixel": [
        ({"num_axes": 5}, "num_axes must be a divisor of 12 pairs, got 5"),
        ({"num_axes": 0}, "num_axes must be a divisor of 12 pairs, got 0"),
        ({"max_freq": 0.0}, "max_freq must be above 0, got 0.0"),
    ],
    "atoms": [
        ({"num_spatial_pairs": 4}, "num_uid_pairs must be with 3 * num_spatial_pairs in [0, 12]"),
        ({"num_uid_pairs": -1}, "num_uid_pairs must be with 3 * num_spatial_pairs in [0, 12]"),
        ({"spatial_theta": -1.0}, "spatial_theta must be a number of at least 1e-6, got -1.0"),
        ({"uid_theta": 0.0}, "uid_theta must be a number of at least 1e-6, got 0.0"),
    ],
    "timestamps": [({"head_dim": 22}, "rotary_dim must be twice the 12 angles, got 22")],
    "interpolated": [
        ({"interpolate_factor": 0.5}, "interpolate_factor must be at least 1, got 0.5")
    ],
    "alternating": [({"axes_order": (0, 1)}, "a parameter must be one of [] for default")],
}


def flat(table):
    cases = [(name, *case) for name, cases in table.items() for case in cases]
    return {
        "argvalues": cases,
        "ids": [f"{name}, {re.sub('0{9,}', '0..', str(changed))}" for name, changed, _ in cases],
    }


def refused(message, **fields):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        RopeConfig.of(fields.pop("head_dim", 16), **fields)
    error = caught.value
    assert str(error) == f"{error.parameter} must be {error.expected}, got {error.got}"


@pytest.mark.parametrize(("fields", "message"), FIELDS.values(), ids=FIELDS)
def test_fields(fields, message):
    refused(message, **fields)


@pytest.mark.parametrize(("variant", "changed", "message"), **flat(PARAMETERS))
def test_parameters_of_variants(variant, changed, message):
    refused(message, **{"rope_type": variant} | of_variant(variant) | changed)


@pytest.mark.parametrize(("scheme", "changed", "message"), **flat(AXES))
def test_parameters_of_schemes(scheme, changed, message):
    refused(message, **{"head_dim": 24, "axes": scheme} | of_scheme(scheme) | changed)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_missing_parameter_is_named(name):
    for parameter in VARIANTS[name].parameters.values():
        given = of_variant(name)
        if parameter.required:
            given.pop(parameter.name)
            refused(f"{parameter.name} must be given for {name}, got none", rope_type=name, **given)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_missing_parameter_of_a_scheme_is_named(name):
    for parameter in SCHEMES[name].parameters.values():
        given = of_scheme(name)
        if parameter.required:
            given.pop(parameter.name)
            message = f"{parameter.name} must be given for {name}, got none"
            refused(message, head_dim=24, axes=name, **given)


@pytest.mark.parametrize("name", ["ntk", "ntk_alpha", "dynamic", "dynamic_alpha"])
def test_an_exponent_that_divides_by_0(name):
    by = {"ntk": "factor", "ntk_alpha": "alpha", "dynamic_alpha": "length"}.get(name, name)
    message = f"rotary_dim must be above 2 with {by}, whose exponent divides by it - 2, got 2"
    refused(message, head_dim=2, rope_type=name, **of_variant(name))


def test_scheme_parameters_without_a_scheme():
    with pytest.raises(ConfigError, match=re.escape("axes must be given for ['axes_dim']")):
        RopeConfig(head_dim=8, rotary_dim=8, axes_parameters=(("axes_dim", (4, 4)),))


def test_whole_numbers_may_be_written_as_fractions():
    one = RopeConfig.of(24, axes="mrope", mrope_section=(3.0, 5, 4))
    assert one == RopeConfig.of(24, axes="mrope", mrope_section=[3, 5, 4])
    other = {"factor": 2, "max_position_embeddings": 64.0}
    assert RopeConfig.of(16, rope_type="dynamic", **other) == RopeConfig.of(
        16, rope_type="dynamic", factor=2.0, max_position_embeddings=64
    )
