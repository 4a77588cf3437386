"""The batcher's promises, with integers for calls."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from service.batcher import Batcher, Run
from service.errors import ClientLeft, Overloaded, ShuttingDown, TimedOut
from service.metrics import Metrics


@dataclass(frozen=True)
class Call:
    value: int
    batch_key: str = "one"
    num_tokens: int = 1
    num_bytes: int = 1


class Device:
    """Doubles what it is given; fails on negative values; holds while `go` is not set."""

    def __init__(self) -> None:
        self.runs: list[list[int]] = []
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()

    def __call__(self, calls: Sequence[Call]) -> Run[int]:
        assert self.go.wait(10)
        self.threads.add(threading.current_thread().name)
        self.runs.append([call.value for call in calls])
        if any(call.value < 0 for call in calls):
            raise ValueError("negative")
        return Run([2 * call.value for call in calls], 0.0, 0.0)


class Asker:
    """Submits calls, and counts who was told to watch its client."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.watched: list[int] = []

    def entry(self, value: int, *, patience_s: float = 10.0, **call: object):
        return self.batcher.submit(
            Call(value, **call),
            time.monotonic() + patience_s,
            lambda entry: self.watched.append(entry.call.value),
        )

    async def ask(self, value: int, **more: object) -> int:
        return (await self.entry(value, **more).answer).result


@pytest.fixture
def device() -> Device:
    return Device()


@asynccontextmanager
async def batching(device: Device, *, quick: bool = False, **limits: int) -> AsyncIterator[Asker]:
    limits = {"max_batch_tokens": 64, "max_batch_bytes": 64, "max_queue_calls": 64, **limits}
    with ThreadPoolExecutor(1, thread_name_prefix="device") as thread:
        batcher = Batcher(device, thread, quick=lambda _: quick, metrics=Metrics(), **limits)
        try:
            yield Asker(batcher)
        finally:
            device.go.set()
            batcher.close()


async def test_an_idle_device_starts_at_once_and_a_busy_one_collects(device):
    async with batching(device) as asker:
        first = asyncio.create_task(asker.ask(1))
        device.go.clear()
        await asyncio.sleep(0.02)
        rest = [asyncio.create_task(asker.ask(i)) for i in range(2, 6)]
        await asyncio.sleep(0.02)
        device.go.set()
        assert await asyncio.gather(first, *rest) == [2, 4, 6, 8, 10]
    assert device.runs == [[1], [2, 3, 4, 5]]


async def test_quick_runs_stay_on_the_loop_and_long_ones_leave_it(device):
    async with batching(device, quick=True) as asker:
        assert await asyncio.gather(*(asker.ask(i) for i in range(3))) == [0, 2, 4]
        assert asker.watched == [], "nobody had to wait"
    assert device.runs == [[0, 1, 2]]
    assert device.threads == {threading.main_thread().name}
    async with batching(device) as asker:
        await asker.ask(1)
        assert asker.watched == [1]
    assert any(name.startswith("device") for name in device.threads)


async def test_only_calls_of_one_key_share_a_run_and_the_oldest_leads(device):
    async with batching(device, quick=True) as asker:
        keys = "abab"
        answers = await asyncio.gather(*(asker.ask(i, batch_key=key) for i, key in enumerate(keys)))
    assert answers == [0, 2, 4, 6]
    assert device.runs == [[0, 2], [1, 3]]


@pytest.mark.parametrize("budget", ["max_batch_tokens", "max_batch_bytes"])
async def test_a_batch_keeps_its_budget_and_a_larger_call_runs_alone(device, budget):
    unit = "num_tokens" if budget == "max_batch_tokens" else "num_bytes"
    async with batching(device, quick=True, **{budget: 4}) as asker:
        sizes = [3, 1, 2, 9, 2, 2]
        await asyncio.gather(*(asker.ask(i, **{unit: size}) for i, size in enumerate(sizes)))
    assert device.runs == [[0, 1], [2], [3], [4, 5]]


async def test_a_failed_run_fails_the_culprit_alone(device):
    async with batching(device, quick=True) as asker:
        values = [1, 2, -3, 4, 5]
        answers = await asyncio.gather(*map(asker.ask, values), return_exceptions=True)
    assert answers[:2] + answers[3:] == [2, 4, 8, 10]
    assert isinstance(answers[2], ValueError)


async def test_a_full_queue_refuses(device):
    device.go.clear()
    async with batching(device, max_queue_calls=2) as asker:
        running = asyncio.create_task(asker.ask(0))
        await asyncio.sleep(0.02)
        waiting = [asyncio.create_task(asker.ask(i)) for i in (1, 2)]
        await asyncio.sleep(0.02)
        assert (asker.batcher.num_waiting, asker.batcher.waiting_bytes) == (2, 2)
        with pytest.raises(Overloaded):
            asker.entry(3)
        device.go.set()
        assert await asyncio.gather(running, *waiting) == [0, 2, 4]


async def test_a_client_that_leaves_is_taken_from_the_queue_and_not_run(device):
    device.go.clear()
    async with batching(device) as asker:
        running = asker.entry(1)
        await asyncio.sleep(0.02)
        gone, stays = asker.entry(10), asker.entry(11)
        assert asker.watched == [1, 10, 11]
        asker.batcher.withdraw(gone, ClientLeft())
        assert asker.batcher.num_waiting == 1
        with pytest.raises(ClientLeft):
            await gone.answer
        device.go.set()
        assert (await running.answer).result == 2
        assert (await stays.answer).result == 22
    assert device.runs == [[1], [11]]


async def test_a_deadline_is_kept_in_the_queue_and_on_the_device(device):
    device.go.clear()
    async with batching(device) as asker:
        running = asker.entry(1, patience_s=0.05)
        await asyncio.sleep(0.02)
        waiting = asker.entry(2, patience_s=0.05)
        for entry in (running, waiting):
            with pytest.raises(TimedOut):
                await entry.answer
        assert asker.batcher.num_waiting == 0
    assert device.runs == [[1]], "the one that waited was never run"


async def test_a_call_that_is_late_when_its_turn_comes_is_not_run(device):
    async with batching(device, quick=True) as asker:
        late = asker.entry(1, patience_s=-1)
        in_time = asker.entry(2)
        with pytest.raises(TimedOut):
            await late.answer
        assert (await in_time.answer).result == 4
    assert device.runs == [[2]]


async def test_closing_answers_whoever_waits_and_takes_no_more(device):
    device.go.clear()
    async with batching(device) as asker:
        running = asker.entry(1)
        await asyncio.sleep(0.02)
        waiting = asker.entry(2)
        asker.batcher.close()
        for entry in (running, waiting):
            with pytest.raises(ShuttingDown):
                await entry.answer
        with pytest.raises(ShuttingDown):
            asker.entry(9)


async def test_every_call_is_answered_once_under_random_traffic(device):
    async with batching(device, max_batch_tokens=5) as asker:
        answers = await asyncio.gather(
            *(asker.ask(i, batch_key="abc"[i % 3], num_tokens=1 + i % 4) for i in range(60))
        )
    assert answers == [2 * i for i in range(60)]
    assert sorted(value for run in device.runs for value in run) == list(range(60))
