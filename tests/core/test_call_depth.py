"""How many Python calls lie between `rotate` and the operators of torch."""

import sys

import pytest
import torch

import rope_core
from rope_core import RopeConfig, Rotate, compiled, rotate
from tests.core.oracle import DTYPES, LAYOUTS, randn

PACKAGE = rope_core.__path__[0]

MAX_DEPTH = 5
"""`rotate`, its inference mode, the choice of a backend, the backend, its operator. Operators of
torch take one call more."""

MAX_CALLS = {True: 26, False: 36}
"""Calls for one token, with some slack: 21 compiled, 31 by operators of torch."""

OPERATORS = ("mul", "mul_", "addcmul_", "copy_", "rotate")
"""Operators of torch that rotate, and the compiled function."""


def profiled(run):
    """Return the number of calls of functions of ours, and their depth where torch works."""
    stack, depths, calls = [], [], 0

    def record(frame, event, arg):
        nonlocal calls
        if event == "call":
            ours = frame.f_code.co_filename.startswith(PACKAGE)
            stack.append(ours)
            calls += ours
        elif event == "return" and stack:
            stack.pop()
        elif event == "c_call" and arg.__name__ in OPERATORS:
            depths.append(sum(stack))

    sys.setprofile(record)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls, max(depths)


def token(layout="half", dtype=torch.float32, **fields):
    q, k = randn(1, 32, 128, dtype=dtype), randn(1, 8, 128, dtype=dtype)
    return Rotate(q, k, RopeConfig.of(128, layout=layout, **fields), torch.tensor([7]))


@pytest.fixture(params=[True, False], ids=["compiled", "torch"])
def is_compiled(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(compiled, "extension", lambda: None)
    elif compiled.extension() is None:
        pytest.skip("the compiled rotation is not available")
    return request.param


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", [None, "eager"])
def test_one_token_is_rotated_after_a_few_calls(layout, dtype, backend, is_compiled):
    call = token(layout, dtype)
    rotate(call, backend=backend)  # fills the caches
    calls, depth = profiled(lambda: rotate(call, backend=backend))
    assert depth <= MAX_DEPTH + (not is_compiled)
    assert calls <= MAX_CALLS[is_compiled]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("tokens", [2, 300])
@pytest.mark.parametrize("rounding", ["once", "tables"])
def test_many_tokens_are_rotated_as_deep(layout, rounding, tokens, is_compiled):
    call = Rotate(randn(tokens, 4, 128), None, RopeConfig.of(128, layout=layout, rounding=rounding))
    rotate(call)
    _, depth = profiled(lambda: rotate(call))
    assert depth <= MAX_DEPTH + (not is_compiled)


def test_calls_of_the_library_are_counted():
    """The tests above can fail."""
    x = randn(1, 2, 8)
    assert profiled(lambda: x.mul_(1)) == (0, 0)
    positions, rope = torch.tensor([0.5]), RopeConfig.of(8, negative=True, rope_type="xpos")
    calls, _ = profiled(lambda: (rotate(Rotate(x, None, rope, positions)), x.mul_(1)))
    assert calls > MAX_CALLS[False]


@pytest.mark.parametrize("fields", [{}, {"layout": "interleaved"}])
def test_one_token_goes_to_the_backend_that_the_others_go_to(fields, monkeypatch):
    call = token(**fields)
    only = tuple(backend for backend in rope_core.backends.BACKENDS if backend.name == "sdpa")
    monkeypatch.setattr("rope_core.backends.BACKENDS", only)
    with pytest.raises(rope_core.NoBackend, match="backend sdpa: it computes attention only"):
        rotate(call)
