"""Where attention has its edges: no keys, no queries, NaN where nobody looks, uneven memory."""

import math
import subprocess
import sys

import pytest
import torch

from rope_core import Attend, AttentionConfig, RopeConfig, attend
from rope_core.backends import fused
from rope_core.reference import attention_mask
from tests.core.oracle import (
    ATTEND_BAR,
    DTYPES,
    LSE_BAR,
    RUN_HERE,
    lse_off,
    off,
    qkv,
    randn,
    run,
)

CONFIGS = {
    "causal": AttentionConfig(),
    "a window": AttentionConfig(window=3),
    "all seen": AttentionConfig(causal=False),
    "a soft-cap": AttentionConfig(softcap=1.0),
    "a window to both sides": AttentionConfig(causal=False, window=3, window_ahead=2),
    "chunks": AttentionConfig(chunk=2),
}


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS)
def config(request):
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


# a process of its own: what this is about divides by zero in C++ and takes the process with it
WITHOUT_TOKENS = """
import torch
from rope_core import Attend, AttentionConfig, RopeConfig, attend
for q, k in ((0, 3), (3, 0), (0, 0)):
    for rope in (None, RopeConfig.of(8)):
        for causal in (True, False):
            call = Attend(torch.ones(2, q, 4, 8), *torch.ones(2, 2, k, 2, 8), rope,
                          AttentionConfig(causal=causal), return_lse=True)
            answer = attend(call)
            assert not answer.out.any() and bool((answer.lse == -torch.inf).all())
    for given in ({"mask": torch.ones(q, k, dtype=torch.bool)}, {"out_dtype": torch.float32},
                  {"q_index": torch.arange(q)}):
        call = Attend(torch.ones(2, q, 4, 8).half(), *torch.ones(2, 2, k, 2, 8).half(), None,
                      return_lse=True, **given)
        answer = attend(call)
        assert not answer.out.any() and bool((answer.lse == -torch.inf).all())
print("alive")
"""


def test_no_tokens_do_not_end_the_process():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TOKENS], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "alive\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("lead", [(), (2,)], ids=["packed", "batch"])
@pytest.mark.parametrize(("num_queries", "num_keys"), [(0, 3), (3, 0), (0, 0)])
def test_queries_without_keys_answer_0_and_minus_infinity(
    backend, num_queries, num_keys, lead, config, dtype
):
    q, k, v = qkv((*lead, num_queries, 4, 16), (*lead, num_keys, 2, 16), dtype=dtype)
    out, lse = run(backend, q, k, v, config)
    assert torch.equal(out, torch.zeros_like(q))
    assert torch.equal(lse, torch.full(q.shape[:-1], -math.inf))


def test_a_batch_of_nothing():
    q, k, v = qkv((0, 3, 4, 8), (0, 5, 2, 8))
    answer = attend(Attend(q, k, v, RopeConfig.of(8), return_lse=True))
    assert answer.out.shape == (0, 3, 4, 8)
    assert answer.lse.shape == (0, 3, 4)
    none = torch.tensor([0])
    call = Attend(q[0:0, 0], k[0:0, 0], v[0:0, 0], None, cu_seqlens_q=none, cu_seqlens_k=none)
    assert attend(call).out.shape == (0, 4, 8)


@pytest.mark.parametrize("given", [{}, {"window": 2}, {"softcap": 1.0}], ids=str)
def test_a_query_that_sees_no_key_answers_0_and_minus_infinity(backend, given, dtype):
    q, k, v = qkv((7, 4, 16), (3, 2, 16), dtype=dtype)
    out, lse = run(backend, q, k, v, AttentionConfig(**given))
    assert torch.equal(out[:4], torch.zeros_like(out[:4]))
    assert torch.equal(lse[:4], torch.full((4, 4), -math.inf))
    assert out[4:].abs().amin() > 0
    assert lse[4:].isfinite().all()


@pytest.fixture(params=[*RUN_HERE, None], ids=[*(b.name for b in RUN_HERE), "attend"])
def attention(request):
    """Each backend, and `attend`, which chooses one."""
    if request.param is fused:
        request.getfixturevalue("interpreted")

    def answer(*given):
        if request.param is not None:
            return run(request.param, *given)
        answer = attend(Attend(*given[:3], None, given[3], return_lse=True))
        return answer.out, answer.lse

    return answer


# numbers of queries and of keys, the key that is bad, what the config says
HIDDEN = {
    "later": (6, 6, 5, {}),
    "later, with a past": (4, 9, 8, {}),
    "later, more queries": (9, 4, 3, {}),
    "later, soft-capped": (6, 6, 5, {"softcap": 1.0}),
    "before the window": (6, 6, 0, {"window": 2}),
    "before the window, with a past": (3, 9, 4, {"window": 3}),
    "before the window of one query": (1, 9, 2, {"window": 3}),
    "ahead of the window": (6, 6, 5, {"causal": False, "window": 2, "window_ahead": 1}),
    "behind a window to both sides": (6, 6, 0, {"causal": False, "window": 2, "window_ahead": 1}),
    "in an earlier chunk": (6, 6, 0, {"chunk": 3}),
    "in an earlier chunk, with a past": (4, 9, 1, {"chunk": 4}),
    "in an earlier chunk, soft-capped": (6, 6, 0, {"chunk": 3, "softcap": 1.0}),
    "in a later chunk": (6, 6, 5, {"chunk": 3, "causal": False}),
    "many": (600, 700, 300, {"window": 200}),
}
hidden_cases = pytest.mark.parametrize("case", HIDDEN.values(), ids=HIDDEN)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "largest"])
@pytest.mark.parametrize("where", ["k", "v"])
@hidden_cases
def test_what_a_hidden_key_or_value_holds_reaches_no_output(attention, case, where, bad, dtype):
    num_queries, num_keys, at, given = case
    config = AttentionConfig(**given)
    q, k, v = qkv((num_queries, 4, 16), (num_keys, 2, 16), dtype=dtype)
    q = q.abs()  # so that the products with the largest number are infinite, not NaN
    clean_out, clean_lse = attention(q, k, v, config)
    (k if where == "k" else v)[at] = torch.finfo(dtype).max if bad == "largest" else bad
    out, lse = attention(q, k, v, config)
    blind = ~attention_mask(num_queries, num_keys, config)[:, at]
    assert blind.any()
    assert off(out[blind], clean_out[blind]) <= ATTEND_BAR[dtype]
    assert lse_off(lse[blind], clean_lse[blind].double()) <= LSE_BAR[dtype]


@pytest.mark.parametrize("where", ["k", "v"])
@hidden_cases
def test_a_nan_that_is_seen_is_not_lost(attention, case, where, dtype):
    num_queries, num_keys, at, given = case
    config = AttentionConfig(**given)
    q, k, v = qkv((num_queries, 4, 16), (num_keys, 2, 16), dtype=dtype)
    (k if where == "k" else v)[at, 0, 3] = math.nan  # that of heads 0 and 1
    out, lse = attention(q, k, v, config)
    sees = attention_mask(num_queries, num_keys, config)[:, at]
    assert torch.equal(
        out.isnan().any(-1), sees[:, None] & torch.tensor([True, True, False, False])
    )
    assert torch.equal(lse.isnan().any(), sees.any() if where == "k" else torch.tensor(False))


@pytest.mark.parametrize("causal", [True, False])
def test_a_nan_stays_in_its_sequence_and_in_its_query(attention, causal, dtype):
    q, k, v = qkv((3, 5, 4, 16), (3, 5, 2, 16), dtype=dtype)
    config = AttentionConfig(causal=causal)
    clean, _ = attention(q, k, v, config)
    for tensor in (q, k, v):
        kept = tensor.clone()
        tensor[1] = math.nan
        out, _ = attention(q, k, v, config)
        assert out[1].isnan().all()
        assert off(out[::2], clean[::2]) <= ATTEND_BAR[dtype]
        tensor.copy_(kept)
    lone = q.clone()
    lone[0, 2] = math.nan
    out, _ = attention(lone, k, v, config)
    assert out[0, 2].isnan().all()
    assert off(out[0, [0, 1, 3, 4]], clean[0, [0, 1, 3, 4]]) <= ATTEND_BAR[dtype]


def uneven(*shape, dtype, seed):
    """Return views of `shape` that lie in memory in every other way."""
    *tokens, heads, width = shape
    yield randn(*tokens, heads, 2 * width, dtype=dtype, seed=seed)[..., ::2]
    yield randn(*tokens, heads, width + 3, dtype=dtype, seed=seed)[..., 3:]
    yield randn(*tokens, width, heads, dtype=dtype, seed=seed).mT
    yield randn(heads, *tokens, width, dtype=dtype, seed=seed).movedim(0, -2)
    yield randn(*tokens, 1, width, dtype=dtype, seed=seed).expand(shape)
    yield randn(*tokens, heads, 1, dtype=dtype, seed=seed).expand(shape)
    yield randn(math.prod(shape) + 1, dtype=dtype, seed=seed)[1:].view(shape)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(5, 5), (1, 9), (5, 9)])
def test_strides_do_not_matter(attention, num_queries, num_keys, config, dtype):
    views = (
        uneven(num_queries, 4, 8, dtype=dtype, seed=0),
        uneven(num_keys, 2, 8, dtype=dtype, seed=1),
        uneven(num_keys, 2, 8, dtype=dtype, seed=2),
    )
    for q, k, v in zip(*views, strict=True):
        out, lse = attention(q, k, v, config)
        even = [t.contiguous().clone() for t in (q, k, v)]
        expected_out, expected_lse = attention(*even, config)
        assert off(out, expected_out.double()) <= ATTEND_BAR[dtype]
        assert lse_off(lse, expected_lse.double()) <= LSE_BAR[dtype]


def test_answers_never_share_memory(dtype):
    x = randn(3, 2, 8, dtype=dtype)
    for rope in (None, RopeConfig.of(8)):
        call = Attend(x, x, x, rope, return_lse=True)
        first, second = attend(call), attend(call)
        tensors = (x, first.out, first.lse, second.out, second.lse)
        assert len({t.untyped_storage().data_ptr() for t in tensors}) == 5
