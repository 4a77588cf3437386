"""The batcher's promises, with integers for calls."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from service.batching.batcher import Batcher, Run
from service.errors import (
    ClientLeft,
    DeviceLost,
    DeviceStuck,
    Expired,
    Overloaded,
    ShuttingDown,
    TimedOut,
)
from service.observability.metrics import Metrics


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

    def let_go(self) -> None:
        self.go.set()


class Asker:
    """Submits calls, and counts who was told to watch its client."""

    def __init__(self, batcher: Batcher, failures: list[Exception]) -> None:
        self.batcher = batcher
        self.failures = failures
        self.watched: list[int] = []

    def entry(self, value: int, *, watchdog_timeout_s: float = 10.0, **call: object):
        return self.batcher.submit(
            Call(value, **call),
            time.monotonic() + watchdog_timeout_s,
            lambda entry: self.watched.append(entry.call.value),
        )

    async def ask(self, value: int, **more: object) -> int:
        return (await self.entry(value, **more).future).result


@pytest.fixture
def device() -> Device:
    return Device()


@asynccontextmanager
async def batching(
    device: "Device | Gates",
    *,
    inline: bool = False,
    max_inflight: int = 1,
    watchdog_timeout_s: float | None = 60,
    **limits: int,
) -> AsyncIterator[Asker]:
    limits = {"max_batch_tokens": 64, "max_batch_bytes": 64, "max_queue_calls": 64, **limits}
    failures: list[Exception] = []
    with ThreadPoolExecutor(max_inflight, thread_name_prefix="device") as threads:
        batcher = Batcher(
            device,
            threads,
            max_inflight=max_inflight,
            inline=lambda _: inline,
            watchdog_timeout_s=lambda _: watchdog_timeout_s,
            on_failure=failures.append,
            metrics=Metrics(),
            **limits,
        )
        try:
            yield Asker(batcher, failures)
        finally:
            device.let_go()
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
    async with batching(device, inline=True) as asker:
        assert await asyncio.gather(*(asker.ask(i) for i in range(3))) == [0, 2, 4]
        assert asker.watched == [], "nobody had to wait"
    assert device.runs == [[0, 1, 2]]
    assert device.threads == {threading.main_thread().name}
    async with batching(device) as asker:
        await asker.ask(1)
        assert asker.watched == [1]
    assert any(name.startswith("device") for name in device.threads)


async def test_only_calls_of_one_key_share_a_run_and_the_oldest_leads(device):
    async with batching(device, inline=True) as asker:
        keys = "abab"
        answers = await asyncio.gather(*(asker.ask(i, batch_key=key) for i, key in enumerate(keys)))
    assert answers == [0, 2, 4, 6]
    assert device.runs == [[0, 2], [1, 3]]


@pytest.mark.parametrize("budget", ["max_batch_tokens", "max_batch_bytes"])
async def test_a_batch_keeps_its_budget_and_a_larger_call_runs_alone(device, budget):
    unit = "num_tokens" if budget == "max_batch_tokens" else "num_bytes"
    async with batching(device, inline=True, **{budget: 4}) as asker:
        sizes = [3, 1, 2, 9, 2, 2]
        await asyncio.gather(*(asker.ask(i, **{unit: size}) for i, size in enumerate(sizes)))
    assert device.runs == [[0, 1], [2], [3], [4, 5]]


async def test_a_failed_run_fails_the_culprit_alone(device):
    async with batching(device, inline=True) as asker:
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
        assert [call.num_bytes for call in asker.batcher.waiting] == [1, 1]
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
        assert len(asker.batcher.waiting) == 1
        with pytest.raises(ClientLeft):
            await gone.future
        device.go.set()
        assert (await running.future).result == 2
        assert (await stays.future).result == 22
    assert device.runs == [[1], [11]]


async def test_a_call_expires_in_the_queue_and_not_on_the_device(device):
    device.go.clear()
    async with batching(device) as asker:
        running = asker.entry(1)
        await asyncio.sleep(0.02)
        waiting = asker.entry(2)
        for entry in (running, waiting):
            asker.batcher.expire(entry)
        with pytest.raises(Expired):
            await waiting.future
        device.go.set()
        answer = await running.future
        assert (answer.result, answer.num_calls) == (2, 1)
    assert device.runs == [[1]]


async def test_a_deadline_is_kept_in_the_queue_and_on_the_device(device):
    device.go.clear()
    async with batching(device) as asker:
        running = asker.entry(1, watchdog_timeout_s=0.05)
        await asyncio.sleep(0.02)
        waiting = asker.entry(2, watchdog_timeout_s=0.05)
        for entry in (running, waiting):
            with pytest.raises(TimedOut):
                await entry.future
        assert not asker.batcher.waiting
    assert device.runs == [[1]], "the one that waited was never run"


async def test_a_call_that_is_late_when_its_turn_comes_is_not_run(device):
    async with batching(device, inline=True) as asker:
        late = asker.entry(1, watchdog_timeout_s=-1)
        in_time = asker.entry(2)
        with pytest.raises(TimedOut):
            await late.future
        assert (await in_time.future).result == 4
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
                await entry.future
        with pytest.raises(ShuttingDown):
            asker.entry(9)


async def test_every_call_is_answered_once_under_random_traffic(device):
    async with batching(device, max_batch_tokens=5) as asker:
        answers = await asyncio.gather(
            *(asker.ask(i, batch_key="abc"[i % 3], num_tokens=1 + i % 4) for i in range(60))
        )
    assert answers == [2 * i for i in range(60)]
    assert sorted(value for run in device.runs for value in run) == list(range(60))


class Gates:
    """Runs that begin when they like, and end when they are told; a negative value is poison."""

    def __init__(self, kind: type[Exception] = ValueError) -> None:
        self.begun: list[int] = []
        self.kind = kind
        self._go: dict[int, threading.Event] = {}
        self._seen = threading.Semaphore(0)

    def __call__(self, calls: Sequence[Call]) -> Run[int]:
        first = calls[0].value
        self._go[first] = threading.Event()
        self.begun.append(first)
        self._seen.release()
        assert self._go[first].wait(10)
        if any(call.value < 0 for call in calls):
            raise self.kind
        return Run([2 * call.value for call in calls], 0.0, 0.0)

    async def beginning(self) -> int:
        """Wait until one more run has begun, and return its first call."""
        assert await asyncio.to_thread(self._seen.acquire, timeout=10)
        return self.begun[-1]

    def end(self, first: int) -> None:
        self._go[first].set()

    def let_go(self) -> None:
        for each in [*self._go.values()]:
            each.set()


async def test_with_two_lanes_the_next_batch_goes_while_one_runs_and_the_rest_collects():
    gates = Gates()
    async with batching(gates, max_inflight=2) as asker:
        first = asker.entry(1)
        assert await gates.beginning() == 1
        second = asker.entry(2)
        assert await gates.beginning() == 2
        rest = [asker.entry(value) for value in (3, 4, 5)]
        gates.end(2)
        assert (await second.future).result == 4
        assert not first.future.done(), "the first may come last"
        assert await gates.beginning() == 3
        gates.end(3)
        assert [(await entry.future).result for entry in rest] == [6, 8, 10]
        gates.end(1)
        assert (await first.future).result == 2
    assert gates.begun == [1, 2, 3]


async def test_every_call_is_answered_once_under_random_traffic_in_two_lanes(device):
    async with batching(device, max_inflight=2, max_batch_tokens=5) as asker:
        values = [i if i % 7 else -i - 1 for i in range(60)]
        answers = await asyncio.gather(
            *(asker.ask(v, batch_key="abc"[v % 3], num_tokens=1 + v % 4) for v in values),
            return_exceptions=True,
        )
    for value, answer in zip(values, answers, strict=True):
        assert isinstance(answer, ValueError) if value < 0 else answer == 2 * value


async def test_closing_answers_who_is_in_either_lane():
    gates = Gates()
    async with batching(gates, max_inflight=2) as asker:
        entries = []
        for value in (1, 2, 3):
            entries.append(asker.entry(value))
            if value < 3:
                await gates.beginning()
        asker.batcher.close()
        for entry in entries:
            with pytest.raises(ShuttingDown):
                await entry.future
        gates.end(1)
        gates.end(2)


async def test_a_run_that_does_not_come_back_ends_all():
    gates = Gates()
    async with batching(gates, max_inflight=2, watchdog_timeout_s=0.2) as asker:
        stuck, beside = asker.entry(1), asker.entry(2, batch_key="two")
        for _ in range(2):
            await gates.beginning()
        waiting = asker.entry(3)
        for entry in (stuck, beside, waiting):
            with pytest.raises(DeviceStuck):
                await entry.future
        with pytest.raises(DeviceStuck):
            asker.entry(4)
        gates.end(1)
        gates.end(2)
        asker.batcher.close()
        with pytest.raises(DeviceStuck):
            asker.entry(5)
    assert [type(failure) for failure in asker.failures] == [DeviceStuck]
    assert sorted(gates.begun) == [1, 2], "nothing more is run"


async def test_a_device_that_fails_again_and_again_is_not_stuck():
    class Full(Device):
        def __call__(self, calls):
            time.sleep(0.04)
            if len(calls) > 1:
                raise MemoryError
            return super().__call__(calls)

    async with batching(Full(), watchdog_timeout_s=0.2) as asker:
        entries = [asker.entry(value) for value in range(16)]  # 31 runs
        assert [(await entry.future).result for entry in entries] == [*range(0, 32, 2)]
    assert asker.failures == []


async def test_what_one_lane_does_is_a_sign_of_life_for_the_other():
    gates = Gates()
    async with batching(gates, max_inflight=2, watchdog_timeout_s=0.3) as asker:
        waiting = asker.entry(1)
        await gates.beginning()
        for value in range(2, 6):
            beside = asker.entry(value)
            await gates.beginning()
            await asyncio.sleep(0.15)
            gates.end(value)
            assert (await beside.future).result == 2 * value
        gates.end(1)
        assert (await waiting.future).result == 2
    assert asker.failures == []


async def test_a_device_that_nobody_watches_over_may_take_as_long_as_it_does():
    gates = Gates()
    async with batching(gates, watchdog_timeout_s=None) as asker:
        entry = asker.entry(1)
        await gates.beginning()
        gates.end(1)
        assert (await entry.future).result == 2


async def test_a_large_call_of_another_key_does_not_end_a_batch(device):
    async with batching(device) as asker:
        first = asyncio.create_task(asker.ask(1))
        device.go.clear()
        await asyncio.sleep(0.02)
        calls = [(2, "one", 1), (3, "two", 999), (4, "one", 1)]
        rest = [asker.entry(v, batch_key=key, num_tokens=tokens) for v, key, tokens in calls]
        device.go.set()
        assert [await first, *[(await entry.future).result for entry in rest]] == [2, 4, 6, 8]
    assert device.runs == [[1], [2, 4], [3]]


async def test_a_run_that_is_long_within_its_patience_is_awaited():
    gates = Gates()
    async with batching(gates, watchdog_timeout_s=5) as asker:
        entry = asker.entry(1)
        await gates.beginning()
        await asyncio.sleep(0.05)
        gates.end(1)
        assert (await entry.future).result == 2
        assert asker.failures == []


async def test_a_lost_device_is_not_asked_again():
    gates = Gates(DeviceLost)
    async with batching(gates) as asker:
        together = [asker.entry(value) for value in (-1, 2, 3, 4)]
        assert await gates.beginning() == -1
        waiting = asker.entry(5)
        gates.end(-1)
        for entry in (*together, waiting):
            with pytest.raises(DeviceLost):
                await entry.future
    assert gates.begun == [-1], "no halves of it, nor what waited"
    assert [type(failure) for failure in asker.failures] == [DeviceLost]


async def test_what_is_held_waits_and_goes_when_it_is_released(device):
    async with batching(device, inline=True) as asker:
        asker.batcher.hold()
        late, stays = asker.entry(1, watchdog_timeout_s=0.05), asker.entry(2)
        with pytest.raises(TimedOut):
            await late.future
        assert device.runs == []
        asker.batcher.release()
        assert (await stays.future).result == 4
