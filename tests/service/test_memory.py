"""Memory: pooled buffers, pinned memory, the budget of all requests, and the limits of a cgroup."""

import asyncio
import gc
import mmap
import threading

import pytest
import torch

from service.batching.admission import SMALL_BYTES, Admission, Charge
from service.buffer_pool import BufferPool
from service.device.cgroup import memory_bytes, num_cpus
from service.errors import Overloaded
from service.lifecycle import Lifecycle
from service.memory_blocks import MIN_BUFFER_BYTES
from service.server.app import create_app
from service.settings import Settings
from service.wire import Message
from service.wire import safetensors_codec as codec
from tests.service.conftest import asking, post
from tests.service.fake_driver import FakeDriver


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def allocations(monkeypatch) -> list[int]:
    """Sizes of the buffers that pools take from the system."""
    sizes: list[int] = []
    allocate = mmap.mmap

    def record(descriptor: int, num_bytes: int, **options: int) -> mmap.mmap:
        sizes.append(num_bytes)
        return allocate(descriptor, num_bytes, **options)

    monkeypatch.setattr(mmap, "mmap", record)
    return sizes


def address(memory: memoryview) -> int:
    return torch.frombuffer(memory, dtype=torch.uint8).data_ptr()


def test_a_buffer_is_reused_once_nothing_refers_to_it():
    buffer_pool = BufferPool(2**30)
    memory = buffer_pool.lease(2**20)
    first = address(memory)
    del memory
    assert address(buffer_pool.lease(2**20)) == first


@pytest.mark.parametrize("holder", ["slice", "tensor", "view", "bytes of a tensor"])
def test_a_buffer_is_not_reused_while_something_refers_to_it(holder):
    buffer_pool = BufferPool(2**30)
    memory = buffer_pool.lease(2**20)
    first = address(memory)
    tensor = torch.frombuffer(memory, dtype=torch.float32)
    held = {
        "slice": memory[10:20],
        "tensor": tensor,
        "view": tensor[5:].view(-1, 1),
        "bytes of a tensor": tensor[5:9].numpy().data.cast("B")[1:],
    }[holder]
    del memory, tensor
    gc.collect()
    assert address(buffer_pool.lease(2**20)) != first
    del held
    both = [buffer_pool.lease(2**20) for _ in range(2)]
    assert first in map(address, both)


def test_idle_buffers_are_bounded(allocations):
    buffer_pool = BufferPool(max_idle_bytes=2 * MIN_BUFFER_BYTES)
    leases = [buffer_pool.lease(1) for _ in range(5)]
    del leases
    again = [buffer_pool.lease(1) for _ in range(5)]
    assert len(again) == 5
    assert len(allocations) == 5 + 3, "two were kept"


def test_a_lease_never_pins_and_takes_idle_pinned_memory_first(driver):
    buffer_pool = BufferPool(2**30, driver)
    plain = buffer_pool.lease(2**20)
    assert driver.num_pins == 0
    pinned = buffer_pool.lease_pinned(2**20)
    pinned_address = address(pinned)
    assert [*driver.pinned] == [pinned_address]
    del plain, pinned
    assert address(buffer_pool.lease(2**20)) == pinned_address
    again = buffer_pool.lease_pinned(2**18)
    assert (address(again), driver.num_pins) == (pinned_address, 1)


@pytest.mark.parametrize("budget", [2**20, 2**25, 2**28, 2**30, 2**32])
def test_preallocated_buffers_take_at_most_half_of_the_memory_and_are_leased_first(driver, budget):
    buffer_pool = BufferPool(budget, driver)
    buffer_pool.preallocate(0)
    sizes = sorted(driver.pinned.values())
    all_sizes = sorted(4**step * 2**20 for step in range(5) for _ in range(2))
    assert sizes == all_sizes[: len(sizes)]
    assert sum(sizes) <= budget // 2
    assert sizes == all_sizes or sum(all_sizes[: len(sizes) + 1]) > budget // 2
    leases = [buffer_pool.lease(size - 100) for size in sizes]
    assert sorted(map(address, leases)) == sorted(driver.pinned)


def test_memory_stays_pinned_until_the_pool_is_gone(driver):
    buffer_pool = BufferPool(2 * MIN_BUFFER_BYTES, driver)
    leases = [buffer_pool.lease_pinned(MIN_BUFFER_BYTES) for _ in range(5)]
    assert len(driver.pinned) == 2, "the limit"
    del leases
    assert len(driver.pinned) == 2
    del buffer_pool
    gc.collect()
    assert driver.pinned == {}


def test_idle_pinned_memory_counts_against_the_limit_of_idle_memory(driver, allocations):
    buffer_pool = BufferPool(3 * MIN_BUFFER_BYTES, driver)
    pinned = buffer_pool.lease_pinned(MIN_BUFFER_BYTES)
    others = [buffer_pool.lease(MIN_BUFFER_BYTES) for _ in range(4)]
    pinned_address = address(pinned)
    del pinned
    del others
    again = [buffer_pool.lease(MIN_BUFFER_BYTES) for _ in range(5)]
    assert pinned_address in map(address, again)
    assert driver.num_pins == 1
    assert len(allocations) == 5 + 2, "the pinned one and two others were kept"


def test_no_memory_is_pinned_after_the_system_has_refused(driver, monkeypatch):
    refused = []

    def refuse(pinned_address, num_bytes):
        refused.append(pinned_address)
        return False

    monkeypatch.setattr(driver, "pin", refuse)
    buffer_pool = BufferPool(2**30, driver)
    buffer_pool.preallocate(0)
    assert len(buffer_pool.lease_pinned(2**20)) == 2**20
    assert len(refused) == 1


async def test_the_event_loop_pins_nothing(driver):
    lifecycle = Lifecycle()
    app = create_app(Settings(log_level="error", warm_up_shapes=""), lifecycle, driver)
    async with app.app.router.lifespan_context(app.app), asking(app) as client:
        bodies = [Message({"q": torch.ones(1, length, 8, 64)}) for length in range(600, 3000, 400)]
        for _ in range(2):
            requests = (post(client, codec, "/v1/rotate", body) for body in bodies * 2)
            responses = await asyncio.gather(*requests)
            assert {response.status_code for response in responses} == {200}
    assert driver.num_pins > 0
    assert threading.get_ident() not in driver.pinning_threads


def test_large_tensors_take_a_buffer_and_small_ones_do_not(allocations):
    buffer_pool = BufferPool(2**30)
    assert buffer_pool.tensor((2, 3), torch.bfloat16).shape == (2, 3)
    assert allocations == []
    large = buffer_pool.tensor((2**20,), torch.float32)
    assert large.shape == (2**20,)
    assert large.is_contiguous()
    assert allocations == [2**22]


def test_a_charge_is_released_and_a_full_budget_refuses():
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


def test_a_single_request_is_never_refused():
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
def test_the_number_of_cpus_follows_the_quota(tmp_path, monkeypatch, files, cpus):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert num_cpus(tmp_path) == cpus


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_follows_the_limit_of_the_cgroup(tmp_path, name):
    unlimited = memory_bytes(tmp_path)
    assert unlimited > 2**28
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("1048576\n")
    assert memory_bytes(tmp_path) == 2**20
    (tmp_path / name).write_text("max\n")
    assert memory_bytes(tmp_path) == unlimited


def test_large_requests_leave_an_eighth_of_the_budget_to_small_ones():
    """Clients that read large answers slowly do not stop small requests."""
    admission = Admission(max_bytes=64 * SMALL_BYTES)
    large = [Charge(admission) for _ in range(4)]
    for charge in large[:3]:
        charge.add(16 * SMALL_BYTES)
    large[3].add(SMALL_BYTES)  # a request is judged by all that it holds
    with pytest.raises(Overloaded, match="of 58,720,256"):
        large[3].add(7 * SMALL_BYTES + 1)
    large[3].add(7 * SMALL_BYTES)
    for _ in range(8):
        Charge(admission).add(SMALL_BYTES)
    with pytest.raises(Overloaded, match="of 67,108,864"):
        Charge(admission).add(1)


def test_a_request_that_needs_no_more_memory_is_not_refused():
    """Small requests fill the reserve while a large request is received."""
    admission = Admission(64 * SMALL_BYTES)
    large = 40 * SMALL_BYTES
    admission.charge(large)
    for _ in range(20):
        admission.charge(SMALL_BYTES)
    admission.charge(0, large)
    admission.charge(-SMALL_BYTES, large)
    with pytest.raises(Overloaded):
        admission.charge(1, large - SMALL_BYTES)
