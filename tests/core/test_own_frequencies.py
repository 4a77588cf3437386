"""Ropes of given frequencies, and of given divisors of frequencies, in the library."""

import re

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from rope_core import ConfigError, CosSin, RopeConfig, cos_sin, resolve, rotate
from tests.core.oracle import off, randn

D = 16
OWN = [1.0, 0.3, -0.7, 0.0, 2.5, 1e-4, -3e-9, 0.11]
LLAMA3 = {
    "theta": 5e5,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
POSITIONS = [0, 1, 7, 4095, -3, 100_000]


def complex_rotation(x, positions, frequencies, layout="half", gain=1.0):
    """Return `x` `[T, H, D]` rotated by complex numbers of numpy, float64."""
    width, x = 2 * len(frequencies), x.double().numpy()
    first, second = (
        (x[..., : width // 2], x[..., width // 2 : width])
        if layout == "half"
        else (x[..., :width:2], x[..., 1:width:2])
    )
    angles = np.multiply.outer(np.asarray(positions, float), np.asarray(frequencies, float))
    rotated = gain * np.exp(1j * angles)[:, None] * (first + 1j * second)
    pairs = [rotated.real, rotated.imag]
    joined = np.concatenate(pairs, -1) if layout == "half" else np.stack(pairs, -1)
    joined = joined.reshape(*x.shape[:-1], width)
    return torch.from_numpy(np.concatenate([joined, x[..., width:]], -1))


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("frequencies", [OWN, OWN[:3], [0.0]], ids=["whole", "partial", "still"])
def test_given_frequencies_rotate_as_complex_numbers(layout, frequencies):
    q, k = randn(len(POSITIONS), 4, D), randn(len(POSITIONS), 2, D, seed=1)
    rope = {"inv_freq": frequencies, "layout": layout, "attention_factor": 1.5}
    for x, actual in zip((q, k), rotate(q, k, positions=POSITIONS, rope=rope), strict=True):
        expected = complex_rotation(x, POSITIONS, frequencies, layout, 1.5)
        assert off(actual, expected) < 1e-7
        width = 2 * len(frequencies)
        norms = actual[..., :width].double().norm(dim=-1) / x[..., :width].double().norm(dim=-1)
        torch.testing.assert_close(norms, torch.full_like(norms, 1.5), rtol=1e-6, atol=0)
        assert torch.equal(actual[..., width:], x[..., width:])
    back = rotate(actual, positions=POSITIONS, rope=rope, inverse=True)
    assert off(back, k) < 1e-6


def test_divisors_divide_the_plain_frequencies():
    factors = [1.0, 1.0, 2.5, 8.0, 8.0, 1e30, 0.5, 3.0]
    frequencies = [5e5 ** (-2 * i / D) / e for i, e in enumerate(factors)]
    q, rope = randn(len(POSITIONS), 4, D), {"theta": 5e5, "freq_factors": factors}
    assert (
        off(rotate(q, positions=POSITIONS, rope=rope), complex_rotation(q, POSITIONS, frequencies))
        < 1e-7
    )


@pytest.mark.parametrize("arithmetic", ["float64", "hf"])
def test_the_frequencies_of_a_rope_give_that_rope(arithmetic):
    q = randn(6, 4, 128, dtype=torch.bfloat16)
    for fields in ({"theta": 5e5}, LLAMA3, {"theta": 1e6, "rotary_dim": 64}):
        known = RopeConfig.of(128, arithmetic=arithmetic, **fields)
        own = RopeConfig.of(128, arithmetic=arithmetic, inv_freq=known.inv_freq)
        assert own.rotary_dim == known.rotary_dim
        assert torch.equal(own.inv_freq, known.inv_freq)
        expected = rotate(q, positions=POSITIONS, rope=known)
        assert torch.equal(rotate(q, positions=POSITIONS, rope=own), expected)
        plain = RopeConfig.of(
            128, arithmetic=arithmetic, theta=known.theta, rotary_dim=known.half * 2
        )
        factors = (plain.inv_freq / known.inv_freq).tolist()
        divided = RopeConfig.of(128, arithmetic=arithmetic, theta=known.theta, freq_factors=factors)
        torch.testing.assert_close(divided.inv_freq, known.inv_freq, rtol=2e-7, atol=0)
        if known.rope_type == "default":
            assert factors == [1.0] * known.half
            assert torch.equal(divided.inv_freq, known.inv_freq)


def test_hf_is_bit_equal_to_the_forward_of_transformers_with_the_same_buffer():
    frequencies = torch.tensor(OWN, dtype=torch.float32)
    module = LlamaRotaryEmbedding(LlamaConfig(hidden_size=D, num_attention_heads=1))
    module.inv_freq, module.attention_scaling = frequencies, 1.2
    q, k = randn(1, 4, len(POSITIONS), D), randn(1, 2, len(POSITIONS), D, seed=1)
    for dtype in (torch.float32, torch.bfloat16):
        heads = q.to(dtype), k.to(dtype)
        tables = module(heads[0], torch.tensor([POSITIONS]))
        rope = {"inv_freq": frequencies, "attention_factor": 1.2, "arithmetic": "hf"}
        actual = rotate(*(x.transpose(1, 2) for x in heads), positions=POSITIONS, rope=rope)
        for mine, theirs in zip(actual, apply_rotary_pos_emb(*heads, *tables), strict=True):
            assert torch.equal(mine.transpose(1, 2), theirs)


def test_lists_arrays_and_tensors_are_the_same_rope():
    single = np.asarray(OWN, dtype=np.float32)
    forms = [single, torch.from_numpy(single), single.tolist(), tuple(single.tolist())]
    ropes = [RopeConfig.of(D, inv_freq=form) for form in forms]
    ropes += [resolve({"inv_freq": form}, head_dim=D).rope for form in forms]
    ropes.append(RopeConfig.of(D, rope_type="inv_freq", rotary_dim=D, inv_freq=forms[0]))
    assert {*ropes} == {ropes[0]}
    assert resolve({"inv_freq": forms[0]}).rope.head_dim == D, "no tensor, and no head_dim"
    other = RopeConfig.of(D, inv_freq=[*single.tolist()[:-1], 0.12])
    assert other != ropes[0]
    tables = [cos_sin(CosSin(torch.arange(9), rope)).cos for rope in (ropes[0], other, ropes[0])]
    assert torch.equal(tables[0], tables[2])
    assert not torch.equal(tables[0], tables[1])


def test_sections_of_several_axes_take_given_frequencies():
    q, at = randn(5, 2, D), torch.randint(0, 50, (3, 5), generator=torch.Generator().manual_seed(0))
    rope = {"axes": "mrope", "mrope_section": [2, 3, 3], "inv_freq": OWN}
    pairs = torch.repeat_interleave(torch.arange(3), torch.tensor([2, 3, 3]))
    expected = torch.cat(
        [
            complex_rotation(q[i : i + 1], [1.0], (at[pairs, i] * torch.tensor(OWN)).tolist())
            for i in range(5)
        ]
    )
    assert off(rotate(q, positions=at, rope=rope), expected) < 1e-6


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inv_freq": []}, "inv_freq must be a list of 8 numbers, one for each pair, got 0"),
        (
            {"inv_freq": [1.0] * 9},
            "inv_freq must be a list of at most 8 numbers, one for each pair",
        ),
        ({"inv_freq": OWN, "rotary_dim": 8}, "inv_freq must be a list of 4 numbers"),
        ({"inv_freq": [1.0, float("nan")]}, "inv_freq must be a list of finite numbers, got nan"),
        ({"inv_freq": [float("inf")]}, "inv_freq must be a list of finite numbers, got inf"),
        ({"inv_freq": [1e19]}, "inv_freq must be of numbers in [-1e+18, 1e+18], got others"),
        ({"inv_freq": ["1"]}, "inv_freq must be a list of finite numbers, got '1'"),
        ({"inv_freq": [True]}, "inv_freq must be a list of finite numbers, got True"),
        ({"inv_freq": torch.ones(2, 2)}, "inv_freq must be a list of finite numbers, got [1.0, 1"),
        ({"inv_freq": torch.tensor(1.0)}, "inv_freq must be a list of numbers, got 1.0"),
        ({"inv_freq": "geometric"}, "inv_freq must be a list of numbers, got 'geometric'"),
        ({"inv_freq": None}, "inv_freq must be a list of numbers, got None"),
        ({"inv_freq": OWN, "theta": 5e5}, "theta must be absent, because inv_freq has the"),
        ({"inv_freq": OWN, "attention_factor": 1e9}, "attention_factor must be 0, or such that"),
        ({"inv_freq": OWN, "freq_factors": OWN}, "a parameter must be one of ['attention_factor',"),
        ({"inv_freq": OWN, "rope_type": "default"}, "a parameter must be one of [] for default"),
        ({"rope_type": "inv_freq"}, "inv_freq must be given for inv_freq, got none"),
        ({"freq_factors": [1.0, 0.0]}, "freq_factors must be of positive numbers, got others"),
        ({"freq_factors": [1e-30]}, "freq_factors must be such that no scaled frequency is above"),
        ({"freq_factors": [1.0] * 9}, "freq_factors must be a list of at most 8 numbers"),
        ({"factors": [1.0]}, "a parameter of RopeConfig or of the variant, such as 'freq_factors'"),
        ({"gain": 2.0}, "a parameter of RopeConfig or of the variant, such as 'attention_factor'"),
    ],
    ids=str,
)
def test_bad_lists_are_refused(fields, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        rotate(randn(2, 1, D), rope=fields)
