"""Frequencies that depend on the length of a call, and the tables that are kept of them."""

import gc
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import (
    VARIANTS,
    Attend,
    ConfigError,
    CosSin,
    DynamicLength,
    RopeConfig,
    Rotate,
    Shift,
    attend,
    cos_sin,
    rotate,
)
from rope_core.angles import TABLE_ELEMENTS, angles_at, compute_angles
from rope_core.axes import FrequencyTable
from tests.core.oracle import off, randn
from tests.core.specs import OF_LENGTH, TRAINED, every_variant, of_variant


def unfixed(variant, **changed):
    return RopeConfig.of(16, rope_type=variant, **of_variant(variant) | changed)


def test_which_variants_need_the_length():
    assert [name for name in VARIANTS if unfixed(name).needs_length] == [*OF_LENGTH]


@every_variant
def test_a_length_is_fixed_once(variant):
    rope = unfixed(variant)
    if not rope.needs_length:
        assert rope.for_length(5) is rope
        return
    fixed = rope.for_length(2 * TRAINED)
    assert not fixed.needs_length
    assert fixed.for_length(7) is fixed
    assert fixed == unfixed(variant, length=dict(fixed.parameters)["length"])


@pytest.mark.parametrize("variant", OF_LENGTH)
def test_the_length_is_that_of_the_call_and_of_all_its_rows(variant):
    rope, length = unfixed(variant), TRAINED + 40
    x = randn(length, 1, 16)
    ends = torch.tensor([0, 30, length])
    rows = torch.stack((torch.arange(30), torch.arange(30) + length - 30))
    calls = {
        "counted": (Rotate(x, None, rope), length),
        "packed": (Rotate(x, None, rope, cu_seqlens=ends), length - 30),
        "packed, with positions": (
            Rotate(x, None, rope, positions=torch.arange(length) % 10, cu_seqlens=ends),
            10,
        ),
        "rows": (Rotate(randn(2, 30, 1, 16), None, rope, positions=rows), length),
        "one late token": (Rotate(x[:1], None, rope, positions=torch.tensor([length - 1])), length),
        "fractional": (Rotate(x[:1], None, rope, positions=torch.tensor([99.5])), 101),
        "before the start": (Rotate(x[:1], None, rope, positions=torch.tensor([-7])), 0),
        "tables": (CosSin(torch.arange(length).view(2, -1), rope), length),
        "attention": (
            Attend(x[:1], x, x, rope, k_positions=torch.arange(length) + 1),
            length + 1,
        ),
    }
    for name, (call, expected) in calls.items():
        assert call.rope == rope.for_length(expected), name
        fixed = replace(call, rope=rope.for_length(expected))
        run = {Rotate: rotate, CosSin: cos_sin, Attend: attend}[type(call)]
        answers = [run(variant_call) for variant_call in (call, fixed)]
        for part in (f for f in fields(answers[0]) if f.name != "backend"):
            actual, expected = (getattr(answer, part.name) for answer in answers)
            torch.testing.assert_close(actual, expected, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("variant", ["dynamic", "longrope"])
def test_a_row_turns_by_the_longest_of_the_batch(variant):
    """And by its own length alone in a batch of one: a fixed length makes both alike."""
    rope, x = unfixed(variant), randn(1, 4, 1, 16)
    at = torch.tensor([[0, 1, 2, 3], [200, 201, 202, 203]])
    both = rotate(Rotate(x.repeat(2, 1, 1, 1), None, rope, positions=at)).q[0]
    alone = rotate(Rotate(x, None, rope, positions=at[:1])).q[0]
    fixed = rotate(Rotate(x, None, rope.for_length(204), positions=at[:1])).q[0]
    assert off(both, alone) > 1e-3
    assert torch.equal(both, fixed)


def test_longrope_is_long_beyond_the_trained_length_and_not_at_it():
    rope, parameters = unfixed("longrope"), of_variant("longrope")
    plain = RopeConfig.of(16).frequency_table.inv_freq
    for length, name in ((0, "short"), (TRAINED, "short"), (TRAINED + 1, "long"), (9999, "long")):
        factors = torch.tensor(parameters[f"{name}_factor"], dtype=torch.float64)
        torch.testing.assert_close(
            rope.for_length(length).frequency_table.inv_freq, plain / factors
        )
    assert rope.for_length(1) is rope.for_length(TRAINED), "they share what is kept"
    assert rope.for_length(TRAINED + 1) is rope.for_length(10**6)
    whole = rotate(Rotate(randn(TRAINED + 1, 1, 16), None, rope)).q
    short = rotate(Rotate(randn(TRAINED + 1, 1, 16), None, rope.for_length(TRAINED))).q
    assert off(whole[1:3], short[1:3]) > 1e-3, "early positions also take the long list"


@settings(max_examples=50)
@given(lengths=st.lists(st.integers(0, 300), max_size=12))
def test_dynamic_keeps_the_longest_until_a_call_is_shorter_than_the_trained(lengths):
    state = DynamicLength.of(unfixed("dynamic"))
    expected = TRAINED
    for length in lengths:
        state = state.after(length)
        expected = TRAINED if length < TRAINED else max(expected, length)
        assert state.length == expected
        assert state.trained == TRAINED


def test_dynamic_grows_sticks_and_resets():
    state = DynamicLength.of(unfixed("dynamic"))
    seen = []
    for length in (10, 200, 150, TRAINED, 201, TRAINED - 1, TRAINED, 5):
        state = state.after(length)
        seen.append(state.length)
    assert seen == [TRAINED, 200, 200, 200, 201, TRAINED, TRAINED, TRAINED]
    rope = unfixed("dynamic")
    assert rope.for_length(5) == rope.for_length(TRAINED)
    first = rope.for_length(200).frequency_table.inv_freq
    assert not torch.equal(first, rope.for_length(201).frequency_table.inv_freq)


@every_variant
def test_only_dynamic_has_a_state(variant):
    if variant != "dynamic":
        with pytest.raises(ConfigError, match=f"rope_type must be \"dynamic\", got '{variant}'"):
            DynamicLength.of(unfixed(variant))


# What is kept, and by what

BASE = {"head_dim": 16, "rotary_dim": 12}
PARTED = {"rope_type": "linear", "parameters": (("factor", 2.0),)}
SCHEME = {"axes": "mrope", "axes_parameters": (("mrope_section", (2, 2, 2)),)}
DIFFERENT = {  # for each field, two ropes that differ there alone
    "head_dim": ({}, {"head_dim": 20}),
    "rotary_dim": ({}, {"rotary_dim": 8}),
    "theta": ({}, {"theta": 10_000.5}),
    "layout": ({}, {"layout": "interleaved"}),
    "rope_type": (PARTED, PARTED | {"rope_type": "ntk"}),
    "parameters": (PARTED, PARTED | {"parameters": (("factor", 4.0),)}),
    "axes": (SCHEME, SCHEME | {"axes": "mrope_interleaved"}),
    "axes_parameters": (SCHEME, SCHEME | {"axes_parameters": (("mrope_section", (1, 2, 3)),)}),
    "learned": ({}, {"learned": "log_scale"}),
    "frequency_dim": ({}, {"frequency_dim": 11}),
    "trailing": ({}, {"trailing": True}),
    "blocks": ({}, {"blocks": 2}),
    "negative": ({}, {"negative": True}),
    "whole_positions": ({}, {"whole_positions": True}),
    "arithmetic": ({}, {"arithmetic": "hf"}),
    "rounding": ({}, {"rounding": "activation"}),
    "values": ({}, {"values": "rotated"}),
}
TURN_ALIKE = {"whole_positions", "learned", "values", "rounding", "arithmetic"}
"""Fields that decide who may ask, or what else turns, or bits, but not where q goes."""


def test_every_field_is_tried():
    assert DIFFERENT.keys() == {f.name for f in fields(RopeConfig) if f.compare}


def check_cached(*ropes):
    """Fail where the cached angles of a rope are not those that are computed for it."""
    for rope in ropes * 2:
        at = torch.arange(12).view(rope.num_axes, -1) if rope.num_axes > 1 else torch.arange(4)
        for positions in (at, torch.tensor([3])):
            cached, computed = angles_at(positions, rope), compute_angles(positions, rope)
            assert torch.equal(cached.cos, computed.cos)
            assert torch.equal(cached.sin, computed.sin)


@pytest.mark.parametrize("name", DIFFERENT)
def test_two_ropes_that_differ_anywhere_never_share_a_table(name):
    one, other = (RopeConfig(**BASE | fields) for fields in DIFFERENT[name])
    same = RopeConfig(**BASE | DIFFERENT[name][0])
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert hash(one) != hash(other)
    check_cached(one, other)

    def rotated(rope):
        at = torch.arange(12).view(rope.num_axes, -1) if rope.num_axes > 1 else torch.arange(4)
        return rotate(Rotate(randn(at.shape[-1], 2, rope.head_dim), None, rope, positions=at)).q

    first, second = rotated(one), rotated(other)
    assert torch.equal(rotated(same), first)
    if name not in TURN_ALIKE and first.shape == second.shape:
        assert off(first, second) > 1e-7


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ropes_that_differ_in_one_parameter_never_share_a_table(variant):
    entry, parameters = VARIANTS[variant], of_variant(variant)
    for name, value in parameters.items():
        larger = tuple(2 * v for v in value) if isinstance(value, tuple) else value * 1.5
        larger = int(larger) if entry.parameters[name].kinds == (int,) else larger
        if name == "partial_rotary_factor":
            larger = 0.9
        one, other = (
            RopeConfig.of(16, rope_type=variant, **g).for_length(2 * TRAINED)
            for g in (parameters, parameters | {name: larger})
        )
        assert one != other
        assert hash(one) != hash(other)
        check_cached(one, other)


def test_a_parameter_that_equals_its_default_is_none():
    parameters = {"factor": 4.0, "original_max_position_embeddings": 64}
    one, other = (
        RopeConfig.of(16, rope_type="yarn", **parameters, **defaults)
        for defaults in ({}, {"truncate": True, "mscale": None})
    )
    assert one == other
    assert hash(one) == hash(other)


def live(kind):
    gc.collect()
    return [item for item in gc.get_objects() if type(item) is kind]


def test_cached_tables_are_bounded_in_number():
    rope, before = unfixed("dynamic"), len(live(FrequencyTable))
    shapes = (256, 8), (1024, 8)
    others = {id(t) for t in live(torch.Tensor) if t.shape in shapes}
    for length in range(TRAINED, TRAINED + 600):
        rotate(Rotate(randn(2, 1, 16), None, rope, positions=torch.tensor([0, length])))
    assert len(live(FrequencyTable)) - before <= 2 * 256 + 16, "of 600 ropes"
    tables = [t for t in live(torch.Tensor) if t.shape in shapes and id(t) not in others]
    assert 0 < len(tables) <= 2 * 16, "cosines and sines of 16 ropes"


@pytest.mark.parametrize("axes", [{}, {"axes": "xdrope", "xdrope_section": (2, 2, 2, 2)}])
def test_cached_tables_are_bounded_in_size(axes):
    farthest = 2**17 // (2 if axes else 1) - 1
    for theta in range(1000, 1018):
        rope = RopeConfig.of(16, theta=theta, **axes)
        for last in (farthest, farthest + 1, 2**40):
            positions = torch.arange(2100)
            positions[-1] = last
            positions = positions.expand(rope.num_axes, -1) if axes else positions
            cached, computed = angles_at(positions, rope), compute_angles(positions, rope)
            assert torch.equal(cached.cos, computed.cos)
    tables = [t for t in live(torch.Tensor) if t.numel() > 2**16]
    assert max(t.numel() for t in tables) <= TABLE_ELEMENTS * (2 if axes else 1)
    assert sum(t.nbytes for t in tables) <= 2**28


def test_a_shift_knows_its_length_or_refuses():
    keys, delta = randn(3, 1, 16), torch.tensor(2)
    for variant in OF_LENGTH:
        rope = unfixed(variant)
        with pytest.raises(
            ConfigError, match=f"length must be given for {variant} without positions"
        ):
            Shift(keys, delta, rope)
        call = Shift(keys, delta - 2, rope, positions=torch.tensor([0, 1, 90]))
        assert call.rope == rope.for_length(91)
