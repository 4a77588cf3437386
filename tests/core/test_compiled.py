"""The compiled rotation: its laws, and the bits of the operators of torch."""

import math
import threading
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_core import RopeConfig, Rotate, Rotated, compiled, rotate, torch_rotation
from tests.core.oracle import DTYPES, randn

pytestmark = pytest.mark.skipif(
    compiled.extension() is None,
    reason="no compiler built the extension, or torch rounds otherwise here",
)

SPECIAL = (0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, -1e-40, 6e-8, 3e-5, 65504.0, 3.4e38)
FLAGS = [*product((False, True), repeat=2)]
LARGE = 2**18
"""Elements of a work that releases the lock of the interpreter."""

THREAD_ELEMENTS = 2**20
"""Least elements of a thread."""


def tables(num_rows, num_pairs, seed=7):
    angles = randn(num_rows, num_pairs, seed=seed) * 9
    return angles.cos(), angles.sin()


def run_compiled(x, cos, sin, interleaved=False, inverse=False, start=0, out=None):
    out = torch.empty_like(x, memory_format=torch.contiguous_format) if out is None else out
    extension = compiled.extension()
    assert compiled.can_rotate(extension, out, x, cos)
    args = compiled.rotate_args(out, start, x, cos, sin, interleaved, inverse)
    return out, extension.rotate(*args)


def run_torch(x, cos, sin, interleaved=False, inverse=False, start=0):
    out = x.clone(memory_format=torch.contiguous_format)
    rotated = out[..., start : start + 2 * cos.shape[1]]
    torch_rotation.rotate(rotated, rotated, cos, sin, interleaved, inverse)
    return out


def same(actual, expected):
    """Compare bits. NaN is NaN: torch itself gives it different bits."""
    kind = {2: torch.int16, 4: torch.int32}[actual.element_size()]
    is_nan = expected.isnan()
    bits, expected_bits = (t.masked_fill(is_nan, 0).view(kind) for t in (actual, expected))
    return torch.equal(actual.isnan(), is_nan) and torch.equal(bits, expected_bits)


def with_special_values(x, seed):
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(x.shape, generator=generator) < 0.1
    values = torch.tensor(SPECIAL)[torch.randint(len(SPECIAL), x.shape, generator=generator)]
    return torch.where(chosen, values.to(x.dtype), x)


@settings(max_examples=300, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(1, 5), st.integers(1, 70)),
    dtype=st.sampled_from(DTYPES),
    flags=st.sampled_from(FLAGS),
    kept=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    strided=st.booleans(),
    in_place=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_bits_are_those_of_torch(shape, dtype, flags, kept, strided, in_place, seed):
    (num_tokens, num_heads, num_pairs), (before, after) = shape, kept
    head_dim = before + 2 * num_pairs + after
    memory = randn(num_tokens + 1, num_heads + 2, head_dim + 3, dtype=dtype, seed=seed)
    memory = with_special_values(memory, seed)
    x = memory[1:, 1 : 1 + num_heads, 2 : 2 + head_dim]
    x = x if strided else x.contiguous()
    cos, sin = tables(num_tokens, num_pairs, seed)
    expected = run_torch(x, cos, sin, *flags, before)
    top = x.abs().max().float() if x.numel() else torch.tensor(0.0)
    surroundings = memory.clone()
    out, largest = run_compiled(x, cos, sin, *flags, before, out=x if in_place else None)
    assert same(out, expected)
    assert largest == top or (math.isnan(largest) and top.isnan())
    if strided and in_place:
        surroundings[1:, 1 : 1 + num_heads, 2 : 2 + head_dim] = out
        assert same(memory, surroundings), "bytes around the tensor are written"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_every_number_of_tokens(dtype, flags):
    cos, sin = tables(70, 16)
    x = randn(70, 3, 32, dtype=dtype)
    expected = run_torch(x, cos, sin, *flags)
    for n in range(71):
        assert same(run_compiled(x[:n], cos[:n], sin[:n], *flags)[0], expected[:n])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_every_number_in_half_precision(dtype, flags):
    """Each of the 65,536 numbers is a channel, beside another one."""
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[torch.randperm(2**16, generator=torch.Generator().manual_seed(1))].view(-1, 4, 64)
    cos, sin = tables(len(x), 32)
    assert same(run_compiled(x, cos, sin, *flags)[0], run_torch(x, cos, sin, *flags))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tables_of_nan_and_infinity(dtype):
    x = randn(4, 2, 32, dtype=dtype)
    cos, sin = tables(4, 16)
    for table, value in product((cos, sin), (math.nan, math.inf)):
        table[1, 3] = value
        table.view(torch.int32)[2, 5] = 0x7FFFFFFF
        table.view(torch.int32)[2, 6] = -1  # a NaN of which each bit is set
    for flags in FLAGS:
        assert same(run_compiled(x, cos, sin, *flags)[0], run_torch(x, cos, sin, *flags))


@pytest.mark.parametrize("interleaved", [False, True])
def test_laws(interleaved):
    """R is orthogonal, its inverse is its transpose, and R_m R_n = R_(m + n)."""
    frequencies = 10_000.0 ** (-torch.arange(32, dtype=torch.float64) / 32)

    def rotated(x, position, inverse=False):
        angles = torch.full((len(x), 1), position, dtype=torch.float64) * frequencies
        cos, sin = angles.cos().float(), angles.sin().float()
        return run_compiled(x, cos, sin, interleaved, inverse)[0].double()

    x, y = randn(5, 3, 64), randn(5, 3, 64, seed=1)
    products = (rotated(x, 37.0) * rotated(y, 37.0)).sum(-1)
    torch.testing.assert_close(products, (x.double() * y).sum(-1), atol=1e-5, rtol=0)
    back = rotated(rotated(x, 37.0).float(), 37.0, inverse=True)
    torch.testing.assert_close(back, x.double(), atol=2e-6, rtol=0)
    twice = rotated(rotated(x, 30.0).float(), 7.0)
    torch.testing.assert_close(twice, rotated(x, 37.0), atol=2e-6, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("flags", FLAGS, ids=str)
@pytest.mark.parametrize("in_place", [False, True])
def test_threads_do_not_change_a_bit(dtype, flags, in_place):
    x = randn(3 * THREAD_ELEMENTS // 520 + 1, 4, 130, dtype=dtype)
    cos, sin = tables(len(x), 64)
    expected = run_torch(x, cos, sin, *flags, start=1)
    top = x.abs().max()
    before = torch.get_num_threads()
    try:
        for num_threads in (1, 2, 3, 100):
            torch.set_num_threads(num_threads)
            copy = x.clone()
            out, largest = run_compiled(
                copy, cos, sin, *flags, start=1, out=copy if in_place else None
            )
            assert same(out, expected)
            assert largest == top
    finally:
        torch.set_num_threads(before)


def test_a_large_work_releases_the_lock_of_the_interpreter():
    x = randn(LARGE // 64, 16, 64)
    cos, sin = tables(len(x), 32)
    answers = [None] * 4

    def run(i):
        answers[i] = run_compiled(x, cos, sin)[0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(answers))]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert all(same(answer, run_torch(x, cos, sin)) for answer in answers)


class TestTokenRotation:
    """Rotations that are prepared once and run at addresses, compiled and by torch."""

    @pytest.fixture(params=[True, False], ids=["compiled", "torch"])
    def make(self, request, monkeypatch):
        if not request.param:
            monkeypatch.setattr(compiled, "extension", lambda: None)

        def make(cos, sin, x, layout="half", **fields):
            num_heads, head_dim = x.shape[1:]
            fields = {"rotary_dim": 2 * cos.shape[1]} | fields
            return compiled.TokenRotation(
                *(cos, sin),
                num_heads=num_heads,
                head_dim=head_dim,
                dtype=x.dtype,
                **{"layout": layout} | fields,
            )

        return make

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("layout", ["half", "interleaved"])
    @pytest.mark.parametrize("inverse", [False, True])
    @pytest.mark.parametrize("trailing", [False, True])
    def test_answers(self, make, dtype, layout, inverse, trailing):
        cos, sin = tables(50, 9)
        x, positions = randn(20, 3, 24, dtype=dtype), torch.randint(50, (20,))
        expected = run_torch(
            *(x, cos[positions], sin[positions], layout == "interleaved", inverse),
            start=6 if trailing else 0,
        )
        rotation = make(cos, sin, x, layout, inverse=inverse, trailing=trailing)
        out = torch.empty_like(x)
        top = rotation.run(x.data_ptr(), out.data_ptr(), positions.data_ptr(), 20)
        assert top == x.abs().max()
        assert same(out, expected)
        rotation.run(x.data_ptr(), x.data_ptr(), positions.data_ptr(), 20)
        assert same(x, expected)

    @pytest.mark.parametrize("position", [-1, 50, 2**62, -(2**63)])
    @pytest.mark.parametrize("place", [0, 8, 19])
    def test_a_position_outside_of_the_table(self, make, position, place):
        x, positions = randn(20, 3, 24), torch.randint(50, (20,))
        positions[place] = position
        before = x.clone()
        rotation = make(*tables(50, 12), x)
        assert rotation.run(x.data_ptr(), x.data_ptr(), positions.data_ptr(), 20) == -1.0
        assert torch.equal(x, before), "written"

    def test_nothing(self, make):
        rotation = make(*tables(3, 12), randn(1, 3, 24))
        assert rotation.run(0, 0, 0, 0) == 0.0

    @pytest.mark.parametrize("value", [math.nan, math.inf, -7e9])
    def test_largest(self, make, value):
        x, positions = randn(20, 3, 24), torch.zeros(20, dtype=torch.int64)
        x[4, 1, 23] = value  # a channel that passes through
        run = make(*tables(50, 8), x).run
        top = run(x.data_ptr(), x.data_ptr(), positions.data_ptr(), 20)
        assert top == abs(value) or math.isnan(top) == math.isnan(value)

    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("layout", ["half", "interleaved"])
    def test_memory_at_any_byte(self, make, dtype, layout):
        cos, sin = tables(50, 16)
        x, positions = randn(20, 3, 32, dtype=dtype), torch.randint(50, (20,))
        memory = torch.zeros(x.nbytes + 8 * 20 + 2, dtype=torch.uint8)
        memory[1 : x.nbytes + 1] = x.view(torch.uint8).view(-1)
        memory[x.nbytes + 1 : -1] = positions.view(torch.uint8)
        at = memory.data_ptr() + 1
        make(cos, sin, x, layout).run(at, at, at + x.nbytes, 20)
        found = memory[1 : x.nbytes + 1].clone().view(dtype).view(x.shape)
        assert same(found, run_torch(x, cos[positions], sin[positions], layout == "interleaved"))
        assert memory[0] == memory[-1] == 0

    def test_tables_outlive_their_tensors(self, make):
        x, positions = randn(20, 3, 64), torch.randint(50, (20,))
        cos, sin = tables(50, 32)
        expected = run_torch(x, cos[positions], sin[positions])
        run = make(cos.clone(), sin.clone(), x).run
        [torch.full((50, 32), math.nan) for _ in range(20)]
        run(x.data_ptr(), x.data_ptr(), positions.data_ptr(), 20)
        assert same(x, expected)


@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_largest_of_elements(dtype, is_compiled, monkeypatch):
    if not is_compiled:
        monkeypatch.setattr(compiled, "extension", lambda: None)
    assert compiled.max_abs(0, 0, dtype) == 0.0
    for n in (*range(1, 70), LARGE + 3):
        x = randn(n, dtype=dtype)
        assert compiled.max_abs(x.data_ptr(), n, dtype) == x.abs().max()
    for value in (math.inf, math.nan):
        x[n // 2] = value
        top = compiled.max_abs(x.data_ptr(), n, dtype)
        assert top == value or math.isnan(top) == math.isnan(value)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(
    ("shape", "rotary_dim"), [((2, 9, 3, 40), 26), ((1, 1, 4, 64), 64), ((3, 8, 1, 2048), 2048)]
)
@pytest.mark.parametrize("trailing", [False, True])
def test_the_library_answers_the_same_without_the_extension(
    layout, shape, rotary_dim, trailing, monkeypatch
):
    """2,048 channels are too many for the extension."""
    rope = RopeConfig.of(
        shape[-1], rotary_dim=rotary_dim, layout=layout, trailing=trailing and layout == "half"
    )
    calls = [
        Rotate(randn(*shape, dtype=dtype), randn(*shape, dtype=dtype, seed=1), rope)
        for dtype in DTYPES
    ]
    expected = [rotate(call) for call in calls]
    monkeypatch.setattr(compiled, "extension", lambda: None)
    for call, answer in zip(calls, expected, strict=True):
        found = rotate(call)
        assert found.backend == answer.backend == "eager"
        assert same(found.q, answer.q)
        assert same(found.k, answer.k)
        rotate(call, Rotated(call.q, call.k))
        assert same(call.q, answer.q)


def test_an_extension_with_other_answers_is_not_used():
    real = compiled.extension()
    assert compiled._is_equal(real)
    assert not compiled._is_equal(SimpleNamespace(rotate=lambda *args: 0.0))
    off = SimpleNamespace(rotate=lambda *args: real.rotate(*args[:9], not args[9], *args[10:]))
    assert not compiled._is_equal(off)


@pytest.mark.parametrize(
    "values",
    [
        {"pairs": 513},
        {"start": 1},
        {"start": -1},
        {"heads": -1},
        {"dtype": 3},
        {"dtype": -1},
        {"pairs": 2**62},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(values):
    names = ("cos", "sin", "rows", "pairs", "heads", "head_dim", "start", "dtype")
    usual = dict.fromkeys(names, 0) | {"rows": 5, "pairs": 4, "heads": 2, "head_dim": 8} | values
    with pytest.raises(ValueError, match="not a rotation"):
        compiled.extension().TokenRotation(*usual.values(), False, False, 1, None)
    with pytest.raises(TypeError):
        compiled.extension().rotate(1, 2)


def test_no_positions_are_rows_in_order():
    cos, sin = tables(5, 4)
    x = randn(6, 2, 8)
    expected = run_torch(x[:5], cos, sin)
    owner = cos, sin
    rotation = compiled.extension().TokenRotation(
        cos.data_ptr(), sin.data_ptr(), 5, 4, 2, 8, 0, 0, False, False, 1, owner
    )
    assert rotation.run(x.data_ptr(), x.data_ptr(), 0, 6) == -1.0, "there are 5 rows"
    rotation.run(x.data_ptr(), x.data_ptr(), 0, 5)
    assert same(x[:5], expected)
