"""Free memory returns to the system once no request is charged any more, and not before."""

import asyncio

import pytest

from service.batching.admission import Admission, Charge
from service.buffer_pool import BufferPool
from service.server import idle_trim
from service.server.idle_trim import IdleTrim
from service.slab_pool import SlabPool


class Case:
    def __init__(self) -> None:
        self.admission = Admission(1000)
        self.num_trims = 0
        IdleTrim(self.admission, self._trim)

    def _trim(self) -> None:
        self.num_trims += 1

    def charge_once(self) -> None:
        with Charge(self.admission) as charge:
            charge.add(1)


@pytest.fixture
def case(monkeypatch) -> Case:
    monkeypatch.setattr(idle_trim, "IDLE_S", 0)
    return Case()


async def looks(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_an_unused_service_is_not_trimmed(case):
    await looks(10)
    assert case.num_trims == 0


async def test_memory_is_trimmed_once_after_the_last_request(case):
    for _ in range(2):
        case.charge_once()
        case.charge_once()
        await looks(10)
    assert case.num_trims == 2
    await looks(10)
    assert case.num_trims == 2


async def test_nothing_is_trimmed_while_requests_come_or_hold_memory(case):
    for _ in range(10):
        case.charge_once()
        await looks(1)
    assert case.num_trims == 0
    with Charge(case.admission) as charge:
        charge.add(1)
        await looks(10)
        assert case.num_trims == 0
    await looks(10)
    assert case.num_trims == 1


def test_a_cleared_pool_of_slabs_holds_no_idle_memory():
    pool = SlabPool(2**20, BufferPool(0))
    slab = pool.lease(2**16)
    address = slab.address
    del slab
    pool.clear()
    assert pool._idle_bytes == 0
    assert not any(pool._idle.values())
    assert pool.lease(2**16).address % 64 == address % 64 == 0
