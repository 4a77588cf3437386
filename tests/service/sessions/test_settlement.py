"""An operation is settled where its run ends, whoever still waits: runs that a test holds."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from service.batching.admission import Admission, Charge
from service.batching.run import Completed
from service.errors import ClientLeft, DeviceFull, DeviceLost, ShuttingDown
from service.inference.handler import RequestContext
from service.sessions.errors import OperationTimedOut
from service.sessions.lifetime.turns import Turn, Turns
from service.sessions.running.runner import PlannedOperation, run_operation
from tests.service.fake_run import Call, HeldDoubler, Submitter, batching


@dataclass(frozen=True)
class Job(Call):
    wait_s: float = 0.0


class Operation:
    """An operation of one session that counts how it was settled."""

    def __init__(self, turns: Turns, *, changes: bool = True) -> None:
        self.settled: list[str] = []
        self.turn = Turn([turns])
        self.planned = PlannedOperation(
            self.turn,
            lambda: self.settled.append("committed"),
            lambda: self.settled.append("discarded"),
            changes=changes,
        )

    def start(
        self,
        batching: Submitter,
        *values: int,
        timeout_s: float = 60.0,
        left: asyncio.Event | None = None,
    ) -> asyncio.Task:
        context = RequestContext(
            time.monotonic() + timeout_s,
            Charge(Admission(2**20)),
            None if left is None else left.wait,
        )
        jobs = [Job(value) for value in values]
        return asyncio.create_task(run_operation(batching.batcher, jobs, self.planned, context))


@pytest.fixture
def device() -> HeldDoubler:
    return HeldDoubler(DeviceFull)


@pytest.fixture
async def batcher(device) -> AsyncIterator[Submitter]:
    async with batching(device) as batcher:
        yield batcher


@pytest.fixture
def turns() -> Turns:
    return Turns()


async def settle() -> None:
    """Let callbacks and tasks run that are ready."""
    for _ in range(5):
        await asyncio.sleep(0)


async def held(batcher, device, value: int = 9) -> None:
    """Keep the device busy with another call."""
    batcher.submit(value)
    await device.started()


async def test_a_run_that_ends_well_commits_before_the_answer(batcher, device, turns):
    operation = Operation(turns)
    task = operation.start(batcher, 1)
    await device.started()
    device.end(1)
    (completed,) = await task
    assert completed.result == 2
    assert operation.settled == ["committed"]
    assert not turns.is_busy


async def test_a_failed_run_discards(batcher, device, turns):
    operation = Operation(turns)
    task = operation.start(batcher, -1)
    await device.started()
    device.end(-1)
    with pytest.raises(DeviceFull):
        await task
    assert operation.settled == ["discarded"]
    assert not turns.is_busy


async def test_a_job_that_has_not_begun_gives_its_turn_back_at_its_deadline(batcher, device, turns):
    await held(batcher, device)
    operation = Operation(turns)
    with pytest.raises(OperationTimedOut) as failure:
        await operation.start(batcher, 1, timeout_s=0.01)
    assert failure.value.members == {"committed": False}
    assert operation.settled == ["discarded"]
    assert not turns.is_busy


async def test_a_job_that_has_begun_keeps_its_turn_after_its_deadline(batcher, device, turns):
    operation = Operation(turns)
    task = operation.start(batcher, 1, timeout_s=0.05)
    await device.started()
    with pytest.raises(OperationTimedOut) as failure:
        await task
    assert failure.value.members == {"committed": "unknown"}
    assert operation.settled == []
    assert turns.is_busy
    device.end(1)
    other = Turn([turns])
    await other.wait()
    assert operation.settled == ["committed"]


async def test_a_read_that_timed_out_has_committed_nothing(batcher, device, turns):
    operation = Operation(turns, changes=False)
    task = operation.start(batcher, 1, timeout_s=0.05)
    await device.started()
    with pytest.raises(OperationTimedOut) as failure:
        await task
    assert failure.value.members == {"committed": False}


async def test_a_client_that_leaves_in_the_queue_discards(batcher, device, turns):
    await held(batcher, device)
    left = asyncio.Event()
    operation = Operation(turns)
    task = operation.start(batcher, 1, left=left)
    await settle()
    left.set()
    with pytest.raises(ClientLeft):
        await task
    assert operation.settled == ["discarded"]
    assert not turns.is_busy


@pytest.mark.parametrize("how", ["left", "cancelled"])
async def test_a_client_that_leaves_during_the_run_does_not_stop_it(batcher, device, turns, how):
    left = asyncio.Event()
    operation = Operation(turns)
    task = operation.start(batcher, 1, left=left)
    await device.started()
    if how == "left":
        left.set()
        with pytest.raises(ClientLeft):
            await task
    else:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert operation.settled == []
    assert turns.is_busy
    device.end(1)
    await Turn([turns]).wait()
    assert operation.settled == ["committed"]


async def test_the_end_of_the_service_discards_what_waits_and_not_what_runs(batcher, device, turns):
    running, other = Operation(turns), Turns()
    waiting = Operation(other)
    first = running.start(batcher, 1)
    await device.started()
    second = waiting.start(batcher, 2)
    await settle()
    batcher.batcher.close()
    for task in (first, second):
        with pytest.raises(ShuttingDown):
            await task
    assert waiting.settled == ["discarded"]
    assert running.settled == []
    device.end(1)
    await Turn([turns]).wait()
    assert running.settled == ["committed"]


async def test_a_lost_device_discards(turns):
    device = HeldDoubler(DeviceLost)
    async with batching(device) as batcher:
        operation = Operation(turns)
        task = operation.start(batcher, -1)
        await device.started()
        device.end(-1)
        with pytest.raises(DeviceLost):
            await task
        assert operation.settled == ["discarded"]
        assert [type(failure) for failure in batcher.failures] == [DeviceLost]


async def test_pieces_commit_together(batcher, device, turns):
    operation = Operation(turns)
    task = operation.start(batcher, 1, 2)
    await device.started()
    device.end(1)
    await device.started()
    assert operation.settled == []
    device.end(2)
    assert [each.result for each in await task] == [2, 4]
    assert operation.settled == ["committed"]


async def test_a_failed_piece_discards_all(batcher, device, turns):
    operation = Operation(turns)
    task = operation.start(batcher, 1, -2)
    await device.started()
    device.end(1)
    await device.started()
    device.end(-2)
    with pytest.raises(DeviceFull):
        await task
    assert operation.settled == ["discarded"]
    assert not turns.is_busy


async def test_a_client_that_leaves_during_a_piece_ends_the_operation_with_it(
    batcher, device, turns
):
    operation = Operation(turns)
    task = operation.start(batcher, 1, 2)
    await device.started()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert operation.settled == []
    device.end(1)
    await Turn([turns]).wait()
    assert operation.settled == ["discarded"]
    assert device.runs == [[1]], "the second piece does not run"


async def test_a_cancellation_between_the_end_of_a_run_and_the_answer(batcher, device, turns):
    """The task is cancelled when the future of a piece has its result already."""
    operation = Operation(turns)
    task = operation.start(batcher, 1, 2)
    await device.started()
    [entry] = batcher.batcher._running[0]
    entry.resolve(Completed(2, 0.0, 0.0, 0.0, 1))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settle()
    assert operation.settled == ["discarded"]
    assert not turns.is_busy
