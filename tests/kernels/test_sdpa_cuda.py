"""PyTorch's operators on CUDA, replaced by functions with the same arguments."""

import math
from dataclasses import replace

import pytest
import torch

from rope_core import AttentionConfig, reference
from rope_core.backends import AttentionWork, sdpa_cuda
from rope_core.backends import cudnn_plans as plans
from tests.core.launches import META, Launches
from tests.core.oracle import ATTEND_BAR, LSE_BAR, expect, lse_off, off, qkv

CAUSAL, ALL = AttentionConfig(), AttentionConfig(causal=False)
BF16 = torch.bfloat16
MIN_FLOPS = sdpa_cuda.MIN_FLOPS
AMPERE, ADA, HOPPER, BLACKWELL = (8, 0), (8, 9), (9, 0), (10, 0)


def attend(q, k, v, causal, scale):
    config = AttentionConfig(causal=causal, scale=scale)
    out, lse = reference.attention(*(x.transpose(1, 2) for x in (q, k, v)), config)
    poisoned = v.isnan().any().item()  # as 0 * NaN does
    out = out.masked_fill(torch.tensor(poisoned), math.nan)
    return out.to(q.dtype).transpose(1, 2), lse.float().transpose(1, 2)


class Operators:
    """Both operators of a GPU that is not there, and the record of those that were called."""

    def __init__(self):
        self.called, self.capability, self.lse_factor = [], AMPERE, 1.0

    def cudnn(self, q, k, v, bias, compute_lse, dropout, causal, *, scale):
        assert (bias, dropout) == (None, 0.0)
        self.called.append("cudnn")
        out, lse = attend(q, k, v, causal, scale)
        return out, lse[..., None] * self.lse_factor if compute_lse else None

    def flash(self, q, k, v, dropout, causal, *, scale):
        assert dropout == 0.0
        self.called.append("flash")
        return (*attend(q, k, v, causal, scale), None)


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    absent_gpu = Operators()
    monkeypatch.setattr(sdpa_cuda, "MIN_FLOPS", 4 * 2 * 40**2 * 16 / 2)  # those of `work`, causal
    monkeypatch.setattr(sdpa_cuda, "_cudnn", absent_gpu.cudnn)
    monkeypatch.setattr(sdpa_cuda, "_flash", absent_gpu.flash)
    monkeypatch.setattr(sdpa_cuda, "can_use_cudnn_attention", lambda params: True)
    monkeypatch.setattr(sdpa_cuda, "can_use_flash_attention", lambda params: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: absent_gpu.capability)
    monkeypatch.setattr(sdpa_cuda, "_planned_shapes", plans.PlannedShapes())
    sdpa_cuda._lse_agrees.cache_clear()
    return absent_gpu


def work(config=CAUSAL, length=40, **options):
    q, k, v = qkv((1, length, 2, 16), (1, length, 1, 16), dtype=options.pop("dtype", BF16))
    return AttentionWork(q, k, v, config, None, **options)


def run(call, *, named=False):
    """Return the answer, None where the backend declines."""
    return None if sdpa_cuda.why_not(call, named=named) else sdpa_cuda.run(call)


def calls_declined(call):
    for times in range(20):
        if run(call) is not None:
            return times
    return 20


def test_prompts_of_a_thousand_tokens_are_too_short_and_those_of_eight_thousand_are_not(
    monkeypatch,
):
    monkeypatch.setattr(sdpa_cuda, "MIN_FLOPS", MIN_FLOPS)
    for length, declines in ((1_024, True), (8_192, False)):
        q = torch.empty(1, length, 32, 128, dtype=BF16, device=META)
        reasons = [
            sdpa_cuda.why_not(AttentionWork(q, q, q, CAUSAL, None), named=False) for _ in range(20)
        ]
        assert ("operations" in str(reasons[-1])) == declines


@pytest.mark.parametrize("config", [CAUSAL, ALL, AttentionConfig(scale=0.1)], ids=str)
@pytest.mark.parametrize("return_lse", [True, False])
@pytest.mark.parametrize("capability", [AMPERE, HOPPER])
def test_answers_are_near_the_reference(operators, config, return_lse, capability):
    operators.capability = capability
    call = work(config, return_lse=return_lse)
    out, *lse = run(call, named=True)
    expected = expect(call.q, call.k, call.v, config)
    assert off(out, expected[0]) <= ATTEND_BAR[BF16]
    assert len(lse) == return_lse
    assert not lse or lse_off(lse[0], expected[1]) <= LSE_BAR[BF16]


@pytest.mark.parametrize("capability", [AMPERE, HOPPER])
@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("where", ["k", "v"])
def test_nan_and_inf_in_a_hidden_key_or_value_do_not_change_an_answer(
    operators, where, bad, capability
):
    operators.capability = capability
    call = work()
    clean = expect(call.q, call.k, call.v, CAUSAL)
    getattr(call, where)[0, 30] = bad
    out, lse = run(call, named=True)
    assert off(out[:, :30], clean[0][:, :30]) <= ATTEND_BAR[BF16]
    assert lse_off(lse[:, :30], clean[1][:, :30]) <= LSE_BAR[BF16]
    if math.isnan(bad):
        assert out[:, 30:].isnan().all()


def test_nothing_is_computed_again_where_all_is_finite(monkeypatch):
    ends = []
    monkeypatch.setattr(
        "rope_core.backends.fused.attend",
        lambda work, out, lse: ends.extend(t.tolist() for t in work.cu_seqlens),
    )
    call = replace(work(), q=work().q.expand(2, -1, -1, -1))
    call = replace(call, k=call.k.expand(2, -1, -1, -1), v=call.v.expand(2, -1, -1, -1))
    run(call, named=True)
    assert ends == [[0, 0, 0]] * 2
    call.v[1, 3, 0, 2] = math.inf
    run(call, named=True)
    assert ends[2:] == [[0, 40, 80]] * 2


def test_the_check_for_nan_is_a_few_launches_without_a_host_read(monkeypatch):
    monkeypatch.setattr("rope_core.backends.fused.attend", lambda work, out, lse: None)
    q, k = (torch.empty(2, 4096, h, 128, dtype=BF16, device=META) for h in (32, 8))
    ends = torch.empty(3, dtype=torch.int32, device=META)
    packed = AttentionWork(
        *(x.flatten(0, 1) for x in (q, k, k)), CAUSAL, ([4096] * 2,) * 2, (ends,) * 2
    )
    lse = torch.empty(packed.q.shape[:-1], device=META)
    with Launches() as launches:
        sdpa_cuda.repair(packed, packed.q, lse, (packed.k, packed.v))
    assert launches.counts["_foreach_norm"] == 1
    assert launches.total <= 5, launches.counts


def test_cudnn_runs_shapes_that_recur(operators):
    call, other = work(return_lse=False), work(length=48, return_lse=False)
    for _ in range(plans.CALLS_BEFORE_PLAN):
        assert run(call) is None
        assert run(other) is None
    assert run(call) is not None
    assert operators.called == ["cudnn"]
    assert "not come often enough" in sdpa_cuda.why_not(work(ALL, return_lse=False), named=False)


def test_shapes_differ_by_strides_dtype_heads_and_mask_but_not_by_values(operators):
    dense = work(return_lse=False)
    apart = torch.stack((dense.k, dense.v), 3)  # other strides
    changed = (
        replace(dense, config=ALL),
        replace(dense, k=apart[..., 0, :], v=apart[..., 1, :]),
        work(return_lse=False, dtype=torch.float16),
        replace(dense, k=dense.q, v=dense.q),
    )
    assert calls_declined(dense) == plans.CALLS_BEFORE_PLAN
    for call in changed:
        assert calls_declined(call) == plans.CALLS_BEFORE_PLAN
    assert calls_declined(replace(dense, q=dense.q + 1)) == 0, "values do not matter"


def test_cudnn_runs_from_the_first_call_on_when_it_is_named(operators):
    assert run(work(return_lse=False), named=True) is not None
    assert operators.called == ["cudnn"]


def test_cudnn_gets_a_bounded_number_of_plans(operators, monkeypatch):
    monkeypatch.setattr(plans, "MAX_PLANNED", 2)
    for length in (40, 48):
        assert calls_declined(work(length=length, return_lse=False)) == plans.CALLS_BEFORE_PLAN
    third = work(length=56, return_lse=False)
    assert calls_declined(third) == 20
    assert "plans for" in sdpa_cuda.why_not(third, named=True)
    assert run(work(return_lse=False)) is not None, "a shape keeps its plan"


def test_the_threshold_is_in_operations_and_not_in_tokens(operators):
    operators.capability = HOPPER
    for small in (work(length=39), work(length=24, config=ALL)):
        assert "less work" in sdpa_cuda.why_not(small, named=False)
    assert "often" in sdpa_cuda.why_not(work(length=32, config=ALL), named=False)
    wide = work(length=24)
    wide = replace(wide, q=wide.q.repeat(1, 1, 3, 1))
    assert "often" in sdpa_cuda.why_not(wide, named=False)


@pytest.mark.parametrize("capability", [AMPERE, ADA])
def test_before_hopper_flash_runs_calls_with_lse_from_the_first_one_on(operators, capability):
    operators.capability = capability
    assert run(work()) is not None
    assert operators.called == ["flash"]


@pytest.mark.parametrize("capability", [HOPPER, BLACKWELL])
def test_from_hopper_on_flash_is_never_called(operators, capability, monkeypatch):
    operators.capability = capability
    assert calls_declined(work()) == plans.CALLS_BEFORE_PLAN
    assert set(operators.called) == {"cudnn"}
    monkeypatch.setattr(sdpa_cuda, "can_use_cudnn_attention", lambda params: False)
    assert "neither" in sdpa_cuda.why_not(work(), named=True)


def test_the_trial_of_cudnns_lse_runs_once(operators):
    operators.capability = HOPPER
    assert calls_declined(work()) == plans.CALLS_BEFORE_PLAN
    assert operators.called == ["cudnn"] * 2, "once for the trial"
    assert run(work()) is not None
    assert operators.called == ["cudnn"] * 3


@pytest.mark.parametrize("factor", [math.log2(math.e), math.nan], ids=["base 2", "nan"])
def test_cudnn_is_declined_if_its_lse_is_not_the_natural_logarithm(operators, factor):
    operators.capability, operators.lse_factor = HOPPER, factor
    assert calls_declined(work()) == 20
    assert operators.called == ["cudnn"], "the trial alone"
    assert "natural logarithm" in sdpa_cuda.why_not(work(), named=True)
    assert run(work(return_lse=False), named=True) is not None


def test_a_trial_that_raises_does_not_agree(operators, monkeypatch):
    operators.capability = HOPPER

    def fails(*args, **named):
        raise RuntimeError("no execution plan")

    monkeypatch.setattr(sdpa_cuda, "_cudnn", fails)
    assert calls_declined(work()) == 20


def test_declined_calls():
    small = replace(work(), q=work().q[:, 10:])
    sinks = torch.zeros(2)
    for call, text in (
        (small, "is_causal is aligned top-left"),
        (work(dtype=torch.float32), "float32"),
        (work(AttentionConfig(window=3)), "window"),
        (work(AttentionConfig(softcap=1.0)), "softcap"),
        (work(sinks=sinks), "sinks"),
        (work(AttentionConfig(scale=-1.0)), "scale"),
        (work(out_dtype=torch.float32), "float32"),
        (replace(work(), lengths=([40], [40])), "packed"),
        (replace(work(), v=work().v[..., :8]), "as wide"),
        (work(length=0), "there are no queries"),
    ):
        assert text in sdpa_cuda.why_not(call, named=True)
        assert text in sdpa_cuda.why_not(call, named=False)


def test_the_reason_says_that_no_operator_can_run(operators, monkeypatch):
    monkeypatch.setattr(sdpa_cuda, "can_use_cudnn_attention", lambda params: False)
    assert run(work(return_lse=False)) is not None, "FlashAttention 2 needs no plan"
    assert operators.called == ["flash"]
    monkeypatch.setattr(sdpa_cuda, "can_use_flash_attention", lambda params: False)
    assert "neither" in sdpa_cuda.why_not(work(), named=True)
