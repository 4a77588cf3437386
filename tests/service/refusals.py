"""Ways for a call to fail: what is done to a service so that a call is refused."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import torch

from tests.service.fake_driver import FakeDriver
from tests.service.outside import Outside
from tests.service.protocols import V1, Call, Form, Outcome, Pending, read_metrics

MODELS = ("v2", "grpc", "grpc stream")
"""Protocols that count what models do."""
FAILURES = "nv_inference_request_failure"
SMALL_BYTES = 8 * 2**10
"""More than a call of one token takes on the device, less than one of `POISON`."""
ONE_TOKEN, POISON = Call(), Call(tokens=32)
NEIGHBOUR = V1("application/x-safetensors")


class Stage:
    """A service, and the calls of one test to it."""

    def __init__(self, service: Outside, form: Form, driver: FakeDriver | None) -> None:
        self.service = service
        self.driver = driver
        self.counts_failures = form.protocol in MODELS
        self._form = form
        self._neighbours: list[Pending] = []

    def begin(self, call: Call, timeout_s: float | None = None) -> Pending:
        """Send the call that the test is about."""
        return self._form.begin(self.service, call, "call", timeout_s)

    def begin_neighbour(self, call: Call) -> None:
        """Send another call, over `/v1`."""
        name = f"neighbour-{len(self._neighbours)}"
        self._neighbours.append(NEIGHBOUR.begin(self.service, call, name))

    async def until(self, holds: Callable[[Mapping[str, float]], bool]) -> dict[str, float]:
        """Return the metrics as soon as `holds` is true of them."""
        async with asyncio.timeout(10):
            while not holds(metrics := await read_metrics(self.service)):  # noqa: ASYNC110
                await asyncio.sleep(0)
        return metrics

    async def until_waiting(self, count: int) -> None:
        """Return as soon as that many calls wait in the queue."""
        await self.until(lambda metrics: metrics["rope_queue_depth"] == count)

    async def end(self) -> list[Outcome]:
        """Let all calls run that can, and return what the neighbours got."""
        self.service.release()
        outcomes = [await item.outcome() for item in self._neighbours]
        await self.until(
            lambda metrics: metrics["rope_admitted_bytes"] == 0 and metrics["rope_queue_depth"] == 0
        )
        return outcomes


Act = Callable[[Stage], Awaitable[Outcome]]


async def ask(stage: Stage, call: Call, timeout_s: float | None = None) -> Outcome:
    return await stage.begin(call, timeout_s).outcome()


def simply(call: Call) -> Act:
    async def act(stage: Stage) -> Outcome:
        return await ask(stage, call)

    return act


async def wait_too_long_by_default(stage: Stage) -> Outcome:
    stage.service.hold()
    return await ask(stage, Call())


async def wait_too_long_for_the_client(stage: Stage) -> Outcome:
    stage.service.hold()
    return await ask(stage, Call(), 0.5)


async def queue_too_long(stage: Stage) -> Outcome:
    stage.service.hold()
    return await ask(stage, Call(queue_us=20_000))


async def find_the_queue_full(stage: Stage) -> Outcome:
    stage.service.hold()
    stage.begin_neighbour(Call())
    await stage.until_waiting(1)
    return await ask(stage, Call())


def find_the_memory_full(call: Call) -> Act:
    async def act(stage: Stage) -> Outcome:
        stage.service.hold()
        stage.begin_neighbour(Call(tokens=64))
        await stage.until_waiting(1)
        return await ask(stage, call)

    return act


async def leave_the_queue(stage: Stage) -> Outcome:
    stage.service.hold()
    pending = stage.begin(Call())
    await stage.until_waiting(1)
    return await leave(stage, pending)


async def leave(stage: Stage, pending: Pending) -> Outcome:
    """Leave, and return when the service has noticed that."""
    pending.leave()
    outcome = await pending.outcome()
    if stage.counts_failures:
        await stage.until(lambda metrics: grown({}, metrics, FAILURES).total() == 1)
    return outcome


async def leave_the_device(stage: Stage) -> Outcome:
    entered, resume = threading.Event(), threading.Event()

    def wait(step: str, _: int) -> None:
        if step == "compute":
            entered.set()
            resume.wait()

    stage.driver.fault = wait
    pending = stage.begin(Call())
    await asyncio.to_thread(entered.wait, 10)
    try:
        return await leave(stage, pending)
    finally:
        resume.set()


async def be_shut_down(stage: Stage) -> Outcome:
    stage.service.hold()
    pending = stage.begin(Call())
    await stage.until_waiting(1)
    stage.service.end_drain()
    return await pending.outcome()


async def come_too_late(stage: Stage) -> Outcome:
    stage.service.end_drain()
    return await ask(stage, Call())


def fail_large_calls(failure: Callable[[FakeDriver], None]) -> Act:
    """Return what sends a large call to a device where these fail."""

    async def act(stage: Stage) -> Outcome:
        stage.driver.fault = large_call_fault(stage.driver, failure)
        return await ask(stage, POISON)

    return act


def come_after(failure: Callable[[FakeDriver], None]) -> Act:
    """Return what sends a call to a device that has failed before."""

    async def act(stage: Stage) -> Outcome:
        stage.driver.fault = large_call_fault(stage.driver, failure)
        stage.begin_neighbour(POISON)
        await stage.until(lambda metrics: metrics["rope_ready"] == 0)
        return await ask(stage, Call())

    return act


async def get_stuck(stage: Stage) -> Outcome:
    resume = threading.Event()
    stage.driver.fault = lambda step, _: resume.wait() if step == "compute" else None
    try:
        return await ask(stage, Call())
    finally:
        resume.set()


def poison_a_run(failure: Callable[[FakeDriver], None]) -> Act:
    """Return what sends a call that fails, in a run with one that does not."""

    async def act(stage: Stage) -> Outcome:
        stage.driver.fault = large_call_fault(stage.driver, failure)
        stage.service.hold()
        stage.begin_neighbour(Call())
        await stage.until_waiting(1)
        pending = stage.begin(POISON)
        await stage.until_waiting(2)
        stage.service.release()
        return await pending.outcome()

    return act


def large_call_fault(
    driver: FakeDriver, failure: Callable[[FakeDriver], None]
) -> Callable[[str, int], None]:
    def fault(step: str, num_bytes: int) -> None:
        if step == "copy_to_device" and num_bytes > SMALL_BYTES:
            failure(driver)

    return fault


def run_out_of_memory(_: FakeDriver) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 13.37 GiB")


def break_down(_: FakeDriver) -> None:
    raise ValueError("a bug")


def grown(before: Mapping[str, float], after: Mapping[str, float], name: str) -> Counter[str]:
    """Return by how much the samples of a counter have grown, those that have not left out."""
    more: Counter[str] = Counter()
    for sample, value in after.items():
        if 'route="/metrics"' in sample:  # asked by the test itself
            continue
        if sample.partition("{")[0] == name and value != before.get(sample, 0):
            more[sample] = int(value - before.get(sample, 0))
    return more
