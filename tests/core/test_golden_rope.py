"""The library against golden vectors, each from a model's `config` alone.

Bit for bit against what the model computes on this processor, and within 2 ulp of what it computed
where the vectors were recorded.
"""

import pytest
import torch

from rope_core import (
    CosSin,
    DynamicLength,
    Rotate,
    Shift,
    cos_sin,
    resolve,
    rotate,
    shift,
)
from rope_core import positions as build
from tests.core.test_positions_golden import EXPONENT_UNITS
from tests.golden_cases import load, rotations
from tests.live import live
from tests.ulp import radians, rotated_within_ulp, within_ulp

COMPLEX_OFF = 5e-7


def resolved(case):
    q = case.heads("q")
    positions = case.positions
    several = positions.ndim == q.ndim - 1
    num_axes = len(positions) if several else 1
    return resolve(**case.model, head_dim=q.shape[-1], num_axes=num_axes)


def of_warm_up(rope, case):
    """Return the frequencies of a model that has seen the calls of the case before."""
    state = DynamicLength.of(rope)
    for ids in (*case.described["inputs"]["warmup_positions"], case.tensors["position_ids"]):
        state = state.after(int(torch.as_tensor(ids).max()) + 1)
    return rope.for_length(state.length)


def rope_of(case):
    """Return the rope of the model of a case, warmed up where the model was."""
    rope = resolved(case).rope
    warm = (case.described["inputs"] or {}).get("warmup_positions")
    return of_warm_up(rope, case) if warm else rope


def rotated(case):
    """Return what the library makes of q and k, by the name of the file's tensors."""
    q, k = case.heads("q"), case.heads("k")
    frequencies = case.tensors.get("pos_frequencies")
    found = rotate(Rotate(q, k, rope_of(case), case.positions, frequencies=frequencies))
    pairs = {"q_rot": found.q, "k_rot": found.k}
    assert {name for name, x in pairs.items() if x is not None} == {
        name for name in pairs if case.heads(name) is not None
    }
    return {name: x for name, x in pairs.items() if x is not None}


@pytest.mark.parametrize("name", rotations())
def test_rotations_equal_the_models_on_this_processor(name):
    case = live(load("rope", name))
    off = COMPLEX_OFF if case.is_complex and case.heads("q").dtype == torch.float32 else 0
    for name_of, x in rotated(case).items():
        torch.testing.assert_close(x, case.heads(name_of), rtol=0, atol=off)


@pytest.mark.parametrize("name", rotations())
def test_rotations_are_within_ulps_of_the_recorded_ones(name):
    case = load("rope", name)
    here, rope = live(case), rope_of(case)
    learned = case.tensors.get("pos_frequencies")
    for name_of, x in rotated(case).items():
        recorded, before = case.heads(name_of), case.heads(name_of.removesuffix("_rot"))
        for found in (x, here.heads(name_of)):
            assert rotated_within_ulp(found, recorded, before, rope, case.positions, learned)


def native_forms(table, blocks):
    """Return what a model's own table may be once each angle stands there a single time."""
    yield table
    yield table[..., ::2]
    yield table[..., 2::2]  # LTX: two channels that do not rotate lead
    yield table.unflatten(-1, (blocks, -1)).chunk(2, -1)[0].flatten(-2)


def tables(case):
    """Return (cosine or sine, as the model rounds it; the forms of the model's own) of a case."""
    rope = rope_of(case)
    table = cos_sin(CosSin(case.positions, rope, case.tensors.get("pos_frequencies")))
    sine = -table.sin if rope.negative else table.sin  # such a model's table is the usual one
    for actual, name_of in ((table.cos, "cos"), (sine, "sin")):
        native = case.tensors[name_of]
        actual = actual.to(native.dtype).reshape(-1, actual.shape[-1])
        rows = native.numel() // native.shape[-1]
        actual = actual[-rows:] if rows < len(actual) else actual  # prefix tokens have no row
        forms = [form.reshape(-1, form.shape[-1]) for form in native_forms(native, rope.blocks)]
        yield actual, forms


with_tables = pytest.mark.parametrize(
    "name", [n for n in rotations() if "cos" in load("rope", n).tensors]
)


@with_tables
def test_tables_equal_the_models_on_this_processor(name):
    for actual, forms in tables(live(load("rope", name))):
        assert any(torch.equal(form, actual) for form in forms)


@with_tables
def test_tables_are_within_ulps_of_the_recorded_ones(name):
    case = load("rope", name)
    rope = rope_of(case)
    angle = radians(rope, case.positions, case.tensors.get("pos_frequencies")).flatten(0, -2)
    angle = angle * EXPONENT_UNITS.get(name, 1.0)
    for actual, forms in tables(case):
        near = {"size": max(1.0, rope.attention_scaling), "angle": angle[-len(actual) :]}
        assert any(within_ulp(actual, form, **near) for form in forms)


@pytest.mark.parametrize("name", ["kshift_plus", "kshift_minus"])
def test_shifts(name):
    case = load("rope", name)
    rope = resolve(**case.model).rope
    keys, delta = case.tensors["k_at_pos"].transpose(1, 2), case.tensors["delta"]
    moved = shift(Shift(keys, delta[0], rope)).k
    expected = case.tensors["k_at_shifted"].transpose(1, 2)
    at = case.tensors["position_ids"].max()
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-2 if at > 50_000 else 2e-4)


@pytest.mark.parametrize("name", ["self_extend", "rerope"])
def test_groups(name):
    case = load("rope", name)
    rope = resolve(**case.model).rope
    given = case.described["inputs"]
    length, window = given["seq_len"], given["window"]
    if name == "self_extend":
        at = build.self_extend_positions(length=length, window=window, group=given["group"])
    else:
        at = build.rerope_positions(length=length, window=window)
    q, k = case.heads("q"), case.heads("k")

    def scores(q_positions, k_positions):
        rotated_q = rotate(Rotate(q, None, rope, q_positions)).q
        rotated_k = rotate(Rotate(None, k, rope, k_positions)).k
        return torch.einsum("bqhd,bkhd->bhqk", rotated_q, rotated_k)

    near, far = scores(at.q_near, at.k_near), scores(at.q_far, at.k_far)
    distance = torch.arange(length)[:, None] - torch.arange(length)
    both = torch.where(distance < window, near, far).masked_fill(distance < 0, 0)
    torch.testing.assert_close(both, case.tensors["scores"], rtol=0, atol=5e-5)


def test_a_batch_as_long_as_a_position_has_axes_is_no_text():
    """Positions `[A, S]` of patches mean the same for any number of images."""
    case = live(load("rope", "pixtral_vision"))
    rope, one = resolved(case).rope, case.tensors["position_ids"].T.contiguous()
    q = case.heads("q")
    two = rotate(Rotate(q.repeat(2, 1, 1, 1), None, rope, one)).q
    assert torch.equal(two, case.heads("q_rot").repeat(2, 1, 1, 1))
