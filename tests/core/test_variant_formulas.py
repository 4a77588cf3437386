"""The frequencies of each variant against the formulas of the papers, in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import VARIANTS, CosSin, RopeConfig, Rotate, cos_sin, rotate
from rope_core.accuracy import POSITIONS, angle_errors
from tests.core.oracle import off, randn
from tests.core.specs import TRAINED, every_variant, of_variant, rope_of


def doubles(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def geometric(theta, d):
    return [theta ** (-2 * i / d) for i in range(d // 2)]


def of_linear(theta, d, *, factor):
    return [w / factor for w in geometric(theta, d)], 1


def of_ntk(theta, d, *, factor):
    return geometric(theta * factor ** (d / (d - 2)), d), 1


def of_alpha(theta, d, *, alpha):
    return of_ntk(theta, d, factor=alpha)


def of_dynamic(theta, d, *, factor, max_position_embeddings, length, alpha=None):
    if alpha and length <= max_position_embeddings:
        return of_alpha(theta, d, alpha=alpha)
    stretch = factor * max(length, max_position_embeddings) / max_position_embeddings - factor + 1
    return geometric(theta * stretch ** (d / (d - 2)), d), 1


def of_dynamic_alpha(theta, d, *, original_max_position_embeddings, length):
    """Qwen-1: alpha is 1 up to the trained length, 3 up to twice of it, 7 up to four times."""
    alpha, reach = 1, original_max_position_embeddings
    while reach < length:
        alpha, reach = 2 * alpha + 1, 2 * reach
    return of_alpha(theta, d, alpha=alpha)


def of_ntk_mixed(theta, d, *, factor, mixed_b=1):
    """Without mixed_b, the divisor of pair i is factor ** (2 (i + 1) / d): an exponent of 1."""
    shares = [((i + 1) / (d / 2)) ** mixed_b for i in range(d // 2)]
    return [w / factor**s for w, s in zip(geometric(theta, d), shares, strict=True)], 1


def bounds(theta, d, original, beta_fast=32, beta_slow=1):
    """Return the pairs, fractional, that turn so often over the trained length."""
    return [
        d * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))
        for turns in (beta_fast, beta_slow)
    ]


def of_yarn(theta, d, *, factor, original_max_position_embeddings, truncate=True, **parameters):
    low, high = bounds(theta, d, original_max_position_embeddings)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, d - 1)
    frequencies = []
    for i, w in enumerate(geometric(theta, d)):
        share = min(1, max(0, (i - low) / (high - low)))
        frequencies.append(w / factor * share + w * (1 - share))
    gains = [0.1 * parameters.get(name, 1) * math.log(factor) + 1 for name in ("mscale", "all")]
    return frequencies, 1 if "mscale_all_dim" in parameters else parameters.get(
        "attention_factor", gains[0]
    )


def of_longrope(theta, d, *, short_factor, long_factor, length, **parameters):
    original, factor = parameters["original_max_position_embeddings"], parameters["factor"]
    factors = long_factor if length > original else short_factor
    gain = math.sqrt(1 + math.log(factor) / math.log(original))
    return [w / e for w, e in zip(geometric(theta, d), factors, strict=True)], gain


def of_llama3(theta, d, *, factor, low_freq_factor, high_freq_factor, **parameters):
    original, frequencies = parameters["original_max_position_embeddings"], []
    for w in geometric(theta, d):
        turns = original * w / (2 * math.pi)
        if turns > high_freq_factor:
            frequencies.append(w)
        elif turns < low_freq_factor or low_freq_factor == high_freq_factor:
            frequencies.append(w / factor)
        else:
            t = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor)
            frequencies.append((1 - t) * w / factor + t * w)
    return frequencies, 1


def of_proportional(theta, d, *, partial_rotary_factor, factor=1.0):
    turning = int(partial_rotary_factor * d / 2)
    w = geometric(theta, d)[:turning]
    return [x / factor for x in w] + [0.0] * (d // 2 - turning), 1


def of_inv_freq(theta, d, *, inv_freq, attention_factor=1):
    return inv_freq, attention_factor


def of_freq_factors(theta, d, *, freq_factors, attention_factor=1):
    return [w / e for w, e in zip(geometric(theta, d), freq_factors, strict=True)], attention_factor


def plain(theta, d, **_):
    return geometric(theta, d), 1


LISTS = {"short_factor": (1.0,) * 20 + (1.1,) * 28, "long_factor": tuple(range(1, 49))}
PHI = {"factor": 32.0, "original_max_position_embeddings": 4096, **LISTS}
LLAMA = {"low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 8192}
SCOUT = LLAMA | {"factor": 16, "high_freq_factor": 1}
DYNAMIC = {"factor": 2.0, "max_position_embeddings": 4096}
ALPHA = DYNAMIC | {"alpha": 1000.0}
DEEPSEEK = {"factor": 40, "original_max_position_embeddings": 4096}
GPT_OSS = {"factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False}
QWEN_1 = {"original_max_position_embeddings": 8192}
QWEN = {"factor": 4.0, "original_max_position_embeddings": 32768}
CASES = {  # variant, oracle, theta, width, parameters
    "Llama 2": ("default", plain, 1e4, 128, {}),
    "Llama 3": ("default", plain, 5e5, 128, {}),
    "GLM-4": ("default", plain, 1e4, 64, {}),
    "Vicuna": ("linear", of_linear, 1e4, 128, {"factor": 4.0}),
    "Gemma 3": ("linear", of_linear, 1e6, 256, {"factor": 8.0}),
    "ntk x2": ("ntk", of_ntk, 1e4, 64, {"factor": 2.0}),
    "ntk x8": ("ntk", of_ntk, 1e4, 128, {"factor": 8.0}),
    "HunYuan": ("ntk_alpha", of_alpha, 1e4, 128, {"alpha": 1000.0}),
    "HunYuan small": ("ntk_alpha", of_alpha, 1e4, 64, {"alpha": 50.0}),
    "GTE": ("ntk_mixed", of_ntk_mixed, 2e4, 64, {"factor": 8.0}),
    "GTE, mixed": ("ntk_mixed", of_ntk_mixed, 1.6e5, 64, {"factor": 2.0, "mixed_b": 0.625}),
    "Qwen-1, at": ("dynamic_alpha", of_dynamic_alpha, 1e4, 128, QWEN_1 | {"length": 8192}),
    "Qwen-1, x2": ("dynamic_alpha", of_dynamic_alpha, 1e4, 128, QWEN_1 | {"length": 8193}),
    "Qwen-1, x4": ("dynamic_alpha", of_dynamic_alpha, 1e4, 128, QWEN_1 | {"length": 32768}),
    "dynamic, short": ("dynamic", of_dynamic, 1e4, 128, DYNAMIC | {"length": 17}),
    "dynamic, at": ("dynamic", of_dynamic, 1e4, 128, DYNAMIC | {"length": 4096}),
    "dynamic, long": ("dynamic", of_dynamic, 1e4, 128, DYNAMIC | {"length": 8192}),
    "HunYuan in 4.57": ("dynamic", of_dynamic, 1e4, 128, ALPHA | {"length": 4096}),
    "HunYuan in 4.57, long": ("dynamic", of_dynamic, 1e4, 128, ALPHA | {"length": 4097}),
    "Qwen2.5": ("yarn", of_yarn, 1e6, 128, QWEN),
    "gpt-oss": ("yarn", of_yarn, 150_000.0, 64, GPT_OSS),
    "DeepSeek": ("yarn", of_yarn, 1e4, 64, DEEPSEEK | {"mscale": 1.0, "mscale_all_dim": 1.0}),
    "DeepSeek, no mscale": ("yarn", of_yarn, 1e4, 64, DEEPSEEK),
    "yarn, attention_factor": ("yarn", of_yarn, 1e4, 64, DEEPSEEK | {"attention_factor": 0.5}),
    "Phi-3, short": ("longrope", of_longrope, 1e4, 96, PHI | {"length": 4096}),
    "Phi-3, long": ("longrope", of_longrope, 1e4, 96, PHI | {"length": 4097}),
    "Llama 3.1": ("llama3", of_llama3, 5e5, 128, LLAMA | {"factor": 8.0}),
    "Llama 3.2": ("llama3", of_llama3, 5e5, 64, LLAMA | {"factor": 32.0}),
    "Llama 4 Scout": ("llama3", of_llama3, 5e5, 128, SCOUT),
    "Gemma 4": ("proportional", of_proportional, 1e6, 512, {"partial_rotary_factor": 0.25}),
    "p-RoPE": (
        *("proportional", of_proportional, 1e4, 128),
        {"partial_rotary_factor": 0.75, "factor": 8.0},
    ),
    "xPos": ("xpos", plain, 1e4, 64, {"length": 100}),
    "xPos, wide": ("xpos", plain, 5e5, 128, {"length": 1}),
    "own": ("inv_freq", of_inv_freq, 1e4, 8, {"inv_freq": (1.0, -0.5, 0.0, 3e5)}),
    "own, with a gain": (
        *("inv_freq", of_inv_freq, 1e4, 4),
        {"inv_freq": (0.1, 2.0), "attention_factor": 1.5},
    ),
    "GGUF": (
        *("freq_factors", of_freq_factors, 5e5, 128),
        {"freq_factors": (1.0,) * 29 + tuple(1 + i / 6 for i in range(6)) + (8.0,) * 29},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values(name):
    variant, oracle, theta, width, parameters = CASES[name]
    expected, gain = oracle(theta, width, **parameters)
    expected = doubles(expected)
    fields = {"theta": theta, "rope_type": variant, **parameters}
    for arithmetic, bar in (("float64", 1e-13), ("hf", 1e-6)):
        rope = RopeConfig.of(width, arithmetic=arithmetic, **fields)
        torch.testing.assert_close(
            rope.frequency_table.inv_freq.double(), expected, rtol=bar, atol=0
        )
        assert rope.attention_scaling == pytest.approx(gain, rel=1e-14)


def test_every_variant_has_values():
    assert {variant for variant, *_ in CASES.values()} == set(VARIANTS)
    for variant, *_, parameters in CASES.values():
        assert parameters.keys() <= VARIANTS[variant].parameters.keys()


def frequencies(name):
    variant, _, theta, width, parameters = CASES[name]
    return RopeConfig.of(width, theta=theta, rope_type=variant, **parameters)


def test_figures_of_yarn():
    expected = [(4, 1.1386294), (32, 1.3465736), (40, 1.3688879)]
    for name, (_, gain) in zip(
        ("Qwen2.5", "gpt-oss", "DeepSeek, no mscale"), expected, strict=True
    ):
        assert frequencies(name).attention_scaling == pytest.approx(gain, abs=1e-7)
    assert frequencies("DeepSeek").attention_scaling == 1
    zero = RopeConfig.of(64, rope_type="yarn", **DEEPSEEK, attention_factor=0.0)
    assert zero.attention_scaling == 0, "0 is not the default"
    lone = RopeConfig.of(64, rope_type="yarn", **DEEPSEEK, mscale=0.7)
    assert lone.attention_scaling == pytest.approx(1.3688879, abs=1e-7), "mscale alone is not read"
    low, high = bounds(150_000.0, 64, 4096)
    assert (low, high) == pytest.approx((8.0927791, 17.3980245), abs=1e-7)
    # kept up to the pair below `low`, divided from the one above `high`
    share = frequencies("gpt-oss").frequency_table.inv_freq / doubles(geometric(150_000.0, 64))
    assert (share > 1 - 1e-6).sum() == 9
    assert (share < 1 / 32 + 1e-6).sum() == 32 - 18
    truncated = RopeConfig.of(64, theta=150_000.0, rope_type="yarn", **GPT_OSS | {"truncate": True})
    assert (
        off(truncated.frequency_table.inv_freq, frequencies("gpt-oss").frequency_table.inv_freq)
        > 1e-4
    )
    derived = {"original_max_position_embeddings": 4096, "max_position_embeddings": 163840}
    assert RopeConfig.of(64, rope_type="yarn", **derived).attention_scaling == pytest.approx(
        1.3688879, abs=1e-7
    )


def test_figures_of_the_others():
    one = frequencies("dynamic, long").frequency_table.inv_freq[1].item()
    assert one**-64 == pytest.approx(30527.7, abs=0.05)
    assert frequencies("Phi-3, long").attention_scaling == pytest.approx(1.1902381, abs=1e-7)
    share = frequencies("Llama 3.1").frequency_table.inv_freq / doubles(geometric(5e5, 128))
    kept, divided = (share > 1 - 1e-9).sum(), (share < 1 / 8 + 1e-9).sum()
    assert (kept, 64 - kept - divided, divided) == (29, 6, 29)
    assert frequencies("Gemma 4").frequency_table.inv_freq.count_nonzero() == 64


def test_phimoe_has_a_gain_for_each_list():
    parameters = of_variant("longrope") | {"short_mscale": 1.25, "long_mscale": 1.5}
    rope = RopeConfig.of(16, rope_type="longrope", **parameters)
    assert [rope.for_length(n).attention_scaling for n in (TRAINED, TRAINED + 1)] == [1.25, 1.5]


def test_xpos_scales_queries_up_and_keys_down():
    rope, at = rope_of("xpos", length=50), torch.tensor([3, 40])
    table = cos_sin(CosSin(at, rope))
    expected = [
        [((2 * i + 0.4 * 16) / (1.4 * 16)) ** ((t - 25) / 100) for i in range(8)] for t in (3, 40)
    ]
    torch.testing.assert_close(table.scale, torch.tensor(expected))
    assert (table.cos**2 + table.sin**2 - 1).abs().max() < 1e-6, "it is not in the tables"
    x = randn(2, 1, 16)
    both, spread = rotate(Rotate(x, x, rope, positions=at)), torch.tensor(expected).repeat(1, 2)
    unscaled = rotate(Rotate(x, x, rope_of("default"), positions=at))
    torch.testing.assert_close(both.q, unscaled.q * spread[:, None])
    torch.testing.assert_close(both.k, unscaled.k / spread[:, None])


def test_xpos_without_a_length_to_speak_of():
    rope = RopeConfig.of(16, rope_type="xpos")
    assert rotate(Rotate(torch.empty(0, 2, 16), None, rope)).q.shape == (0, 2, 16)
    before = rotate(Rotate(randn(2, 1, 16), None, rope, positions=torch.tensor([-3, -2]))).q
    assert bool(before.isfinite().all())


def test_a_model_with_equal_thresholds_has_no_blend():
    """lo == hi, as in Llama-4-Scout: the blend is 0/0 there and must not leak."""
    share = frequencies("Llama 4 Scout").frequency_table.inv_freq / doubles(geometric(5e5, 128))
    assert set(share.mul(16).round(decimals=6).tolist()) == {1.0, 16.0}


def test_transformers_arithmetic_errs_with_the_position_as_known():
    expected = {
        1000: 4e-5,
        4095: 7e-5,
        32767: 9e-4,
        131071: 3.4e-3,
        1048575: 3.3e-2,
        10485759: 0.29,
    }
    errors = angle_errors()
    assert tuple(errors["hf"]) == POSITIONS
    for position, error in errors["hf"].items():
        assert error == pytest.approx(expected[position], rel=0.15)
        assert errors["float64"][position] < 6.1e-8, "a rounding of the table to float32"


@every_variant
@settings(max_examples=10)
@given(m=st.integers(0, 2**24))
def test_both_arithmetics_agree_as_far_as_the_position_lets_them(variant, m):
    tolerance = 4e-7 if variant == "dynamic" else 1.6e-7  # beyond its maximum the base is rounded
    tables = [
        cos_sin(CosSin(torch.tensor([m]), rope_of(variant, arithmetic=arithmetic)))
        for arithmetic in ("float64", "hf")
    ]
    gap = (tables[0].cos - tables[1].cos).abs().max().item()
    assert gap <= 3e-7 + tolerance * m
