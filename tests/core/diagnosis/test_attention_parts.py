"""What a diagnosis of attention is made of: expected values, bounds of errors, and costs."""

import pytest
import torch

from rope_core import AttentionConfig, RopeConfig
from rope_core.attention import run_attend
from rope_core.calls import Attend
from rope_core.diagnosis.attention import expected, parts, simulation
from rope_core.diagnosis.attention_call import right_call


def capped(num_queries: int) -> Attend:
    """Return a call with a soft cap, sinks and a window, of 2 rows of 40 keys."""
    generator = torch.Generator().manual_seed(3)
    shapes = (2, num_queries, 4, 16), (2, 40, 2, 16), (2, 40, 2, 8)
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    config = AttentionConfig(causal=True, window=30, softcap=2.0)
    rope = RopeConfig(head_dim=16)
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0])
    positions = torch.arange(40)
    return Attend(
        *(q, k, v, rope, config),
        q_positions=positions[-num_queries:],
        k_positions=positions,
        sinks=sinks,
        return_lse=True,
    )


@pytest.mark.parametrize("num_queries", [3, 40])
def test_expected_values_are_those_of_attend(
    num_queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = capped(num_queries)
    monkeypatch.setattr(expected, "run_attend", lambda call: pytest.fail("not computed here"))
    monkeypatch.setattr(expected, "MANY_SCORES", 0)
    monkeypatch.setattr(expected, "MANY_KEYS", 0)
    monkeypatch.setattr(expected, "BLOCK_KEYS", 16)
    got, right = expected.expected_values(call, right_call(call, True)), run_attend(call)
    torch.testing.assert_close(got.out, right.out)
    torch.testing.assert_close(got.lse, right.lse)


def test_no_scores_give_what_is_no_sum_of_the_values_that_a_query_sees() -> None:
    call = capped(40)
    right, out = right_call(call, True), run_attend(call).out.flatten(0, 1)
    q, k, v = (x.flatten(0, 1) for x in (call.q, call.k, call.v))
    errors = torch.ones(out.shape[:2])
    for shift, is_possible in ((0.0, True), (1.0, False)):
        tensors = parts.AttentionTensors(q=q, k=k, v=v, out=out + shift, lse=None)
        probe, *_ = parts.parts(tensors, right, errors)
        assert (simulation.least_error(right, probe) < 1e-6) is is_possible


def test_far_keys_give_what_fewer_bits_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    call = capped(40)
    right = right_call(call, True)
    q, k, v = (x.flatten(0, 1) for x in (call.q, call.k, call.v))
    out = run_attend(call).out.flatten(0, 1)
    tensors = parts.AttentionTensors(q=q, k=k, v=v, out=out, lse=None)
    monkeypatch.setattr(parts, "FAR_KEYS", 0)
    monkeypatch.setattr(simulation, "BLOCK_KEYS", 16)
    for part in parts.parts(tensors, right, torch.ones(out.shape[:2])):
        assert part.is_far
        result = simulation.simulate(right, part)
        torch.testing.assert_close(result.out.double(), part.out, rtol=1e-4, atol=1e-5)


def test_a_search_stops_at_its_limit() -> None:
    cost = simulation.Cost()
    cost.add(simulation.MOST_ELEMENTS - 2 * simulation.ELEMENTS_OF_STEP)
    cost.add(0)
    with pytest.raises(simulation.CostExceeded):
        cost.add(1)
