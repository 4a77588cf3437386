"""PyTorch's operators on CUDA, in whose places functions of the same arguments stand here."""

import math
from dataclasses import replace

import pytest
import torch

from rope_core import AttentionConfig, reference
from rope_core.backends import Attention, sdpa_cuda
from tests.core.oracle import ATTEND_BAR, LSE_BAR, expect, lse_off, off, qkv

CAUSAL, ALL = AttentionConfig(), AttentionConfig(causal=False)
BF16 = torch.bfloat16


def attend(q, k, v, causal, scale):
    config = AttentionConfig(causal=causal, scale=scale)
    out, lse = reference.attention(*(x.transpose(1, 2) for x in (q, k, v)), config)
    poisoned = v.isnan().any().item()  # as 0 * NaN does
    out = out.masked_fill(torch.tensor(poisoned), math.nan)
    return out.to(q.dtype).transpose(1, 2), lse.float().transpose(1, 2)


def cudnn(q, k, v, bias, compute_lse, dropout, causal, *, scale):
    assert (bias, compute_lse, dropout) == (None, False, 0.0)
    return (attend(q, k, v, causal, scale)[0], None)


def flash(q, k, v, dropout, causal, *, scale):
    assert dropout == 0.0
    return (*attend(q, k, v, causal, scale), None)


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    monkeypatch.setattr(sdpa_cuda, "MIN_QUERIES", 32)
    monkeypatch.setattr(sdpa_cuda, "_cudnn", cudnn)
    monkeypatch.setattr(sdpa_cuda, "_flash", flash)
    monkeypatch.setattr(sdpa_cuda, "can_use_cudnn_attention", lambda params: True)
    monkeypatch.setattr(sdpa_cuda, "can_use_flash_attention", lambda params: True)


def work(config=CAUSAL, **given):
    q, k, v = qkv((1, 40, 2, 16), (1, 40, 1, 16), dtype=given.pop("dtype", BF16))
    return Attention(q, k, v, config, None, **given)


@pytest.mark.parametrize("config", [CAUSAL, ALL, AttentionConfig(scale=0.1)], ids=str)
@pytest.mark.parametrize("return_lse", [True, False])
def test_it_is_near_the_reference(config, return_lse):
    asked = work(config, return_lse=return_lse)
    assert sdpa_cuda.why_not(asked) is None
    out, *lse = sdpa_cuda.run(asked)
    expected = expect(asked.q, asked.k, asked.v, config)
    assert off(out, expected[0]) <= ATTEND_BAR[BF16]
    assert len(lse) == return_lse
    assert not lse or lse_off(lse[0], expected[1]) <= LSE_BAR[BF16]


@pytest.mark.parametrize("where", ["k", "v"])
def test_what_a_hidden_key_or_value_holds_reaches_no_output(where):
    asked = work()
    clean = expect(asked.q, asked.k, asked.v, CAUSAL)
    getattr(asked, where)[0, 30] = math.nan
    out, lse = sdpa_cuda.run(asked)
    assert off(out[:, :30], clean[0][:, :30]) <= ATTEND_BAR[BF16]
    assert lse_off(lse[:, :30], clean[1][:, :30]) <= LSE_BAR[BF16]
    assert out[:, 30:].isnan().all()


def test_what_it_declines():
    few = replace(work(), q=work().q[:, 10:])
    sinks = torch.zeros(2)
    for asked, text in (
        (few, "is_causal is aligned top-left"),
        (work(dtype=torch.float32), "float32"),
        (work(AttentionConfig(window=3)), "window"),
        (work(AttentionConfig(softcap=1.0)), "softcap"),
        (work(sinks=sinks), "sinks"),
        (work(AttentionConfig(scale=-1.0)), "scale"),
        (work(out_dtype=torch.float32), "float32"),
        (replace(work(), lengths=([40], [40])), "packed"),
        (replace(work(), v=work().v[..., :8]), "as wide"),
    ):
        assert text in sdpa_cuda.why_not(asked)


def test_it_says_where_no_operator_can_run(monkeypatch):
    monkeypatch.setattr(sdpa_cuda, "can_use_flash_attention", lambda params: False)
    assert "log-sum-exp" in sdpa_cuda.why_not(work())
    assert sdpa_cuda.why_not(work(return_lse=False)) is None
    monkeypatch.setattr(sdpa_cuda, "can_use_cudnn_attention", lambda params: False)
    assert "neither" in sdpa_cuda.why_not(work(return_lse=False))
    monkeypatch.setattr(sdpa_cuda, "MIN_QUERIES", 1024)
    assert "fewer than 1024 queries" in sdpa_cuda.why_not(work())
