"""PyTorch's attention over packed sequences, replaced by a function with the same conventions.

Those of FlashAttention: the last query is at the place of the last key, a window counts keys to
the left and to the right, -1 is none, and `lse` is `[H, T]`.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.attention
import torch.nn.attention.varlen as operators

from rope_core import Attend, AttentionConfig, NoBackend, attend
from rope_core.backends import AttentionWork, MergeWork, agreement, run, varlen
from tests.core.oracle import ATTEND_BAR, LSE_BAR, expect, lse_off, off, qkv

BF16 = torch.bfloat16
ENDS_Q, ENDS_K = torch.tensor([0, 70, 70, 75, 84]), torch.tensor([0, 70, 75, 115, 115])


class FlashAttention:
    """FlashAttention 3 on a GPU that is not there."""

    def __init__(self):
        self.capability, self.active, self.activated, self.longest = (9, 0), None, 0, []

    def activate(self, name):
        assert name == "FA3"
        self.activated += 1
        self.active = name

    def attend(
        self,
        query,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        *,
        return_aux,
        scale,
        window_size,
        enable_gqa,
        num_splits,
    ):
        assert return_aux.lse
        assert enable_gqa
        assert num_splits == 1, "bits depend on the pack"
        assert cu_seq_q.dtype is cu_seq_k.dtype is torch.int32
        self.longest.append((max_q, max_k))
        # what its entry does, by the longest sequences of the pack
        left, right = window_size
        left = -1 if left >= max_k - 1 else left
        right = -1 if right >= max_q - 1 else right
        group = query.shape[1] // key.shape[1]
        out = torch.full(query.shape, math.nan, dtype=query.dtype)
        lse = torch.full((query.shape[1], query.shape[0]), math.nan)
        lasts = zip(cu_seq_q.tolist(), cu_seq_k.tolist(), strict=True)
        first_q = first_k = 0
        for last_q, last_k in lasts:
            q, k, v = (
                x.double().transpose(0, 1)
                for x in (query[first_q:last_q], key[first_k:last_k], value[first_k:last_k])
            )
            k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
            scores = q @ k.mT * scale
            ahead = torch.arange(k.shape[1]) - (
                torch.arange(q.shape[1])[:, None] + k.shape[1] - q.shape[1]
            )
            hidden = torch.zeros_like(ahead, dtype=torch.bool)
            hidden |= (ahead > right) if right >= 0 else False
            hidden |= (-ahead > left) if left >= 0 else False
            scores.masked_fill_(hidden, -math.inf)
            weights = scores.softmax(-1).masked_fill(hidden.all(-1, True), 0)  # and 0 * NaN is NaN
            out[first_q:last_q] = (weights @ v).transpose(0, 1)
            lse[:, first_q:last_q] = scores.logsumexp(-1)
            first_q, first_k = last_q, last_k
        return out, lse


@pytest.fixture(autouse=True)
def flash(monkeypatch):
    absent = FlashAttention()
    cpu = torch.device("cpu")
    monkeypatch.setattr(AttentionWork, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: absent.capability)
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", absent.activate)
    monkeypatch.setattr(torch.nn.attention, "current_flash_attention_impl", lambda: absent.active)
    monkeypatch.setattr(operators, "varlen_attn", absent.attend)
    monkeypatch.setattr(
        varlen, "agrees", lambda attend, _, lengths: agreement.agrees(attend, cpu, lengths)
    )
    varlen.unavailable.cache_clear()
    yield absent
    varlen.unavailable.cache_clear()


def work(config=None, q_shape=(84, 4, 16), kv_shape=(115, 2, 16), **options):
    q, k, v = qkv(q_shape, kv_shape, dtype=options.pop("dtype", BF16))
    packed = q.ndim == 3
    ends = (ENDS_Q, ENDS_K) if packed else None
    lengths = tuple(t.diff().tolist() for t in ends) if packed else None
    return AttentionWork(q, k, v, config or AttentionConfig(), lengths, ends, **options)


CONFIGS = {
    "causal": {},
    "all": {"causal": False},
    "window": {"window": 7},
    "window of one": {"window": 1},
    "both sides": {"causal": False, "window": 5, "window_ahead": 3},
    "a window beyond all keys": {"window": 2**31 - 1},
    "scaled": {"scale": 0.5},
}


@pytest.mark.parametrize("fields", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dense", [False, True])
def test_answers_are_near_the_reference(fields, dense):
    config = AttentionConfig(**fields)
    call = work(config, *(((2, 9, 4, 16), (2, 12, 2, 16)) if dense else ()))
    assert varlen.why_not(call, named=True) is None
    out, lse = varlen.run(call)
    ends = () if dense else (ENDS_Q, ENDS_K)
    expected = expect(call.q, call.k, call.v, config, *ends)
    assert off(out, expected[0]) <= ATTEND_BAR[BF16]
    assert lse_off(lse, expected[1]) <= LSE_BAR[BF16]


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("where", ["k", "v"])
def test_nan_and_inf_in_a_hidden_key_or_value_do_not_change_an_answer(where, bad):
    config = AttentionConfig(window=7)
    call = work(config)
    clean = expect(call.q, call.k, call.v, config, ENDS_Q, ENDS_K)
    getattr(call, where)[30] = bad
    out, lse = varlen.run(call)
    seen = [token for token in range(84) if not 30 <= token < 37]
    assert off(out[seen], clean[0][seen]) <= ATTEND_BAR[BF16]
    assert lse_off(lse[seen], clean[1][seen]) <= LSE_BAR[BF16]


@pytest.mark.parametrize(
    ("fields", "longest"),
    [
        ({}, (128, 128)),
        ({"causal": False}, (128, 128)),
        ({"window": 200}, (128, 201)),
        ({"causal": False, "window": 5, "window_ahead": 300}, (302, 128)),
        ({"window": 2**31 - 1}, (128, 128)),
    ],
    ids=str,
)
def test_the_longest_length_never_selects_another_code_path(flash, fields, longest):
    varlen.run(work(AttentionConfig(**fields)))
    assert flash.longest == [longest]


def test_the_operator_is_not_called_without_keys(flash):
    none = torch.tensor([0, 0])
    call = work(q_shape=(3, 4, 16), kv_shape=(0, 2, 16))
    call = replace(call, lengths=([3], [0]), cu_seqlens=(torch.tensor([0, 3]), none))
    out, lse = varlen.run(call)
    assert not out.any()
    assert lse.eq(-math.inf).all()
    assert not flash.longest


def test_varlen_runs_only_when_it_is_named(flash):
    assert "only when it is named" in varlen.why_not(work())
    assert run(work(), "varlen")[1] == "varlen"
    assert flash.activated == 1
    run(work(), "varlen")
    assert flash.activated == 1


def test_calls_that_varlen_declines():
    mask = torch.zeros(1, 1, 84, 115)
    index = (torch.arange(84), torch.arange(115))
    for call, text in (
        (work(dtype=torch.float32), "float32"),
        (work(out_dtype=torch.float32), "float32"),
        (work(AttentionConfig(softcap=1.0)), "softcap"),
        (work(AttentionConfig(chunk=3)), "chunk"),
        (work(AttentionConfig(scale=-1.0)), "scale"),
        (work(sinks=torch.zeros(4)), "sinks"),
        (work(mask=mask), "mask"),
        (work(index=index), "index"),
        (replace(work(), v=work().v[..., :8]), "as wide"),
        (work(None, (84, 4, 12), (115, 2, 12)), "multiple of 8"),
        (work(None, (84, 4, 264), (115, 2, 264)), "wider than 256"),
        (MergeWork(torch.zeros(1, 2, 3), torch.zeros(1, 2)), "it computes attention only"),
    ):
        assert text in varlen.why_not(call, named=True)


def test_the_reason_says_what_is_missing(flash, monkeypatch):
    def because():
        varlen.unavailable.cache_clear()
        return varlen.why_not(work(), named=True)

    for flash.capability in ((8, 9), (10, 0), (12, 0)):
        assert "Hopper" in because()
    flash.capability = (9, 0)
    assert because() is None

    def older(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux, scale, window_size):
        """As torch 2.11 has it."""

    monkeypatch.setattr(operators, "varlen_attn", older)
    assert "no grouped heads" in because()
    monkeypatch.setattr(varlen, "agrees", lambda *args: False)
    monkeypatch.setattr(operators, "varlen_attn", flash.attend)
    assert "differ from those of the eager backend" in because()

    def missing(name):
        raise ModuleNotFoundError("No module named 'flash_attn_interface'")

    flash.active = None
    monkeypatch.setattr(torch.nn.attention, "activate_flash_attention_impl", missing)
    assert "flash_attn_interface" in because()
    monkeypatch.delattr(torch.nn.attention, "activate_flash_attention_impl")
    assert "no varlen_attn with FlashAttention 3" in because()


@pytest.mark.parametrize("wrong", ["base 2", "transposed", "top-left"])
def test_the_trial_rejects_other_conventions(wrong):
    attend = varlen._attend

    def other_convention(call):
        out, lse = attend(call)
        if wrong == "base 2":
            return out, lse * math.log2(math.e)
        if wrong == "transposed":
            return out, lse.mT.reshape(lse.shape)
        q_lengths, k_lengths = call.lengths
        short = [min(pair) for pair in zip(q_lengths, k_lengths, strict=True)]
        return attend(replace(call, lengths=(q_lengths, short)))[0].roll(1, 0), lse

    cpu, lengths = torch.device("cpu"), ([70, 0, 130, 9], [200, 5, 90, 0])
    assert agreement.agrees(attend, cpu, lengths)
    assert not agreement.agrees(other_convention, cpu, lengths)


def test_a_call_that_names_varlen_is_refused_where_it_is_unavailable(flash):
    flash.capability = (8, 0)
    q, k, v = qkv((3, 4, 16), (3, 2, 16), dtype=BF16)
    with pytest.raises(NoBackend) as refused:
        attend(Attend(q, k, v, None), backend="varlen")
    assert "Hopper" in refused.value.reasons["varlen"]
