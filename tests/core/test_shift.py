"""Keys that are rotated already move to other positions by a pure rotation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import (
    SCHEMES,
    ConfigError,
    RopeConfig,
    Rotate,
    Rotated,
    ShapeError,
    Shift,
    reference,
    rotate,
    shift,
)
from tests.core.oracle import DTYPES, LAYOUTS, ROTATE_BAR, off, randn
from tests.core.specs import OF_LENGTH, TRAINED, every_variant, of_variant, rope_of, scheme_of

POSITIONS = st.integers(-(2**20), 2**20)


@pytest.fixture(params=LAYOUTS)
def rope(request):
    return RopeConfig.of(10, rotary_dim=8, theta=500.0, layout=request.param)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(at=POSITIONS, delta=POSITIONS)
def test_a_shifted_key_is_one_rotated_further(layout, at, delta):
    rope, k = RopeConfig.of(10, rotary_dim=8, layout=layout), randn(1, 2, 10)
    there = rotate(Rotate(None, k, rope, positions=torch.tensor([at]))).k
    moved = shift(Shift(there, torch.tensor(delta), rope)).k
    expected = reference.rotate_complex(k, torch.tensor([at + delta]), rope)
    assert off(moved, expected) <= 3e-7


DELTAS = {
    "one number": torch.tensor(7),
    "one number, back": torch.tensor(-900),
    "one number, int32": torch.tensor(7, dtype=torch.int32),
    "for all rows": torch.tensor([3, 0, -5, 70_000]),
    "for every row": torch.tensor([[3, 0, -5, 70_000], [1, 2, 3, 4]]),
}


@pytest.mark.parametrize("delta", DELTAS.values(), ids=DELTAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_delta_is_one_number_or_one_of_each_token(delta, dtype, rope):
    k = randn(2, 4, 50, 10, dtype=dtype)
    moved = shift(Shift(k, delta, rope))
    assert moved.q is None
    assert moved.k.dtype == dtype
    expected = reference.rotate_complex(k, delta.expand(2, 4), rope)
    assert off(moved.k, expected) <= ROTATE_BAR[dtype]
    assert torch.equal(moved.k[..., 8:], k[..., 8:]), "the rest passes through"


@pytest.mark.parametrize("delta", [torch.tensor(3), torch.tensor([3, 0, -5, 70_000])], ids=str)
def test_packed_keys(delta, rope):
    k = randn(4, 50, 10)
    expected = reference.rotate_complex(k, delta.expand(4), rope)
    assert off(shift(Shift(k, delta, rope)).k, expected) <= ROTATE_BAR[torch.float32]


def test_positions_of_the_keys_do_not_matter(rope):
    k, delta = randn(4, 2, 10), torch.tensor(9)
    with_positions = shift(Shift(k, delta, rope, positions=torch.tensor([5, 6, 7, 1_000]))).k
    assert torch.equal(with_positions, shift(Shift(k, delta, rope)).k)


def test_a_shift_and_its_inverse_cancel(rope):
    k, delta = randn(4, 2, 10), torch.tensor([1, -2, 3_000, 0])
    moved = shift(Shift(k, delta, rope)).k
    assert off(shift(Shift(moved, -delta, rope)).k, k) <= 2e-7


def test_no_tokens_and_out(rope):
    assert shift(Shift(torch.empty(0, 2, 10), torch.tensor(3), rope)).k.shape == (0, 2, 10)
    k, out = randn(4, 2, 10), torch.full((4, 2, 10), torch.nan)
    before = k.clone()
    assert shift(Shift(k, torch.tensor(3), rope), Rotated(None, out)).k is out
    assert torch.equal(out, shift(Shift(k, torch.tensor(3), rope)).k)
    assert torch.equal(k, before)


FIELDS = {
    "half": {},
    "interleaved": {"layout": "interleaved"},
    "read as neighbours, written as halves": {"layout": "interleaved_to_half"},
    "trailing": {"layout": "interleaved", "rotary_dim": 12, "trailing": True},
    "halves of a trailing part": {
        "layout": "interleaved_to_half",
        "rotary_dim": 12,
        "trailing": True,
    },
    "negative": {"negative": True},
    "blocks": {"blocks": 2},
    "halves in blocks": {"blocks": 2, "layout": "interleaved_to_half"},
    "transformers' arithmetic": {"arithmetic": "hf", "rounding": "activation"},
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@every_variant
@settings(max_examples=5)
@given(at=st.integers(0, 300), delta=st.integers(-300, 300))
def test_every_variant_and_layout_moves_by_a_pure_rotation(fields, variant, at, delta):
    fields = {"rotary_dim": 16} | fields
    rope = rope_of(variant, fields["rotary_dim"], **without(fields, "rotary_dim"), head_dim=16)
    k, position, target = randn(1, 2, 16), torch.tensor([at]), torch.tensor([at + delta])
    stored, expected = (rotate(Rotate(None, k, rope, positions=p)).k for p in (position, target))
    moved = shift(Shift(stored, torch.tensor(delta), rope)).k
    assert off(moved, expected) < 2e-6 + 1.6e-7 * (at + abs(delta)) * (rope.arithmetic == "hf")


def without(fields, name):
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if scheme_of(name).is_composable])
def test_on_several_axes_a_shift_is_the_same_on_all(scheme):
    rope, k = scheme_of(scheme), randn(2, 1, 24)
    at = torch.tensor([[1, 4], [2, 0], [7, 3], [5, 5]])[: rope.num_axes]
    at, delta = at if rope.num_axes > 1 else at[0], torch.tensor([3, -1])
    stored = rotate(Rotate(None, k, rope, positions=at)).k
    expected = rotate(Rotate(None, k, rope, positions=at + delta)).k
    assert off(shift(Shift(stored, delta, rope)).k, expected) < 1e-6
    with_positions = shift(Shift(stored, delta, rope, positions=at)).k
    assert torch.equal(with_positions, shift(Shift(stored, delta, rope)).k)


NOT_ADDING_UP = {
    "xdrope": scheme_of("xdrope"),
    "timestamps": scheme_of("timestamps"),
    "tiled": RopeConfig.of(24, layout="interleaved_tiled"),
}


@pytest.mark.parametrize("rope", NOT_ADDING_UP.values(), ids=NOT_ADDING_UP)
def test_where_turns_do_not_add_up_keys_go_back_and_forth(rope):
    k, delta = randn(2, 1, 24), torch.tensor([1, 2])
    at = torch.tensor([[1, 2], [2, 1], [1, 3], [1, 1]])[: rope.num_axes]
    at = at if rope.num_axes > 1 else at[0]
    stored = rotate(Rotate(None, k, rope, positions=at)).k
    expected = rotate(Rotate(None, k, rope, positions=at + delta)).k
    assert off(shift(Shift(stored, delta, rope, positions=at)).k, expected) < 1e-5
    with pytest.raises(ShapeError, match=r"positions must be given: .* rotations must add up"):
        Shift(stored, delta, rope)


def test_positions_of_all_rows_move_by_a_delta_of_each():
    rope, k = scheme_of("timestamps"), randn(2, 3, 1, 24)
    at = torch.tensor([[1, 2, 3], [0, 1, 2], [4, 3, 1]])
    delta = torch.tensor([[1, 0, 2], [2, 2, 0]])
    stored = rotate(Rotate(None, k, rope, positions=at)).k
    expected = rotate(Rotate(None, k, rope, positions=at[:, None] + delta)).k
    assert off(shift(Shift(stored, delta, rope, positions=at)).k, expected) < 1e-5


LONG = {name: RopeConfig.of(16, rope_type=name, **of_variant(name)) for name in OF_LENGTH}
YARN, PLAIN = rope_of("yarn"), rope_of("default")
CHANGES = {  # from, to, both for good
    "longrope, short to long": (
        LONG["longrope"].for_length(TRAINED),
        LONG["longrope"].for_length(TRAINED + 1),
    ),
    "longrope, long to short": (
        LONG["longrope"].for_length(TRAINED + 1),
        LONG["longrope"].for_length(1),
    ),
    "dynamic growth": (LONG["dynamic"].for_length(200), LONG["dynamic"].for_length(300)),
    "xPos, another length": (LONG["xpos"].for_length(10), LONG["xpos"].for_length(80)),
    "plain to yarn": (PLAIN, YARN),
    "yarn to plain": (YARN, PLAIN),
    "to another layout": (PLAIN, rope_of("default", layout="interleaved_to_half")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_across_a_change_of_frequencies(change, dtype):
    rope, to = CHANGES[change]
    k, at, delta = randn(6, 2, 16), torch.arange(6) * 40, torch.arange(6) - 3
    stored = rotate(Rotate(None, k, rope, positions=at)).k.to(dtype)
    moved = shift(Shift(stored, delta, rope, positions=at, to=to)).k
    assert moved.dtype == dtype
    expected = rotate(Rotate(None, k, to, positions=at + delta)).k
    assert off(moved, expected) <= 12 * ROTATE_BAR[dtype]
    out = torch.full_like(stored, torch.nan)
    call = Shift(stored, delta, rope, positions=at, to=to)
    assert shift(call, Rotated(None, out)).k is out
    assert torch.equal(out, moved)


@pytest.mark.parametrize("variant", OF_LENGTH)
def test_frequencies_of_the_length_are_those_of_old_and_new_positions(variant):
    rope, k = LONG[variant], randn(4, 2, 16)
    at, delta = torch.tensor([60, 61, 62, 63]), torch.tensor(40)
    stored = rotate(Rotate(None, k, rope, positions=at)).k
    call = Shift(stored, delta, rope, positions=at, to=rope)
    assert (call.rope, call.to) == (rope.for_length(64), rope.for_length(104))
    expected = rotate(Rotate(None, k, rope, positions=at + delta)).k
    assert off(shift(call).k, expected) < 1e-6
    if variant != "xpos":
        with pytest.raises(
            ConfigError, match=f"to must be given, or length: after the shift {variant} has other"
        ):
            Shift(stored, delta, rope, positions=at)
    stay = Shift(stored, delta, rope.for_length(64), positions=at)
    kept = rotate(Rotate(None, k, rope.for_length(64), positions=at + delta)).k
    assert off(shift(stay).k, kept) < 2e-6, "a length that is given stays"


def refused(error, expected, *args, **kwargs):
    with pytest.raises(error, match=expected):
        Shift(*args, **kwargs)


def test_what_a_shift_refuses(rope):
    k, delta, at = torch.empty(4, 2, 10), torch.tensor(1), torch.arange(4)
    refused(ShapeError, "k must be .* got \\[4, 10\\]", torch.empty(4, 10), delta, rope)
    refused(ShapeError, "k must be of head_dim 10, got \\[4, 2, 8\\]", k[..., :8], delta, rope)
    refused(ShapeError, "delta must be int64, got float32", k, delta.float(), rope)
    refused(ShapeError, "delta must be \\[4\\], got \\[3\\]", k, at[:3], rope)
    refused(ShapeError, "positions must be \\[4\\], got \\[3\\]", k, delta, rope, at[:3])
    wider = RopeConfig.of(12)
    refused(ConfigError, "to.head_dim must be that of k, 10, got 12", k, delta, rope, at, wider)
    other = RopeConfig.of(10, theta=7.0)
    why = "positions must be given: without them, .* got none"
    refused(ShapeError, why, k, delta, rope, None, other)
    length = "length must be given for dynamic without positions, got neither"
    growing = RopeConfig.of(10, rope_type="dynamic", factor=2.0, max_position_embeddings=8)
    refused(ConfigError, length, k, delta, growing)
    refused(ConfigError, length, k, delta, rope, None, growing)


@pytest.mark.parametrize("learned", ["frequencies", "log_scale"])
def test_learned_frequencies_do_not_shift(learned):
    k, at, plain = torch.empty(4, 2, 16), torch.arange(4), RopeConfig.of(16)
    rope = RopeConfig.of(16, learned=learned)
    for pair, name in (((rope, None), "rope"), ((plain, rope), "to")):
        expected = f"{name} must be a rope without learned frequencies, got learned"
        refused(ConfigError, expected, k, at, pair[0], at, pair[1])


def test_a_gain_of_0_is_not_undone():
    given = {"factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 0.0}
    k, at, rope = torch.ones(4, 2, 16), torch.arange(4), RopeConfig.of(16)
    nothing = RopeConfig.of(16, rope_type="yarn", **given)
    assert not rotate(Rotate(None, k, nothing)).k.any()
    why = "rope.attention_factor must be other than 0 to rotate back, got 0"
    refused(ConfigError, why, k, at, nothing, at, rope)
    with pytest.raises(ConfigError, match=why):
        Rotate(None, k, nothing, inverse=True)
    assert shift(Shift(k, at, nothing)).k.any(), "a pure rotation has no gain"


def test_where_keys_go_must_be_in_the_table_of_a_model_that_has_one():
    k, at = torch.ones(2, 1, 16), torch.tensor([0, 1])
    rope, to = RopeConfig.of(16), RopeConfig.of(16, whole_positions=True)
    refused(ShapeError, "positions \\+ delta must be", k, torch.tensor(-1), rope, at, to)
    there = shift(Shift(k, torch.tensor(-1), to, at)).k
    assert torch.equal(there, shift(Shift(k, torch.tensor(-1), rope)).k)


def test_positions_must_fit_what_keys_are_moved_to():
    k, at = torch.empty(2, 1, 24), torch.zeros(2, dtype=torch.int64)
    expected = r"positions \+ delta must be \[3, 2\], got \[2\]"
    refused(ShapeError, expected, k, at, RopeConfig.of(24), at, scheme_of("axial"))
