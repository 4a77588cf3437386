"""Attention of planned requests: bit-equal to the library, whatever else is in their run."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rope_core
from rope_core import compiled
from service.device.cpu import SCRATCH_BYTES
from service.planned.attention import AttentionRunner
from service.planned.plan import PlannedResult
from tests.service.planned.jobs import Request, run, service

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HEAD_DIM = 16

needs_extension = pytest.mark.skipif(
    compiled.extension() is None, reason="the extension is not built"
)


def attention(
    length=5,
    *,
    num_rows=1,
    num_heads=4,
    num_kv_heads=2,
    dtype=torch.float32,
    positions="[S]",
    cu_seqlens=None,
    seed=0,
    others=None,
    **params,
):
    """Return a request whose q is `[B, S, H, 16]`, or `[T, H, 16]` where there are no rows."""
    generator = torch.Generator().manual_seed(seed)
    leading = (num_rows, length) if num_rows else (length,)

    def heads(number):
        return torch.randn(*leading, number, HEAD_DIM, generator=generator).to(dtype)

    tensors = {"q": heads(num_heads), "k": heads(num_kv_heads), "v": heads(num_kv_heads)}
    if positions != "counted":
        shape = leading if positions == "[B, S]" else (length,)
        tensors["positions"] = torch.randint(250, shape, generator=generator)
    if cu_seqlens is not None:
        tensors["cu_seqlens"] = torch.tensor(cu_seqlens)
    return Request("/v1/attention", tensors, others, **params)


def changed(request, name, index, value):
    """Return tensors of a request, of which one has another number."""
    x = request.tensors[name].clone()
    x[index] = value
    return {name: x}


REQUESTS = st.fixed_dictionaries(
    {
        "length": st.integers(1, 300) | st.sampled_from([1, 2, 16, 64]),
        "num_rows": st.sampled_from([0, 1, 3]),
        "num_heads": st.sampled_from([2, 4]),
        "num_kv_heads": st.sampled_from([1, 2]),
        "dtype": st.sampled_from(DTYPES),
        "positions": st.sampled_from(["[S]", "[B, S]", "counted"]),
        "seed": st.integers(0, 2**32),
        "causal": st.sampled_from([True, True, False]),
        "return_lse": st.booleans(),
    },
    optional={
        "window": st.integers(1, 100),
        "scale": st.sampled_from([0.1, 3.0]),
        "q_offset": st.integers(0, 3),
    },
)
ROPES = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(["half", "interleaved"]),
        "rotary_dim": st.sampled_from([HEAD_DIM, 6]),
    }
)


def by_key(requests):
    """Return requests that may share a run."""
    keys = {request.job.batch_key for request in requests}
    return [[r for r in requests if r.job.batch_key == key] for key in keys]


@settings(max_examples=40, deadline=None)
@given(requests=st.lists(st.tuples(REQUESTS, ROPES), min_size=1, max_size=8))
def test_answers_are_those_of_the_library_alone(requests):
    requests = [attention(**request, rope=rope) for request, rope in requests]
    for batch in by_key(requests):
        assert run(batch) == [request.answer() for request in batch]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_requests", [2, 64])
@needs_extension
def test_a_full_batch_of_the_usual_form(num_requests, dtype):
    requests = [attention(64, seed=seed, dtype=dtype) for seed in range(num_requests)]
    assert all(isinstance(request.plan.runner, AttentionRunner) for request in requests)
    assert run(requests) == [request.answer() for request in requests]


@needs_extension
def test_calls_that_share_memory_and_one_that_is_too_large():
    requests = [attention(length, seed=length) for length in (64, 3000, 5, 64, 2)]
    sizes = [sum(request.tensors[name].nbytes for name in "qk") for request in requests]
    assert [size > SCRATCH_BYTES for size in sizes] == [False, True, False, False, False]
    assert run(requests) == [request.answer() for request in requests]


@needs_extension
@pytest.mark.parametrize(
    "fields",
    [
        {"num_rows": 3, "positions": "[B, S]"},
        {"num_rows": 0},
        {"return_lse": True, "scale": 0.3},
        {"rope": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64}},
    ],
)
def test_what_has_a_runner(fields):
    requests = [attention(33, seed=seed, **fields) for seed in range(3)]
    assert all(isinstance(request.plan.runner, AttentionRunner) for request in requests)
    (result, *_) = service().engine.run([request.job for request in requests]).results
    assert isinstance(result, PlannedResult)
    assert result.backend == "sdpa"
    assert run(requests) == [request.answer() for request in requests]


@pytest.mark.parametrize(
    "fields",
    [
        {"length": 1},
        {"causal": False},
        {"window": 3},
        {"softcap": 20.0},
        {"scale": -1.0},
        {"num_rows": 2, "positions": "[B, S]", "dtype": torch.bfloat16},
        {"num_rows": 2},
        {"positions": "counted"},
        {"num_rows": 0, "cu_seqlens": [0, 2, 5]},
        {"dtype": torch.bfloat16, "out_dtype": "float32"},
        {"q_offset": 2},
        {"q_offset": 2, "k_offset": 1, "k_stride": 2},
    ],
)
def test_what_has_no_runner(fields):
    requests = [attention(**{"length": 5, "seed": seed, **fields}) for seed in range(3)]
    assert all(request.plan.runner is None for request in requests)
    assert run(requests) == [request.answer() for request in requests]


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        *[("positions", 2, position) for position in (-1, 700, 10**7, 2**62, -(2**63))],
        *[(name, (0, 3, 1, 5), value) for name in "qkv" for value in (math.nan, math.inf, -3e38)],
        ("q", (0, slice(None)), 1e19),
        ("k", (0, slice(None)), -1e37),
    ],
)
def test_one_unusual_number_in_a_full_batch(name, index, value):
    requests = [attention(33, seed=seed) for seed in range(16)]
    requests[7] = attention(33, seed=7, others=changed(requests[7], name, index, value))
    assert run(requests) == [request.answer() for request in requests]


def test_an_invalid_index_fails_one_request():
    requests = [attention(num_rows=0, cu_seqlens=[0, 2, 5], seed=seed) for seed in range(8)]
    others = {"cu_seqlens": torch.tensor([0, 6, 5])}
    requests[3] = attention(num_rows=0, cu_seqlens=[0, 2, 5], seed=3, others=others)
    answers = [request.answer() for request in requests]
    assert issubclass(answers[3], Exception)
    good = [*requests[:3], *requests[4:]]
    assert run(good) == [*answers[:3], *answers[4:]]
    with pytest.raises(answers[3]):  # the batcher then runs each half
        run(requests)


@needs_extension
def test_a_call_that_fails_fails_alone(monkeypatch):
    requests = [attention(seed=seed) for seed in range(8)]
    requests[3] = attention(seed=3, others=changed(requests[3], "positions", 0, -1))
    answers = [request.answer() for request in requests]

    def fail(*_):
        raise ArithmeticError

    monkeypatch.setattr(rope_core, "attend", fail)
    assert run(requests) == [*answers[:3], ArithmeticError, *answers[4:]]


def test_requests_are_not_written_to():
    requests, bystander = [attention(33, seed=seed) for seed in range(4)], attention(33, seed=9)
    before = [request.body for request in (*requests, bystander)]
    run(requests)
    assert [request.body for request in (*requests, bystander)] == before


def test_the_library_attends_the_same_without_the_extension(monkeypatch):
    """Its rotations are the same; its checks read q and k instead of their rotation."""
    requests = [attention(33, seed=seed, return_lse=True) for seed in range(3)]
    answers = [request.answer() for request in requests]
    monkeypatch.setattr(compiled, "extension", lambda: None)
    assert [request.answer() for request in requests] == answers
