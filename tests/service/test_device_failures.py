"""Memory of a device with its own memory: reuse, exhaustion, and what failures release."""

import asyncio
import gc
import random
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import rope_core
from service.batching.batcher import Batcher
from service.batching.call_queue import FutureEntry
from service.batching.load_estimate import LoadEstimate
from service.device.rwlock import SharedExclusiveLock
from service.errors import DeviceFull, DeviceLost
from service.inference.engine import Engine
from service.observability.metrics import Metrics
from tests.service.engines import accelerator_engine, cpu_engine, equal, rotation, run
from tests.service.fake_driver import FakeDriver


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def engine(driver: FakeDriver) -> Engine:
    return accelerator_engine(driver)


async def run_batched(engine: Engine, calls: list, failures: list) -> list:
    """Submit calls to a batcher, and return their results or exceptions."""
    with ThreadPoolExecutor(2) as threads:
        batcher: Batcher = Batcher(
            engine.run,
            threads,
            max_inflight=engine.device.capabilities.max_inflight,
            inline_limit_s=engine.device.capabilities.inline_limit_s,
            stuck_s=30,
            on_failure=failures.append,
            max_batch_tokens=2**16,
            max_batch_bytes=2**26,
            max_queue_calls=2000,
            load=LoadEstimate(60),
            add_compute=lambda tenant, seconds: None,
            metrics=Metrics(),
        )
        now, loop = time.monotonic(), asyncio.get_running_loop()
        futures: list[asyncio.Future] = [loop.create_future() for _ in calls]
        for call, future in zip(calls, futures, strict=True):
            entry = FutureEntry(engine.job(call), now, now + 60, future, lambda _: None)
            batcher.enqueue(entry)
        return await asyncio.gather(*futures, return_exceptions=True)


def test_results_do_not_change_during_later_runs(engine):
    large = [rotation(900 + i, i) for i in range(4)]  # results in pinned memory
    small = [rotation(5, i) for i in range(4)]
    kept = [(call, run(engine, [call])[0]) for call in large + small]
    for i in range(20):
        run(engine, [rotation(1000, -i), rotation(3, -i)])
    for call, result in kept:
        assert equal(result, run(cpu_engine(), [call])[0])


def test_pinned_memory_is_reused(engine, driver):
    for length in (5, 600, 5, 700):
        run(engine, [rotation(length)])
    num_pins = driver.num_pins
    for i in range(30):
        run(engine, [rotation(500 + 7 * i)])
        run(engine, [rotation(i)])
    assert driver.num_pins == num_pins


def test_a_small_result_does_not_hold_the_buffer_of_its_run(engine, driver):
    results = [run(engine, [rotation(2, i)]) for i in range(50)]
    assert driver.num_pins == 2, "one buffer for inputs and one for results, of all runs"
    assert all(result.q.abs().max() <= 2 * i for i, (result,) in enumerate(results))


async def test_only_calls_that_are_too_large_for_the_memory_fail(engine, driver):
    def fault(step: str, num_bytes: int) -> None:
        if step == "allocate" and num_bytes > 3 * 2**20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 13.37 GiB")

    driver.fault = fault
    rng = random.Random(5)
    calls = [rotation(rng.choice([1600, *range(1, 60)]), i) for i in range(200)]
    is_large = [len(call.q[0]) == 1600 for call in calls]
    assert any(is_large)
    outcomes = await run_batched(engine, calls, [])
    for call, large, outcome in zip(calls, is_large, outcomes, strict=True):
        if large:
            assert isinstance(outcome, DeviceFull)
            assert "GiB" not in str(outcome)
        else:
            assert equal(outcome.result, run(cpu_engine(), [call])[0])
    assert driver.num_cache_clears >= sum(is_large)


def test_a_run_that_finds_no_memory_runs_again_after_the_other_run_has_ended(engine, driver):
    computing, refused, again = threading.Event(), threading.Event(), threading.Event()
    main_thread, overlaps = threading.get_ident(), []

    def fault(step: str, _: int) -> None:
        if threading.get_ident() != main_thread:
            if step == "compute":
                computing.set()
                assert refused.wait(10)
                overlaps.append(again.wait(0.05))
        elif step == "allocate" and refused.is_set():
            again.set()
        elif step == "allocate":
            refused.set()
            raise torch.OutOfMemoryError("CUDA out of memory")

    driver.fault = fault
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(run, engine, [rotation(5)])
        assert computing.wait(10)
        assert len(run(engine, [rotation(6)])) == 1
        assert len(first.result(10)) == 1
    assert overlaps == [False]
    assert again.is_set()


def test_the_exclusive_waiter_goes_before_new_shared_holders():
    lock, order = SharedExclusiveLock(), []

    def exclusive() -> None:
        with lock.exclusive():
            order.append("exclusive")

    def shared(entered: threading.Event) -> None:
        with lock.shared():
            entered.set()
            order.append("shared")

    with ThreadPoolExecutor(100) as threads:
        with lock.shared():
            waiters = [threads.submit(exclusive)]
            for _ in range(99):  # until the exclusive waiter waits, and holds newcomers up
                entered = threading.Event()
                waiters.append(threads.submit(shared, entered))
                if not entered.wait(0.05):
                    break
            assert "exclusive" not in order, "others still share the lock"
            order.clear()
        for waiter in waiters:
            waiter.result(10)
    assert order == ["exclusive", "shared"]


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, ValueError])
def test_a_failure_releases_the_tensors_of_its_run(engine, monkeypatch, kind):
    tensors = []

    def fail(*_):
        tensor = torch.zeros(1000)
        tensors.append(weakref.ref(tensor))
        raise kind("no")

    monkeypatch.setattr(rope_core.rotary, "run_rotate", fail)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises((DeviceFull, ValueError)) as failure:
            run(engine, [rotation(5)])
        assert [ref() for ref in tensors] == [None] * len(tensors)
        assert tensors
        assert failure.value.__context__ is None
    finally:
        gc.enable()


async def test_an_exception_of_one_call_is_not_a_failure_of_the_device(engine, monkeypatch):
    rotate = rope_core.rotary.run_rotate

    def fail_on_13(call, out, backend):
        if (call.q == 13).any():
            raise RuntimeError("CUDA error: but of no consequence")
        return rotate(call, out, backend)

    monkeypatch.setattr(rope_core.rotary, "run_rotate", fail_on_13)
    failures: list[Exception] = []
    outcomes = await run_batched(engine, [rotation(3, i) for i in range(10, 18)], failures)
    assert [isinstance(outcome, RuntimeError) for outcome in outcomes] == [i == 3 for i in range(8)]
    assert failures == []


@pytest.mark.parametrize("step", ["copy_to_device", "compute", "copy_to_host"])
async def test_a_lost_device_fails_all_later_calls(engine, driver, step):
    def fault(current_step: str, _: int) -> None:
        if current_step == step and driver.log.count(step) == 3:
            driver.lose()

    driver.fault = fault
    failures: list[Exception] = []
    calls = [rotation(600, i) for i in range(12)]  # each in a run of its own
    outcomes = await run_batched(engine, calls, failures)
    lost = [isinstance(outcome, DeviceLost) for outcome in outcomes]
    assert 1 <= lost.count(False) <= 3
    assert all(lost[4:])
    assert [type(failure) for failure in failures] == [DeviceLost]
    with pytest.raises(DeviceLost):
        run(engine, [rotation(1)])


async def test_a_host_without_memory_refuses_the_call_that_needs_it(monkeypatch):
    rotate = rope_core.rotary.run_rotate

    def allocate_for_13(call, out, backend):
        if (call.q == 13).any():
            torch.empty(2**60, dtype=torch.uint8)
        return rotate(call, out, backend)

    monkeypatch.setattr(rope_core.rotary, "run_rotate", allocate_for_13)
    outcomes = await run_batched(cpu_engine(), [rotation(3, i) for i in range(10, 18)], [])
    assert [isinstance(outcome, DeviceFull) for outcome in outcomes] == [i == 3 for i in range(8)]
