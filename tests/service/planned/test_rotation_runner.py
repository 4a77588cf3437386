"""Rotations of planned requests: bit-equal to the library, whatever else is in their run."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rope_core
from rope_core import compiled, table_rotation
from rope_core.angles import TABLE_ELEMENTS
from service.planned.plan import PlannedResult
from service.planned.rotation import RotationRunner
from tests.service.planned.jobs import Request, run, service

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEAD_DIM = 16
WAYS = {"compiled": True, "torch": False}


@pytest.fixture(params=WAYS, autouse=True)
def way(request, monkeypatch):
    """Compiled code rotates, or operators of torch where it is missing."""
    if WAYS[request.param] and compiled.extension() is None:
        pytest.skip("the extension is not built")
    if not WAYS[request.param]:
        monkeypatch.setattr(compiled, "extension", lambda: None)
        table_rotation._token_rotation.cache_clear()
    yield
    table_rotation._token_rotation.cache_clear()


def rotation(
    length=5,
    *,
    k=False,
    num_rows=1,
    dtype=torch.float32,
    positions="[S]",
    position_dtype=torch.int64,
    seed=0,
    others=None,
    **params,
):
    """Return a request to rotate `[B, S, 4, 16]`, or `[T, 4, 16]` where there are no rows."""
    generator = torch.Generator().manual_seed(seed)
    leading = (num_rows, length) if num_rows else (length,)

    def heads(num_heads):
        return torch.randn(*leading, num_heads, HEAD_DIM, generator=generator).to(dtype)

    tensors = {"q": heads(4)}
    if k:
        tensors["k"] = heads(2)
    if positions != "counted":
        shape = leading if positions == "[B, S]" else (length,)
        places = torch.randint(600, shape, generator=generator)
        tensors["positions"] = places.to(position_dtype)
    return Request("/v1/rotate", tensors, others, **params)


REQUESTS = st.fixed_dictionaries(
    {
        "length": st.integers(1, 300) | st.sampled_from([1, 16, 64]),
        "positions": st.sampled_from(["[S]", "[B, S]", "counted"]),
        "position_dtype": st.sampled_from([torch.int64, torch.int32]),
        "seed": st.integers(0, 2**32),
        "num_rows": st.sampled_from([0, 1, 3]),
    }
)
KINDS = st.fixed_dictionaries(
    {
        "k": st.booleans(),
        "dtype": st.sampled_from(DTYPES),
        "inverse": st.booleans(),
        "rope": st.fixed_dictionaries(
            {
                "layout": st.sampled_from(["half", "interleaved"]),
                "rotary_dim": st.sampled_from([HEAD_DIM, 6]),
                "theta": st.sampled_from([1e4, 5e5]),
            }
        ),
    }
)


@settings(max_examples=40, deadline=None)
@given(kind=KINDS, requests=st.lists(REQUESTS, min_size=1, max_size=16))
def test_answers_are_those_of_the_library_alone(kind, requests):
    requests = [rotation(**request, **kind) for request in requests]
    answers = [request.answer() for request in requests]
    assert all(isinstance(request.plan.runner, RotationRunner) for request in requests)
    assert run(requests) == answers


@pytest.mark.parametrize("num_requests", [2, 64])
def test_a_full_batch(num_requests):
    requests = [rotation(16, seed=seed, k=True) for seed in range(num_requests)]
    assert run(requests) == [request.answer() for request in requests]


def test_the_answer_lies_where_the_request_was_received():
    request = rotation(k=True)
    (result,) = service().engine.run([request.job]).results
    assert isinstance(result, PlannedResult)
    assert result.backend == "eager"
    q, k = result.parts
    assert q.obj is k.obj is request.job.slab.memory.obj
    answer = bytes(q) + bytes(k)
    assert answer == request.answer() == request.body[: len(answer)]


def test_k_is_behind_q_in_the_answer_whatever_the_order_of_the_request():
    q, k = torch.randn(1, 3, 4, HEAD_DIM), torch.randn(1, 3, 2, HEAD_DIM)
    requests = [
        Request("/v1/rotate", {"k": k, "q": q}),
        Request("/v1/rotate", {"q": q, "positions": torch.arange(3), "k": k}),
    ]
    assert run(requests) == [request.answer() for request in requests]


@pytest.mark.parametrize("position", [-1, 1024, 10**6, 2**62, -(2**63)])
def test_one_position_outside_of_the_table_in_a_full_batch(position):
    others = {"positions": torch.tensor([0, 1, position, 3, 4])}
    requests = [rotation(seed=i, k=True, others=others if i == 7 else None) for i in range(16)]
    answers = [request.answer() for request in requests]
    assert run(requests) == answers


def test_a_call_that_fails_fails_alone(monkeypatch):
    others = {"positions": torch.tensor([0, 1, 2**53, 3, 4])}
    requests = [rotation(seed=i, others=others if i == 7 else None) for i in range(16)]
    untouched = requests[7].body
    answers = [request.answer() for request in requests]
    rotate = rope_core.rotate

    def rotate_or_fail(call, *arguments):
        if (call.positions == 2**53).any():
            raise ArithmeticError
        return rotate(call, *arguments)

    monkeypatch.setattr(rope_core, "rotate", rotate_or_fail)
    assert run(requests) == [*answers[:7], ArithmeticError, *answers[8:]]
    assert requests[7].body == untouched


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_stay_in_their_channels(value):
    requests = [rotation(seed=seed) for seed in range(8)]
    x = requests[3].tensors["q"].clone()
    x[0, 2, 1, 5] = value
    requests[3] = rotation(seed=3, others={"q": x})
    assert run(requests) == [request.answer() for request in requests]


def test_memory_of_others_is_not_touched():
    requests, bystander = [rotation(seed=seed) for seed in range(4)], rotation(seed=9)
    positions = [request.body[-40:] for request in requests]
    before = bystander.body
    run(requests)
    assert bystander.body == before
    assert [request.body[-40:] for request in requests] == positions


def test_the_table_grows_when_far_positions_are_usual():
    theta = 12_345.0  # a table of its own
    far = {"positions": torch.arange(4000, 4005)}
    requests = [rotation(seed=i, others=far, rope={"theta": theta}) for i in range(40)]
    table = requests[0].plan.runner.batch_key.table
    answers = [request.answer() for request in requests]
    for request, answer in zip(requests, answers, strict=True):
        assert run([request]) == [answer]
    assert 4005 <= table.num_rows <= TABLE_ELEMENTS
    again = [rotation(seed=i, others=far, rope={"theta": theta}) for i in range(3)]
    assert run(again) == answers[:3]


@pytest.mark.parametrize(
    ("tensors", "rope"),
    [
        ({"positions": torch.tensor([0.5, 1.0, 2.0])}, {}),
        ({}, {"layout": "interleaved_to_half"}),
        ({}, {"rounding": "tables"}),
        ({"cu_seqlens": torch.tensor([0, 1, 3])}, {}),
    ],
)
def test_what_has_no_runner(tensors, rope):
    request = Request("/v1/rotate", {"q": torch.randn(3, 4, HEAD_DIM), **tensors}, rope=rope)
    assert request.plan.runner is None
    assert run([request]) == [request.answer()]
