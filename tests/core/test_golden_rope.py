"""The library against golden vectors, each from a model's `config` alone."""

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
from tests.golden_cases import load, rotations

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
    return rope.at(state.length)


@pytest.mark.parametrize("name", rotations())
def test_rotates_bit_for_bit(name):
    case = load("rope", name)
    rope = resolved(case).rope
    if (case.described["inputs"] or {}).get("warmup_positions"):
        rope = of_warm_up(rope, case)
    frequencies = case.tensors.get("pos_frequencies")
    q, k = case.heads("q"), case.heads("k")
    found = rotate(Rotate(q, k, rope, case.positions, frequencies=frequencies))
    off = COMPLEX_OFF if case.is_complex and q.dtype == torch.float32 else 0
    for rotated, name_of in ((found.q, "q_rot"), (found.k, "k_rot")):
        expected = case.heads(name_of)
        assert (rotated is None) == (expected is None)
        if expected is not None:
            assert rotated.dtype == expected.dtype
            torch.testing.assert_close(rotated, expected, rtol=0, atol=off)


def native_forms(table, blocks):
    """Return what a model's own table may be once each angle stands there a single time."""
    yield table
    yield table[..., ::2]
    yield table[..., 2::2]  # LTX: two channels that do not rotate lead
    yield table.unflatten(-1, (blocks, -1)).chunk(2, -1)[0].flatten(-2)


@pytest.mark.parametrize("name", [n for n in rotations() if "cos" in load("rope", n).tensors])
def test_tables_bit_for_bit(name):
    case = load("rope", name)
    rope = resolved(case).rope
    if (case.described["inputs"] or {}).get("warmup_positions"):
        rope = of_warm_up(rope, case)
    table = cos_sin(CosSin(case.positions, rope, case.tensors.get("pos_frequencies")))
    sine = -table.sin if rope.negative else table.sin  # such a model's table is the usual one
    for found, name_of in ((table.cos, "cos"), (sine, "sin")):
        native = case.tensors[name_of]
        found = found.to(native.dtype).reshape(-1, found.shape[-1])
        rows = native.numel() // native.shape[-1]
        found = found[-rows:] if rows < len(found) else found  # prefix tokens have no row
        forms = [form.reshape(-1, form.shape[-1]) for form in native_forms(native, rope.blocks)]
        assert any(torch.equal(form, found) for form in forms), name_of


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
    case = load("rope", "pixtral_vision")
    rope, one = resolved(case).rope, case.tensors["position_ids"].T.contiguous()
    q = case.heads("q")
    two = rotate(Rotate(q.repeat(2, 1, 1, 1), None, rope, one)).q
    assert torch.equal(two, case.heads("q_rot").repeat(2, 1, 1, 1))
