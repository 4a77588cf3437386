"""Requests of the worker: one at a time, with deadlines, within the limits of all requests."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest
import torch

from service.batching.admission import Charge
from service.batching.load_estimate import FEW_CALLS
from service.endpoints.table import ENDPOINTS
from service.errors import ClientLeft, Overloaded, ShuttingDown, TimedOut, TooLarge
from service.inference.handler import InferenceHandler, RequestContext
from service.lifecycle import Lifecycle
from service.oip.state import OipState
from service.server import bootstrap
from service.settings import Settings
from service.wire import Message, Parameters, json_codec
from service.worker import queue
from service.worker.frames import ABANDONED
from tests.waiting import wait_until_async

DIAGNOSE, ROTATE = (
    next(endpoint for endpoint in ENDPOINTS if endpoint.path == path)
    for path in ("/v1/diagnose", "/v1/rotate")
)


class FakeProcess:
    """Answers a request when the test lets it, or when the request is abandoned."""

    def __init__(self, *_: object) -> None:
        self.begun: list[int] = []
        self.abandoned: list[int] = []
        self.num_stops = 0
        self.answer_size = 4
        self.heeds_abandon = True
        self.may_answer = threading.Semaphore(0)
        self.has_started = threading.Event()
        self.has_started.set()
        self._is_killed = False

    def start(self):
        self.has_started.wait()

    def answer(self, path, message, number):
        self.begun.append(number)
        self.may_answer.acquire()
        if self._is_killed:
            raise Overloaded("killed")
        if number in self.abandoned:
            return {"outcome": ABANDONED}, Message({})
        answer = Message({"expected": torch.zeros(self.answer_size)}, Parameters.of({"n": number}))
        return {"outcome": "answer", "seconds": 0.25}, answer

    def abandon(self, number):
        self.abandoned.append(number)
        if self.heeds_abandon:
            self.may_answer.release()

    def kill(self, *, for_good=False):
        self._is_killed = True
        self.may_answer.release()

    def stop(self):
        self.num_stops += 1


@pytest.fixture
async def handler(monkeypatch) -> AsyncIterator[InferenceHandler]:
    monkeypatch.setattr(bootstrap, "WorkerProcess", FakeProcess)
    lifecycle = Lifecycle()
    limits = {"max_body_bytes": 2**20, "max_json_bytes": 2**16, "memory_budget_bytes": 2**20}
    settings = Settings(device="cpu", log_level="error", max_queue_calls=32, **limits)
    handler, device_threads = bootstrap.build_service(settings, lifecycle)
    async with bootstrap.lifespan(OipState(handler, lifecycle), device_threads):
        yield handler


@pytest.fixture
def process(handler) -> FakeProcess:
    return handler.worker_queue._process


def context_of(handler, timeout_s=60.0, **options) -> RequestContext:
    return RequestContext(time.monotonic() + timeout_s, Charge(handler.admission), **options)


def diagnose(handler, context=None, size=4, memory_factor=1):
    message = Message({"before": torch.zeros(size), "after": torch.zeros(size)})
    context = context or context_of(handler)
    return asyncio.create_task(handler.infer(DIAGNOSE, message, context, memory_factor))


async def begun(process, number):
    async def has_begun():
        return len(process.begun) >= number

    await wait_until_async(has_begun)


async def test_calls_run_one_at_a_time_and_rotations_do_not_wait(handler, process):
    tasks = [diagnose(handler) for _ in range(3)]
    await begun(process, 1)
    rotated = await handler.infer(
        ROTATE, Message({"q": torch.ones(1, 3, 2, 8)}), context_of(handler), 1
    )
    assert rotated.message.tensors["q"].shape == (1, 3, 2, 8)
    assert process.begun == [1]
    for number, task in enumerate(tasks, 1):
        process.may_answer.release()
        served = await task
        assert served.message.params.values == {"n": number}
        assert served.completed.compute_s == 0.25
        assert served.completed.queue_s >= 0
    assert process.begun == [1, 2, 3]
    assert process.abandoned == []


async def test_at_the_deadline_the_computation_is_stopped(handler, process):
    late = diagnose(handler, context_of(handler, 0.05))
    with pytest.raises(TimedOut):
        await late
    assert process.abandoned == process.begun
    process.may_answer.release()
    assert (await diagnose(handler)).message.params.values == {"n": len(process.begun)}


async def test_a_computation_that_does_not_stop_is_killed(handler, process, monkeypatch):
    monkeypatch.setattr(queue, "GRACE_S", 0.0)
    process.heeds_abandon = False
    task = diagnose(handler)
    await begun(process, 1)
    task.cancel()

    async def is_killed():
        return process._is_killed

    await wait_until_async(is_killed)


async def test_a_start_goes_on_when_its_client_leaves(handler, process, monkeypatch):
    monkeypatch.setattr(queue, "GRACE_S", 0.0)
    process.has_started.clear()
    with pytest.raises(TimedOut):
        await diagnose(handler, context_of(handler, 0.05))
    next_call = diagnose(handler)
    await asyncio.sleep(0)
    process.has_started.set()
    process.may_answer.release()
    assert (await next_call).message.params.values == {"n": 1}
    assert (process._is_killed, process.abandoned) == (False, [])


async def test_a_client_that_leaves_stops_its_computation(handler, process):
    left = asyncio.Event()

    async def disconnected():
        await left.wait()

    leaving = diagnose(handler, context_of(handler, disconnected=disconnected))
    waiting = diagnose(handler, context_of(handler, disconnected=disconnected))
    await begun(process, 1)
    left.set()
    for task in (leaving, waiting):
        with pytest.raises(ClientLeft):
            await task
    assert process.abandoned == [1]
    process.may_answer.release()
    assert (await diagnose(handler)).message.params.values == {"n": 2}, "the second was not begun"


async def test_many_calls_are_refused_by_their_predicted_wait(handler, process):
    tasks = [diagnose(handler)]
    await begun(process, 1)
    tasks += [diagnose(handler) for _ in range(20)]
    await asyncio.sleep(0)
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 20 - FEW_CALLS
    for task in refused:
        with pytest.raises(Overloaded, match="predicted wait"):
            await task
    with pytest.raises(Overloaded, match="predicted wait"):
        handler.worker_queue.batcher.check(time.monotonic() + 60, context_of(handler).tenant)
    assert not handler.batcher.load.num_waiting
    for _ in tasks:
        process.may_answer.release()
    answered = await asyncio.gather(*tasks, return_exceptions=True)
    assert len([each for each in answered if not isinstance(each, Exception)]) == len(process.begun)


async def test_a_call_is_charged_for_its_copies(handler, process):
    context = context_of(handler)
    task = diagnose(handler, context, size=2**14)
    await begun(process, 1)
    num_bytes = 2 * 4 * 2**14
    assert handler.admission.charged_bytes == 3 * num_bytes
    with pytest.raises(Overloaded, match="ROPE_MEMORY_BUDGET_BYTES"):
        await diagnose(handler, size=2**15)
    process.may_answer.release()
    await task
    context.charge.release()
    assert handler.admission.charged_bytes == 0


async def test_an_answer_has_the_limit_of_all_answers(handler, process):
    process.answer_size = 2**15
    process.may_answer.release()
    assert (await diagnose(handler)).num_bytes == 2**17
    process.may_answer.release()
    with pytest.raises(TooLarge, match="an answer in JSON"):
        await diagnose(handler, memory_factor=json_codec.answer_memory_factor)


async def test_an_idle_process_is_stopped(handler, process, monkeypatch):
    process.may_answer.release()
    await diagnose(handler)
    assert process.num_stops == 0
    monkeypatch.setattr(queue, "IDLE_S", 0.0)
    process.may_answer.release()
    await diagnose(handler)

    async def has_stopped():
        return process.num_stops == 1

    await wait_until_async(has_stopped)


async def test_the_end_answers_all_calls(handler, process):
    tasks = [diagnose(handler) for _ in range(3)]
    await begun(process, 1)
    handler.worker_queue.close()
    for task in tasks:
        with pytest.raises(ShuttingDown):
            await task
    with pytest.raises(ShuttingDown):
        await diagnose(handler)
