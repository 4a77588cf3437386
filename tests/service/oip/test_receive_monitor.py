"""Messages that are being received: the newest are refused when memory is short."""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from types import SimpleNamespace

import grpc
import pytest

from service.batching.admission import Admission, Charge
from service.errors import Overloaded, TimedOut
from service.lifecycle import Lifecycle
from service.oip.grpc.core_server import CoreServer
from service.oip.grpc.receive_monitor import (
    MAX_INTERVAL_S,
    OVERDUE_S,
    TRIM_AFTER_S,
    ReceiveMonitor,
    ReceiveTimeouts,
)
from service.oip.grpc.rpc import Rpc, SendTimeout
from service.resident_memory import SLACK_BYTES, ResidentLimit
from tests.free_ports import free_port
from tests.service.oip.conftest import run_grpc
from tests.service.oip.test_grpc_life import CODE, INFER, code_of, echo
from tests.waiting import wait_until, wait_until_async

MIB = 2**20
BUDGET = 100 * MIB


class Memory:
    """Simulated resident memory."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num_trims = 0
        self.limit = ResidentLimit(BUDGET, lambda: self.num_bytes, self._trim)

    def _trim(self) -> None:
        self.num_trims += 1

    def exceed(self) -> None:
        self.num_bytes = BUDGET + SLACK_BYTES + 1


class Case:
    """A `ReceiveMonitor` with a simulated clock."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.now = 1000.0
        timeouts = ReceiveTimeouts(default=30, longest=300, stream=600)
        self.monitor = ReceiveMonitor(self.memory.limit, timeouts, lambda: self.now)

    def begin(self, is_stream: bool = False, deadline: float = math.inf) -> Rpc:
        details = SimpleNamespace(deadline=deadline)
        event = SimpleNamespace(call=None, call_details=details, invocation_metadata=())
        rpc = Rpc(event, is_stream, SendTimeout(10, 2**16, 60))
        rpc.receiving_since = self.now
        self.monitor.add(rpc, lambda _: None)
        return rpc

    def refused_after(self, seconds: float) -> list[Rpc]:
        self.now += seconds
        return [rpc for rpc, _, _ in self.monitor.check()]


@pytest.fixture
def case() -> Case:
    return Case()


def test_without_messages_nothing_is_checked(case):
    assert case.monitor.seconds_to_check() is None
    rpc = case.begin()
    assert case.monitor.seconds_to_check() is not None
    assert case.monitor.remove(rpc)
    assert case.monitor.seconds_to_check() is None


def test_above_the_limit_the_oldest_quarter_goes_on(case):
    rpcs = [case.begin() for _ in range(8)]
    assert case.refused_after(2 * OVERDUE_S) == []
    case.memory.exceed()
    new = case.begin()
    assert case.refused_after(OVERDUE_S / 2) == [], "no check is due"
    assert case.refused_after(1) == [*rpcs[3:], new], "the oldest quarter goes on"
    assert case.memory.num_trims == 1, "free memory is returned before anything is refused"
    assert not case.monitor.remove(new)
    assert case.refused_after(1) == rpcs[1:3]
    assert case.refused_after(1) == [], "one that is alone is never refused"
    assert case.monitor.remove(rpcs[0])


def test_short_messages_are_never_refused(case):
    case.memory.exceed()
    assert [case.begin() for _ in range(8)]
    assert case.refused_after(OVERDUE_S / 2) == []


def test_memory_returns_to_the_system_after_the_last_long_message(case):
    rpc = case.begin()
    case.refused_after(1)
    case.monitor.remove(rpc)
    assert case.monitor.seconds_to_check() is not None
    assert case.memory.num_trims == 0
    case.refused_after(TRIM_AFTER_S + 1)
    assert case.memory.num_trims == 1
    assert case.monitor.seconds_to_check() is None


def test_a_message_after_a_pause_is_checked_as_soon_as_any_other(case):
    rpc = case.begin()
    case.refused_after(1)
    case.monitor.remove(rpc)
    case.refused_after(MAX_INTERVAL_S)
    case.begin()
    assert case.monitor.seconds_to_check() <= OVERDUE_S


def test_a_wait_ends_when_an_rpc_is_added_and_when_the_monitor_stops(case):
    with ThreadPoolExecutor(1) as thread:
        wait = thread.submit(case.monitor.wait)
        wait_until(lambda: case.monitor._is_idle)
        assert not wait.done(), "no RPC is watched"
        case.monitor.remove(case.begin())
        assert wait.result(10)
        wait = thread.submit(case.monitor.wait)
        case.monitor.stop()
        assert not wait.result(10)
        assert not case.monitor.wait()


def test_a_message_has_a_time_limit(case):
    usual, stream = case.begin(), case.begin(is_stream=True)
    waiting = case.begin(is_stream=True)
    waiting.receiving_since = None  # its last request is being answered
    assert case.refused_after(29) == []
    assert case.refused_after(2) == [usual]
    assert case.refused_after(570) == [stream]
    failures = [failure for _, _, failure in case.monitor.check()]
    assert failures == []


def test_the_errors_of_refused_rpcs(case):
    case.begin(), case.begin()
    case.memory.exceed()
    case.now += 1
    (refused,) = case.monitor.check()
    assert isinstance(refused.failure, Overloaded)
    case.now += 30
    (late,) = case.monitor.check()
    assert isinstance(late.failure, TimedOut)


async def test_a_refused_client_gets_its_status_at_once():
    """The core has a part of each message, and all messages are incomplete."""
    memory = Memory()
    forever = asyncio.Event()

    async def nothing():
        await forever.wait()
        yield b""

    async with run_grpc(Lifecycle(), {"ModelInfer": echo}, memory.limit) as running:
        calls = [running.channel.stream_unary(INFER)(nothing()) for _ in range(4)]
        memory.exceed()
        codes = [asyncio.create_task(code_of(call)) for call in calls]

        async def all_but_one_are_done() -> bool:
            return sum(code.done() for code in codes) == 3

        await wait_until_async(all_but_one_are_done)
        assert {code.result() for code in codes if code.done()} == {CODE.UNAVAILABLE}
        assert await running.ask("ModelInfer", b"x") == b"x"

        async def are_counted() -> bool:
            counted = f'rope_requests_total{{route="{INFER}",status="UNAVAILABLE"}} 3.0'
            return counted in running.metrics.render().decode()

        await wait_until_async(are_counted)
        assert sum(code.done() for code in codes) == 3, "one that is alone is never refused"
        for call in calls:
            call.cancel()
        forever.set()
        await asyncio.gather(*codes, return_exceptions=True)


class HeldAuthorizer:
    """Holds the thread of the core at an RPC that has metadata `hold`."""

    def __init__(self) -> None:
        self.is_holding, self.release = Event(), Event()

    def is_cached(self, rpc: Rpc) -> bool:
        if dict(rpc.metadata).get("hold"):
            self.is_holding.set()
            self.release.wait(30)
        return True

    def authorize(self, path: str, rpc: Rpc) -> bool:
        return True


async def test_rpcs_are_refused_while_the_thread_of_the_core_is_busy(case):
    forever = asyncio.Event()

    async def nothing():
        await forever.wait()
        yield b""

    failures: list[object] = []
    authorizer = HeldAuthorizer()
    monitor = ReceiveMonitor(case.memory.limit, ReceiveTimeouts(30, 300, 600))
    unary = {INFER: lambda rpc, request: failures.append(request)}
    server = CoreServer((), authorizer, unary, {}, monitor, SendTimeout(10, 2**16, 60))
    port = free_port()
    server.listen(f"127.0.0.1:{port}")
    server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        method = channel.stream_unary(INFER)
        calls = [method(nothing()) for _ in range(4)]
        await asyncio.to_thread(wait_until, lambda: len(monitor._rpcs) == 4)
        calls.append(method(nothing(), metadata=(("hold", "yes"),)))
        await asyncio.to_thread(wait_until, lambda: authorizer.is_holding.is_set())
        case.memory.exceed()
        await asyncio.to_thread(wait_until, lambda: len(failures) == 3)
        assert not authorizer.release.is_set()
        assert all(isinstance(failure, Overloaded) for failure in failures)
        authorizer.release.set()
        for call in calls:
            call.cancel()
        forever.set()
        await asyncio.gather(*map(code_of, calls), return_exceptions=True)
    server.stop()
    server.cancel_all()
    await server.wait_until_stopped()


def test_memory_is_left_for_the_copies_of_a_complete_message(case):
    rpcs = [case.begin() for _ in range(4)]
    case.memory.num_bytes = (BUDGET + SLACK_BYTES) * 2 // 3 - MIB  # a quarter of it twice fits
    assert case.refused_after(2 * OVERDUE_S) == []
    case.memory.num_bytes += 2 * MIB
    assert case.refused_after(1) == rpcs[1:]


def test_memory_of_answers_is_expected_until_they_are_written(case):
    """Messages and answers share the resident memory, whichever comes first."""
    limit = case.memory.limit
    admission = Admission(BUDGET)
    first, second = (Charge(admission, resident_limit=limit) for _ in range(2))
    first.add(30 * MIB, is_resident=True)
    second.add(30 * MIB, is_resident=True)
    case.memory.num_bytes = BUDGET + SLACK_BYTES - 30 * MIB  # other messages arrive
    with pytest.raises(Overloaded):
        first.add(30 * MIB + 1)
    first.release()
    case.memory.num_bytes -= 30 * MIB
    second.add(40 * MIB)
    assert limit.bytes_left() == 20 * MIB
    second.settle()
    assert limit.bytes_left() == 60 * MIB
    second.release()
    assert (limit.expected_bytes, admission.charged_bytes) == (0, 0)
