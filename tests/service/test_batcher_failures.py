"""Runs that raise an exception, do not return, or find the device lost."""

import asyncio

import pytest

from service.errors import DeviceLost, DeviceStuck
from tests.service.fake_run import Doubler, HeldDoubler, LoopClock, batching


@pytest.fixture
async def clock() -> LoopClock:
    return LoopClock()


async def test_a_failed_run_fails_only_the_faulty_call():
    run = Doubler()
    async with batching(run, inline=True) as calls:
        values = [1, 2, -3, 4, 5]
        results = await asyncio.gather(*map(calls.result, values), return_exceptions=True)
    assert results[:2] + results[3:] == [2, 4, 8, 10]
    assert isinstance(results[2], ValueError)
    assert run.runs == [[1, 2, -3, 4, 5], [1, 2], [-3, 4, 5], [-3], [4, 5]]


async def test_a_run_that_does_not_return_fails_all_calls(clock):
    held = HeldDoubler()
    async with batching(held, max_inflight=2, stuck_s=5) as calls:
        stuck, beside = calls.submit(1), calls.submit(2, batch_key="two")
        for _ in range(2):
            await held.started()
        waiting = calls.submit(3)
        await clock.advance(4)
        assert calls.failures == []
        await clock.advance(2)
        for entry in (stuck, beside, waiting):
            with pytest.raises(DeviceStuck):
                await entry.future
        with pytest.raises(DeviceStuck):
            calls.submit(4)
        calls.batcher.close()
        with pytest.raises(DeviceStuck):
            calls.submit(5)
    assert [type(failure) for failure in calls.failures] == [DeviceStuck]
    assert sorted(held.runs) == [[1], [2]], "nothing runs afterwards"


async def test_a_run_within_the_watchdog_timeout_succeeds(clock):
    held = HeldDoubler()
    async with batching(held, stuck_s=5) as calls:
        entry = calls.submit(1, timeout_s=60)
        await held.started()
        await clock.advance(4)
        held.end(1)
        assert (await entry.future).result == 2
        await clock.advance(50)
    assert calls.failures == []


async def test_a_run_may_take_ten_times_its_estimate(clock):
    held = HeldDoubler()
    async with batching(held, stuck_s=5) as calls:
        entry = calls.submit(1, timeout_s=60, seconds=2)
        await held.started()
        await clock.advance(19)
        assert calls.failures == []
        await clock.advance(2)
        with pytest.raises(DeviceStuck):
            await entry.future


async def test_without_a_watchdog_a_run_may_take_any_time(clock):
    held = HeldDoubler()
    async with batching(held, stuck_s=None) as calls:
        entry = calls.submit(1, timeout_s=10_000)
        await held.started()
        await clock.advance(9_000)
        held.end(1)
        assert (await entry.future).result == 2
    assert calls.failures == []


async def test_dividing_a_failed_batch_restarts_the_watchdog(clock):
    held = HeldDoubler()
    async with batching(held, stuck_s=5) as calls:
        first = calls.submit(0, timeout_s=60)
        await held.started()
        batch = [calls.submit(value, timeout_s=60) for value in (-1, -2, -3, -4)]
        held.end(0)
        assert (await first.future).result == 0
        for parts in ([-1, -2, -3, -4], [-1, -2], [-1], [-2], [-3, -4], [-3], [-4]):
            await held.started()
            assert held.runs[-1] == parts
            await clock.advance(1.5)  # 10.5 seconds in all
            held.end(parts[0])
        for entry in batch:
            with pytest.raises(ValueError, match=r"^$"):
                await entry.future
    assert calls.failures == []


async def test_progress_of_one_run_restarts_the_watchdog_for_all_runs(clock):
    held = HeldDoubler()
    async with batching(held, max_inflight=2, stuck_s=5) as calls:
        slow = calls.submit(1, timeout_s=60)
        await held.started()
        for value in range(2, 6):
            beside = calls.submit(value, timeout_s=60)
            await held.started()
            await clock.advance(3)
            held.end(value)
            assert (await beside.future).result == 2 * value
        held.end(1)
        assert (await slow.future).result == 2
    assert calls.failures == []


async def test_a_lost_device_runs_nothing_more():
    held = HeldDoubler(DeviceLost)
    async with batching(held, max_inflight=2) as calls:
        batch = [calls.submit(value) for value in (-1, 2, 3, 4)]
        await held.started()
        beside = calls.submit(-5)
        await held.started()
        waiting = calls.submit(6)
        held.end(-1)
        for entry in (*batch, beside, waiting):
            with pytest.raises(DeviceLost):
                await entry.future
        with pytest.raises(DeviceLost):
            calls.submit(7)
    assert held.runs == [[-1, 2, 3, 4], [-5]], (
        "neither halves of the batch nor the waiting call run"
    )
    assert [type(failure) for failure in calls.failures] == [DeviceLost]
