"""Memory: reused buffers, and the budget that all requests share."""

import gc

import pytest
import torch

from service.admission import Admission, Charge
from service.errors import Overloaded
from service.host import memory_bytes, num_cpus
from service.slabs import SMALLEST_BYTES, Slabs


def address(memory: memoryview) -> int:
    return torch.frombuffer(memory, dtype=torch.uint8).data_ptr()


def test_a_slab_is_used_again_once_nobody_looks_at_it():
    slabs = Slabs(2**30)
    memory = slabs.lease(2**20)
    first = address(memory)
    del memory
    assert address(slabs.lease(2**20)) == first


@pytest.mark.parametrize("hold", ["slice", "tensor", "view", "bytes of a tensor"])
def test_a_slab_is_not_used_again_while_anything_looks_at_it(hold):
    slabs = Slabs(2**30)
    memory = slabs.lease(2**20)
    first = address(memory)
    tensor = torch.frombuffer(memory, dtype=torch.float32)
    held = {
        "slice": memory[10:20],
        "tensor": tensor,
        "view": tensor[5:].view(-1, 1),
        "bytes of a tensor": tensor[5:9].numpy().data.cast("B")[1:],
    }[hold]
    del memory, tensor
    gc.collect()
    assert address(slabs.lease(2**20)) != first
    del held
    both = [slabs.lease(2**20) for _ in range(2)]
    assert first in map(address, both)


def test_idle_slabs_are_bounded():
    slabs = Slabs(max_idle_bytes=2 * SMALLEST_BYTES)
    leases = [slabs.lease(1) for _ in range(5)]
    addresses = {address(lease) for lease in leases}
    del leases
    again = [slabs.lease(1) for _ in range(5)]
    assert len(addresses & {address(lease) for lease in again}) >= 2


def test_small_tensors_come_from_the_allocator():
    slabs = Slabs(2**30)
    assert slabs.tensor((2, 3), torch.bfloat16).shape == (2, 3)
    large = slabs.tensor((2**20,), torch.float32)
    assert large.shape == (2**20,)
    assert large.is_contiguous()


def test_a_charge_is_given_back_and_a_full_budget_refuses():
    admission = Admission(max_bytes=100)
    with Charge(admission) as one:
        one.add(60)
        with Charge(admission) as other:
            with pytest.raises(Overloaded, match="60 of 100"):
                other.add(41)
            other.add(40)
            assert admission.charged_bytes == 100
        assert admission.charged_bytes == 60
    assert admission.charged_bytes == 0


def test_a_request_that_is_alone_gets_its_share_however_large():
    admission = Admission(max_bytes=100)
    with Charge(admission) as alone:
        alone.add(90)
        alone.add(90)
        with Charge(admission) as second, pytest.raises(Overloaded):
            second.add(1)
    assert admission.charged_bytes == 0


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "max 100000"}, 64),
        (
            {
                "cpu/cfs_quota_us": "",
                "cpu/cpu.cfs_quota_us": "300000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({}, 64),
    ],
)
def test_threads_follow_the_quota(tmp_path, monkeypatch, files, cpus):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert num_cpus(tmp_path) == cpus


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_follows_the_limit(tmp_path, name):
    unlimited = memory_bytes(tmp_path)
    assert unlimited > 2**28
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1048576\n")
    assert memory_bytes(tmp_path) == 2**20
    (tmp_path / name).write_text("max\n")
    assert memory_bytes(tmp_path) == unlimited
