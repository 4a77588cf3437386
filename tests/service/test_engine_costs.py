"""Estimates of the engine: in proportion to what calls cost."""

from dataclasses import replace

import pytest
import torch

from rope_core import Attend, AttentionConfig
from service.errors import TooLarge
from service.inference.engine import LONG_CALL_S
from service.settings import Settings
from tests.service.engines import ROPE, cpu_engine


def seconds(num_queries, num_keys=None, backend=None, mask=None, **config):
    q = torch.empty(1, num_queries, 8, 64)
    k = torch.empty(1, num_keys or num_queries, 2, 64)
    call = Attend(q, k, k, ROPE, AttentionConfig(**config), mask=mask)
    return cpu_engine().job(call, backend).seconds


def test_causal_attention_is_half_the_work_of_all_scores():
    assert seconds(4096) / seconds(4096, causal=False) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("num_queries", [1, 16])
def test_a_few_queries_see_nearly_all_keys(num_queries):
    ratio = seconds(num_queries, 8192) / seconds(num_queries, 8192, causal=False)
    assert 0.99 < ratio <= 1


@pytest.mark.parametrize("config", [{"window": 512}, {"chunk": 512}], ids=["window", "chunk"])
def test_hidden_keys_of_windows_and_chunks_cost_nothing(config):
    assert seconds(8192, **config) < seconds(8192) / 3
    assert seconds(16_384, **config) / seconds(8192, **config) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("config", [{"window": 512}, {"chunk": 512}], ids=["window", "chunk"])
def test_a_mask_makes_a_window_cost_what_all_keys_cost(config):
    mask = torch.empty(2048, 2048, dtype=torch.bool)
    assert seconds(2048, mask=mask, **config) == pytest.approx(seconds(2048, mask=mask), rel=0.01)


def test_chunks_of_one_token_cost_a_step_each():
    assert seconds(2**16, chunk=1) > 2**16 * 40e-6


def test_softcap_costs_what_eager_operators_cost():
    """They compute the scores that `causal` hides as well."""
    assert seconds(2048, softcap=5.0) == seconds(2048, backend="eager") > 4 * seconds(2048)
    assert seconds(2048, softcap=5.0) == seconds(2048, softcap=5.0, causal=False)


def test_attention_that_would_hold_the_device_for_long_is_refused():
    """A07: a small body, but 2 * 10**10 scores."""
    q = torch.empty(1, 200_000, 1, 2)
    engine = replace(cpu_engine(), max_call_s=Settings().max_call_s)
    flops_per_s = 1e11  # of a machine that is faster than the one that was measured
    engine.device.capabilities = replace(engine.device.capabilities, flops_per_s=flops_per_s)
    for config in (AttentionConfig(), AttentionConfig(softcap=5.0)):
        with pytest.raises(TooLarge, match=r"the estimated time .* may be at most 10.0, got"):
            engine.job(Attend(q, q, q, None, config))


def test_queries_before_the_first_key_cost_nothing():
    assert seconds(8192, 16) < seconds(8192, 16, causal=False) / 2


def test_packed_sequences_cost_what_rows_cost():
    q, k = torch.empty(3 * 512, 8, 64), torch.empty(3 * 512, 2, 64)
    ends = torch.tensor([0, 512, 1024, 1536])
    packed = Attend(q, k, k, ROPE, cu_seqlens_q=ends, cu_seqlens_k=ends)
    rows = Attend(*(x.view(3, 512, -1, 64) for x in (q, k, k)), ROPE)
    one, other = (cpu_engine().job(call).seconds for call in (packed, rows))
    assert one == pytest.approx(other, rel=0.01)


def test_a_long_call_is_refused_whose_client_does_not_wait_so_long():
    call = Attend(*[torch.empty(1, 2**16, 8, 64)] * 3, ROPE, AttentionConfig())
    engine = replace(cpu_engine(), max_call_s=1e6)
    needed_s = engine.job(call).seconds
    assert needed_s > LONG_CALL_S
    assert engine.job(call, timeout_s=needed_s * 1.01).seconds == needed_s
    with pytest.raises(TooLarge, match="the estimated time of a call"):
        engine.job(call, timeout_s=needed_s * 0.99)


def test_a_short_call_is_begun_although_its_client_hardly_waits():
    call = Attend(*[torch.empty(1, 16, 8, 64)] * 3, ROPE, AttentionConfig())
    assert cpu_engine().job(call, timeout_s=0.0).seconds < LONG_CALL_S
