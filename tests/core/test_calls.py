"""A call that exists is valid: what does not fit is refused, and the text names what and why."""

import math

import pytest
import torch

from rope_core import (
    Attend,
    AttentionConfig,
    ConfigError,
    CosSin,
    Merge,
    RopeConfig,
    RopeError,
    Rotate,
    ShapeError,
    Shift,
)
from rope_core.backends import BACKENDS, RotaryWork, run
from rope_core.calls import tensor_fields, with_fields
from rope_core.config import MAX_HEAD_DIM
from rope_core.errors import NoBackend

ROPE = RopeConfig.of(8)
X = torch.zeros(2, 3, 4, 8)
PACK = torch.zeros(3, 4, 8)
K = torch.zeros(2, 5, 2, 8)
INT = torch.int64
ONE = torch.tensor(1)
HALF, DOUBLE = torch.float16, torch.float64


def zeros(*shape, dtype=None):
    return torch.zeros(shape, dtype=dtype)


def ints(*values):
    return torch.tensor(values, dtype=INT)


def rotate(q=X, k=None, rope=ROPE, **given):
    return lambda: Rotate(q, k, rope, **given)


def attend(q=X, k=K, v=K, rope=ROPE, **given):
    return lambda: Attend(q, k, v, rope, **given)


def pack(**given):
    return attend(PACK, PACK, PACK, **given)


def shift(k=X, delta=ONE, **given):
    return lambda: Shift(k, delta, ROPE, **given)


def merge(out, lse):
    return lambda: Merge(out, lse)


# the call, the tensor that its error is about, and a part of the text
SHAPES = [
    (rotate(None), "q or k", "given, got neither"),
    (rotate(zeros(3, 4, 8, dtype=DOUBLE)), "q", "bfloat16, got float64"),
    (rotate(None, zeros(3, 4, 8, dtype=INT)), "k", "bfloat16, got int64"),
    (rotate(zeros()), "q", "packed [T, H, D], got []"),
    (rotate(zeros(4, 8)), "q", "packed [T, H, D], got [4, 8]"),
    (rotate(zeros(1, 2, 3, 4, 8)), "q", "got [1, 2, 3, 4, 8]"),
    (rotate(zeros(3, 0, 8)), "q", "at least one head"),
    (rotate(zeros(3, 4, 0)), "q", "one head and one element"),
    (rotate(zeros(3, 4, 6)), "q", "head_dim 8, got [3, 4, 6]"),
    (rotate(None, zeros(3, 4, 6)), "k", "head_dim 8, got [3, 4, 6]"),
    (rotate(X, PACK), "k", "of q's tokens and dtype, [2, 3, 4, 8]"),
    (rotate(X, zeros(2, 4, 4, 8)), "k", "got [2, 4, 4, 8]"),
    (rotate(X, X.half()), "k", "got [2, 3, 4, 8] float16"),
    (rotate(positions=ints(0, 1)), "positions", "[3] or [2, 3], got [2]"),
    (rotate(positions=zeros(3, 2, dtype=INT)), "positions", "[3] or [2, 3], got [3, 2]"),
    (rotate(positions=ints(0)[0]), "positions", "got []"),
    (rotate(PACK, positions=zeros(1, 3, dtype=INT)), "positions", "[3], got [1, 3]"),
    (rotate(positions=zeros(3, dtype=HALF)), "positions", "float64, got float16"),
    (rotate(positions=zeros(3, dtype=torch.bool)), "positions", "float64, got bool"),
    (rotate(positions=ints(0, 2**53 + 1, 1)), "positions", "2**53, got 9007199254740993"),
    (rotate(positions=ints(0, -(2**63), 1)), "positions", "2**53, got -9223372036854775808"),
    (attend(k_positions=ints(0, 0, 0, 0, 2**53 + 1)), "k_positions", "2**53, got 90071992547409"),
    (
        lambda: CosSin(ints(2**53 + 1), ROPE),
        "positions",
        "between -2**53 and 2**53, got 9007199254740993",
    ),
    (shift(delta=ints(2**53 + 1)[0]), "delta", "between -2**53 and 2**53, got 9007199254740993"),
    (shift(delta=ints(0, 0, -(2**63))), "delta", "2**53, got -9223372036854775808"),
    (rotate(positions=torch.tensor([0, math.nan, 1])), "positions", "between -2**53 and 2**53"),
    (rotate(positions=torch.tensor([0, math.inf, 1])), "positions", "between -2**53 and 2**53"),
    (rotate(cu_seqlens=ints(0, 3)), "cu_seqlens", "absent: only packed tensors"),
    (rotate(PACK, cu_seqlens=zeros(2)), "cu_seqlens", "int64, got float32"),
    (rotate(PACK, cu_seqlens=ints()), "cu_seqlens", "[sequences + 1], got [0]"),
    (rotate(PACK, cu_seqlens=ints(3)[0]), "cu_seqlens", "[sequences + 1], got []"),
    (rotate(PACK, cu_seqlens=zeros(1, 2, dtype=INT)), "cu_seqlens", "got [1, 2]"),
    (rotate(PACK, cu_seqlens=ints(1, 3)), "cu_seqlens", "from 0 to 3 tokens, got from 1 to 3"),
    (rotate(PACK, cu_seqlens=ints(0, 2)), "cu_seqlens", "from 0 to 3 tokens, got from 0 to 2"),
    (rotate(PACK, cu_seqlens=ints(0, 4)), "cu_seqlens", "from 0 to 3 tokens, got from 0 to 4"),
    (rotate(PACK, cu_seqlens=ints(0)), "cu_seqlens", "from 0 to 3 tokens, got from 0 to 0"),
    (rotate(PACK, cu_seqlens=ints(0, 2, 1, 3)), "cu_seqlens", "ends before it starts"),
    (rotate(PACK, cu_seqlens=ints(0, -1, 3)), "cu_seqlens", "ends before it starts"),
    (attend(zeros(4, 8)), "q", "packed [T, H, D], got [4, 8]"),
    (attend(k=zeros(2, 5, 0, 8)), "k", "at least one head"),
    (attend(v=zeros(2, 5, 2, 8, dtype=INT)), "v", "got int64"),
    (attend(v=zeros(2, 5, 2, 0)), "v", "one head and one element"),
    (attend(k=K.half()), "q, k and v", "of one dtype, got float32, float16, float32"),
    (attend(v=K.bfloat16()), "q, k and v", "of one dtype, got float32, float32, bfloat16"),
    (attend(k=PACK, v=PACK), "k", "of q's rank and head_dim [2, 3, 4, 8], got [3, 4, 8]"),
    (attend(k=zeros(2, 5, 2, 6)), "k", "got [2, 5, 2, 6]"),
    (attend(k=zeros(1, 5, 2, 8), v=zeros(1, 5, 2, 8)), "k", "of q's batch size 2"),
    (attend(v=zeros(2, 4, 2, 8)), "v", "of k's shape except the last axis [2, 5, 2, 8]"),
    (attend(v=zeros(2, 5, 1, 8)), "v", "got [2, 5, 1, 8]"),
    (attend(k=zeros(2, 5, 3, 8), v=zeros(2, 5, 3, 8)), "q", "a multiple of k's 3 heads"),
    (attend(k=zeros(2, 5, 8, 8), v=zeros(2, 5, 8, 8)), "q", "a multiple of k's 8 heads"),
    (attend(q_positions=ints(0, 1)), "q_positions", "[3] or [2, 3], got [2]"),
    (attend(k_positions=ints(0, 1, 2)), "k_positions", "[5] or [2, 5], got [3]"),
    (attend(k_positions=zeros(5, dtype=HALF)), "k_positions", "got float16"),
    (pack(cu_seqlens_q=ints(0, 3)), "cu_seqlens_q and cu_seqlens_k", "given together"),
    (pack(cu_seqlens_k=ints(0, 3)), "cu_seqlens_q and cu_seqlens_k", "given together"),
    (pack(cu_seqlens_q=ints(0, 2), cu_seqlens_k=ints(0, 3)), "cu_seqlens_q", "got from 0 to 2"),
    (pack(cu_seqlens_q=ints(0, 3), cu_seqlens_k=ints(0, 4)), "cu_seqlens_k", "got from 0 to 4"),
    (pack(cu_seqlens_q=ints(0, 1, 3), cu_seqlens_k=ints(0, 3)), "cu_seqlens_k", "of 3 elements"),
    (
        attend(cu_seqlens_q=ints(0, 3), cu_seqlens_k=ints(0, 5)),
        "cu_seqlens_q",
        "absent: only packed",
    ),
    (attend(sinks=zeros(4, dtype=DOUBLE)), "sinks", "bfloat16, got float64"),
    (attend(sinks=zeros(4, dtype=torch.bool)), "sinks", "bfloat16, got bool"),
    (attend(sinks=zeros(2)), "sinks", "[4], one for each head of q, got [2]"),
    (attend(sinks=zeros(1, 4)), "sinks", "got [1, 4]"),
    (attend(sinks=torch.full((4,), math.nan)), "sinks", "or -Infinity, got Infinity, or NaN"),
    (attend(sinks=torch.full((4,), math.inf)), "sinks", "or -Infinity, got Infinity, or NaN"),
    (attend(mask=zeros(3, 5, dtype=DOUBLE)), "mask", "bool, float32, float16 or bfloat16, got"),
    (attend(mask=zeros(3, 5, dtype=INT)), "mask", "got int64"),
    (attend(mask=zeros(5, 3)), "mask", "[3, 5] or [2, 4, 3, 5], or 1 in place of any of these"),
    (attend(mask=zeros(3, 0)), "mask", "got [3, 0]"),
    (attend(mask=zeros(5)), "mask", "got [5]"),
    (attend(mask=zeros()), "mask", "got []"),
    (attend(mask=zeros(2, 3, 5)), "mask", "got [2, 3, 5]"),
    (attend(mask=zeros(2, 2, 3, 5)), "mask", "got [2, 2, 3, 5]"),
    (attend(mask=zeros(1, 2, 4, 3, 5)), "mask", "got [1, 2, 4, 3, 5]"),
    (attend(mask=torch.full((3, 5), math.nan)), "mask", "finite numbers or -Infinity"),
    (attend(mask=torch.full((1, 1), math.inf)), "mask", "finite numbers or -Infinity"),
    (pack(mask=zeros(2, 4, 3, 3)), "mask", "[3, 3] or [1, 4, 3, 3]"),
    (lambda: CosSin(zeros(3, dtype=HALF), ROPE), "positions", "got float16"),
    (lambda: CosSin(zeros(3, dtype=torch.complex64), ROPE), "positions", "got complex64"),
    (lambda: CosSin(torch.tensor(-math.inf), ROPE), "positions", "between"),
    (shift(zeros(4, 8)), "k", "packed [T, H, D], got [4, 8]"),
    (shift(zeros(3, 4, 6)), "k", "head_dim 8, got [3, 4, 6]"),
    (shift(delta=ints(1, 2)), "delta", "[3] or [2, 3], got [2]"),
    (shift(delta=torch.tensor(0.5)), "delta", "int64, got float32"),
    (shift(positions=ints(1, 2)), "positions", "[3] or [2, 3], got [2]"),
    (merge(zeros(2, 4, 8, dtype=DOUBLE), zeros(2, 4)), "out", "bfloat16, got float64"),
    (merge(zeros(2, 4, 8), zeros(2, 4, dtype=HALF)), "lse", "float32, got float16"),
    (merge(zeros(8), zeros(8)), "out", "[N, ..., Dv] with N at least 1, got [8]"),
    (merge(zeros(0, 4, 8), zeros(0, 4)), "out", "with N at least 1, got [0, 4, 8]"),
    (merge(zeros(2, 4, 8), zeros(2, 5)), "lse", "except the last axis, [2, 4], got [2, 5]"),
    (merge(zeros(2, 4, 8), zeros(2, 4, 1)), "lse", "got [2, 4, 1]"),
]


@pytest.mark.parametrize(("call", "tensor", "text"), SHAPES)
def test_a_tensor_that_does_not_fit_is_named(call, tensor, text):
    with pytest.raises(ShapeError) as refused:
        call()
    assert refused.value.tensor == tensor
    assert str(refused.value).startswith(f"{tensor} must be ")
    assert text in str(refused.value)


def test_what_is_at_the_border_is_accepted():
    for given in ({"theta": 1e-6}, {"theta": 1e12}, {"rotary_dim": 2}, {"layout": "interleaved"}):
        assert RopeConfig.of(8, **given).rotary_dim == given.get("rotary_dim", 8)
    assert RopeConfig.of(MAX_HEAD_DIM).half == MAX_HEAD_DIM // 2
    assert AttentionConfig(window=1, softcap=1e-3, scale=-1.0).causal
    assert AttentionConfig(window=2**31 - 1).window == 2**31 - 1
    assert AttentionConfig(window=1, causal=False, window_ahead=2**31 - 1, chunk=2**31 - 1).chunk
    for shape in ((3, 5), (1, 1), (2, 4, 3, 5), (1, 1, 1, 5), (2, 1, 3, 1)):
        Attend(X, K, K, None, mask=torch.full(shape, -math.inf), sinks=zeros(4, dtype=HALF))
    Rotate(PACK, None, ROPE, cu_seqlens=ints(0, 0, 3, 3))
    Attend(X, K, torch.zeros(2, 5, 2, 3), None)


def test_defaults_are_those_that_are_documented():
    assert RopeConfig.of(8) == RopeConfig(head_dim=8, rotary_dim=8, theta=10_000.0, layout="half")
    plain = AttentionConfig()
    assert (plain.causal, plain.window, plain.softcap, plain.scale) == (True, None, None, None)
    assert (plain.window_ahead, plain.chunk) == (0, None)
    assert Attend(X, K, K, None).attention == plain
    assert not Attend(X, K, K, None).return_lse
    assert not Rotate(X, None, ROPE).inverse


def test_calls_know_their_size():
    for call, tokens, size in (
        (Rotate(X, None, ROPE), 6, 6 * 4 * 8 * 4),
        (Rotate(None, X.half(), ROPE), 6, 6 * 4 * 8 * 2),
        (Rotate(PACK, PACK[:, :1], ROPE), 3, 3 * 5 * 8 * 4),
        (Attend(X, K, K, None), 6, (6 * 4 + 2 * 10 * 2) * 8 * 4),
        (Attend(X, K, K, None, sinks=zeros(4, dtype=HALF)), 6, (6 * 4 + 2 * 10 * 2) * 8 * 4 + 8),
        (Attend(X, K, K, None, mask=zeros(3, 5) > 0), 6, (6 * 4 + 2 * 10 * 2) * 8 * 4 + 15),
        (CosSin(torch.zeros(2, 3), ROPE), 6, 6 * 8 * 4),
        (Shift(X, ONE, ROPE), 6, 6 * 4 * 8 * 4 + 8),
        (Rotate(PACK, None, ROPE, cu_seqlens=torch.tensor([0, 3])), 3, 3 * 4 * 8 * 4 + 16),
        (Merge(torch.zeros(2, 5, 4, 8), torch.zeros(2, 5, 4)), 20, 2 * 20 * 9 * 4),
    ):
        assert (call.num_tokens, call.num_bytes) == (tokens, size)


def test_attention_knows_how_often_it_begins_anew():
    ends = {"cu_seqlens_q": ints(0, 2, 3), "cu_seqlens_k": ints(0, 2, 3)}
    for call, sequences in (
        (Attend(X, K, K, None), 2),
        (Attend(PACK, PACK, PACK, None), 1),
        (Attend(PACK, PACK, PACK, None, **ends), 2),
        (Attend(X, K, K, None, AttentionConfig(chunk=2)), 5),
        (Attend(PACK, PACK, PACK, None, AttentionConfig(chunk=1), **ends), 5),
    ):
        assert call.num_sequences == sequences


def test_configs_are_values():
    assert RopeConfig.of(8) == RopeConfig.of(8, theta=1e4)
    assert len({RopeConfig.of(8), RopeConfig.of(8), RopeConfig.of(8, layout="interleaved")}) == 2
    with pytest.raises(AttributeError):
        RopeConfig.of(8).theta = 1.0


def test_every_error_is_of_this_library_and_no_backend_says_why():
    assert all(issubclass(error, RopeError) for error in (ConfigError, ShapeError, NoBackend))
    refused = NoBackend({"one": "too small", "other": "too large"})
    assert str(refused) == "backend one: too small; backend other: too large"
    assert refused.reasons == {"one": "too small", "other": "too large"}


def test_a_work_that_every_backend_declines_is_refused_with_their_reasons(monkeypatch):
    one = torch.zeros(1, 1, 2)
    table = one[0, :, :1]
    work = RotaryWork((one,), table, table, None, RopeConfig.of(2), False, (one,))
    only = tuple(backend for backend in BACKENDS if backend.name == "sdpa")
    monkeypatch.setattr("rope_core.backends.BACKENDS", only)
    with pytest.raises(NoBackend) as refused:
        run(work)
    assert refused.value.reasons == {"sdpa": "it computes attention only"}


def test_a_call_is_moved_without_being_checked_again():
    q = torch.randn(1, 3, 2, 8)
    call = Rotate(q, None, RopeConfig.of(8), torch.arange(3), inverse=True)
    other = with_fields(call, {"q": q.clone(), "positions": None})
    assert type(other) is Rotate
    assert tensor_fields(other).keys() == {"q"}
    assert (other.rope, other.inverse, other.k) == (call.rope, True, None)
    assert call.positions is not None, "the call itself stays as it is"
    assert tensor_fields(with_fields(call, {"q": torch.zeros(0, 0)}))["q"].shape == (0, 0)
    trained = {"factor": 2.0, "max_position_embeddings": 2}
    lengthy = Rotate(q, None, RopeConfig.of(8, rope_type="dynamic", **trained))
    assert with_fields(lengthy, {"q": q[:, :1]}).rope == lengthy.rope, (
        "of the length that was checked"
    )
