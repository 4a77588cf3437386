"""The host reads no value from the device: each read would wait for all work in its stream."""

import random

import pytest
import torch

import rope_core
from rope_core import Attend, Rotate
from rope_core.backends import AttentionWork, MergeWork, RotaryWork
from service.inference.engine import Engine
from tests.service import calls
from tests.service.engines import ROPE, accelerator_engine, attention, run
from tests.service.fake_driver import MetaDriver


class RecordingBackend:
    """Stands for a backend of the device, which reads no value."""

    name = "recorder"

    def __init__(self) -> None:
        self.works: list = []

    def why_not(self, work: object, named: bool) -> None:
        return None

    def run(self, work: AttentionWork | RotaryWork | MergeWork) -> tuple[torch.Tensor, ...]:
        self.works.append(work)
        match work:
            case RotaryWork():
                return work.outs
            case AttentionWork():
                return work.empty_outputs()
            case MergeWork():
                return work.out[0], work.lse[0]


@pytest.fixture
def backend(monkeypatch) -> RecordingBackend:
    backend = RecordingBackend()
    monkeypatch.setattr(rope_core.backends, "BACKENDS", (backend,))
    monkeypatch.setattr(rope_core.backends.fused, "unavailable", lambda _: "there is no GPU")
    return backend


@pytest.fixture
def engine() -> Engine:
    """An engine whose device raises an exception if the host reads a value."""
    return accelerator_engine(MetaDriver())


def packed(masked: bool, num_tokens: int = 7) -> Attend:
    q = torch.randn(num_tokens, 2, 64)
    ends = torch.tensor([0, 3, num_tokens])
    mask = torch.ones(num_tokens, num_tokens).bool() if masked else None
    return Attend(q, q, q, ROPE, cu_seqlens_q=ends, cu_seqlens_k=ends, mask=mask)


@pytest.mark.parametrize("kind", [*dict.fromkeys(calls.KINDS)], ids=lambda kind: kind.__name__)
def test_no_kind_of_call_reads_a_value_from_the_device(engine, backend, kind):
    rng = random.Random(4)
    for _ in range(4):
        assert len(run(engine, [kind(rng) for _ in range(3)])) == 3


@pytest.mark.parametrize(
    "batch",
    [[attention(5), attention(9)], [packed(False), packed(False)], [packed(True)]],
    ids=["batch", "packed", "single"],
)
def test_cu_seqlens_of_self_attention_are_copied_once(engine, backend, batch):
    run(engine, batch)
    (work,) = (work for work in backend.works if isinstance(work, AttentionWork))
    q_ends, k_ends = work.cu_seqlens
    assert q_ends.device.type == "meta"
    assert q_ends is k_ends
    assert len(q_ends) == len(work.lengths[0]) + 1


def test_cu_seqlens_of_queries_and_of_keys_are_both_on_the_device(engine, backend):
    q = torch.randn(1, 3, 2, 64)
    k = torch.randn(1, 9, 2, 64)
    run(engine, [Attend(q, k, k, ROPE)] * 2)
    q_ends, k_ends = backend.works[-1].cu_seqlens
    assert q_ends.device.type == k_ends.device.type == "meta"
    assert q_ends is not k_ends
    assert backend.works[-1].lengths == ((3, 3), (9, 9))


def test_positions_of_packed_tokens_are_counted_on_the_device(engine, backend, monkeypatch):
    devices = []
    sequence_positions = rope_core.ragged.sequence_positions

    def record(length, cu_seqlens, device):
        devices.append(cu_seqlens.device.type)
        return sequence_positions(length, cu_seqlens, device)

    monkeypatch.setattr(rope_core.ragged, "sequence_positions", record)
    q = torch.zeros(900, 8, 64)  # too large for a pack
    run(engine, [Rotate(q, None, ROPE, None, torch.tensor([0, 100, 900]))])
    assert devices == ["meta"]
