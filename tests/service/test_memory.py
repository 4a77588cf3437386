"""Memory: reused buffers, and the budget that all requests share."""

import asyncio
import gc
import threading

import pytest
import torch

from service.batching.admission import Admission, Charge
from service.buffer_pool import SMALLEST_BYTES, BufferPool
from service.device.cgroup import memory_bytes, num_cpus
from service.errors import Overloaded
from service.lifecycle import Lifecycle
from service.server.app import create_app
from service.settings import Settings
from service.wire import Message
from service.wire import safetensors_codec as codec
from tests.service.conftest import asking, post
from tests.service.fake_driver import FakeDriver


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


def address(memory: memoryview) -> int:
    return torch.frombuffer(memory, dtype=torch.uint8).data_ptr()


def test_a_slab_is_used_again_once_nobody_looks_at_it():
    buffer_pool = BufferPool(2**30)
    memory = buffer_pool.lease(2**20)
    first = address(memory)
    del memory
    assert address(buffer_pool.lease(2**20)) == first


@pytest.mark.parametrize("hold", ["slice", "tensor", "view", "bytes of a tensor"])
def test_a_slab_is_not_used_again_while_anything_looks_at_it(hold):
    buffer_pool = BufferPool(2**30)
    memory = buffer_pool.lease(2**20)
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
    assert address(buffer_pool.lease(2**20)) != first
    del held
    both = [buffer_pool.lease(2**20) for _ in range(2)]
    assert first in map(address, both)


def test_idle_slabs_are_bounded():
    buffer_pool = BufferPool(max_idle_bytes=2 * SMALLEST_BYTES)
    leases = [buffer_pool.lease(1) for _ in range(5)]
    addresses = {address(lease) for lease in leases}
    del leases
    again = [buffer_pool.lease(1) for _ in range(5)]
    assert len(addresses & {address(lease) for lease in again}) >= 2


def test_a_lease_never_pins_and_takes_idle_pinned_memory_first(driver):
    buffer_pool = BufferPool(2**30, driver)
    plain = buffer_pool.lease(2**20)
    assert driver.num_pins == 0
    pinned = buffer_pool.lease_pinned(2**20)
    at = address(pinned)
    assert [*driver.pinner] == [at]
    del plain, pinned
    assert address(buffer_pool.lease(2**20)) == at
    again = buffer_pool.lease_pinned(2**18)
    assert (address(again), driver.num_pins) == (at, 1)


@pytest.mark.parametrize("budget", [2**20, 2**25, 2**28, 2**30, 2**32])
def test_the_ladder_takes_at_most_half_of_the_memory_and_is_leased_first(driver, budget):
    buffer_pool = BufferPool(budget, driver)
    buffer_pool.pin_ladder()
    sizes = sorted(driver.pinner.values())
    whole = sorted(4**step * 2**20 for step in range(5) for _ in range(2))
    assert sizes == whole[: len(sizes)]
    assert sum(sizes) <= budget // 2
    assert sizes == whole or sum(whole[: len(sizes) + 1]) > budget // 2
    leases = [buffer_pool.lease(size - 100) for size in sizes]
    assert sorted(map(address, leases)) == sorted(driver.pinner)


def test_memory_stays_pinned_until_the_pool_is_gone(driver):
    buffer_pool = BufferPool(2 * SMALLEST_BYTES, driver)
    leases = [buffer_pool.lease_pinned(SMALLEST_BYTES) for _ in range(5)]
    assert len(driver.pinner) == 2, "no more than may be kept"
    del leases
    assert len(driver.pinner) == 2
    del buffer_pool
    gc.collect()
    assert driver.pinner == {}


def test_what_is_idle_is_bounded_beside_pinned_memory(driver):
    buffer_pool = BufferPool(3 * SMALLEST_BYTES, driver)
    leases = [
        buffer_pool.lease_pinned(SMALLEST_BYTES),
        *(buffer_pool.lease(SMALLEST_BYTES) for _ in range(4)),
    ]
    first = address(leases[0])
    del leases
    again = [buffer_pool.lease(SMALLEST_BYTES) for _ in range(5)]
    assert first in map(address, again)
    assert driver.num_pins == 1


def test_a_system_that_refuses_to_pin_is_asked_no_more(driver, monkeypatch):
    refused = []

    def refuse(at, num_bytes):
        refused.append(at)
        return False

    monkeypatch.setattr(driver, "pin", refuse)
    buffer_pool = BufferPool(2**30, driver)
    buffer_pool.pin_ladder()
    assert len(buffer_pool.lease_pinned(2**20)) == 2**20
    assert len(refused) == 1


async def test_the_event_loop_pins_nothing(driver):
    lifecycle = Lifecycle()
    app = create_app(Settings(log_level="error", warm_up_shapes=""), lifecycle, driver)
    async with app.app.router.lifespan_context(app.app), asking(app) as client:
        bodies = [Message({"q": torch.ones(1, length, 8, 64)}) for length in range(600, 3000, 400)]
        for _ in range(2):
            got = await asyncio.gather(*(post(client, codec, "/v1/rotate", b) for b in bodies * 2))
            assert {answer.status_code for answer in got} == {200}
    assert driver.num_pins > 0
    assert threading.get_ident() not in driver.pinning_threads


def test_small_tensors_come_from_the_allocator():
    buffer_pool = BufferPool(2**30)
    assert buffer_pool.tensor((2, 3), torch.bfloat16).shape == (2, 3)
    large = buffer_pool.tensor((2**20,), torch.float32)
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
