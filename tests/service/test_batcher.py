"""Which calls share a run, which wait, and when a waiting call fails."""

import asyncio
import gc
import threading
import time
import weakref

import pytest

from service.batching.call_queue import FutureEntry
from service.errors import ClientLeft, Expired, Overloaded, ShuttingDown, TimedOut
from tests.service.fake_run import (
    COMPUTE_S,
    COPY_S,
    Call,
    Doubler,
    HeldDoubler,
    LoopClock,
    batching,
)


@pytest.fixture
def run() -> Doubler:
    return Doubler()


@pytest.fixture
def held() -> HeldDoubler:
    return HeldDoubler()


@pytest.fixture
async def clock() -> LoopClock:
    return LoopClock()


async def test_an_idle_device_starts_at_once_and_calls_wait_for_a_busy_one(held):
    async with batching(held) as calls:
        first = calls.submit(1)
        await held.started()
        rest = [calls.submit(value) for value in range(2, 6)]
        held.release()
        assert [(await entry.future).result for entry in (first, *rest)] == [2, 4, 6, 8, 10]
    assert held.runs == [[1], [2, 3, 4, 5]]


async def test_short_runs_stay_on_the_event_loop_and_long_ones_leave_it(run):
    async with batching(run, inline=True) as calls:
        assert await asyncio.gather(*(calls.result(i) for i in range(3))) == [0, 2, 4]
        assert calls.notified == []
    assert run.runs == [[0, 1, 2]]
    assert run.threads == {threading.main_thread().name}
    run.threads.clear()
    async with batching(run) as calls:
        await calls.result(1)
        assert calls.notified == [1]
    assert [name.partition("_")[0] for name in run.threads] == ["device"]


async def test_calls_of_one_key_share_a_run_and_the_oldest_call_goes_first(run):
    async with batching(run, inline=True) as calls:
        results = (calls.result(i, batch_key=key) for i, key in enumerate("abab"))
        assert await asyncio.gather(*results) == [0, 2, 4, 6]
    assert run.runs == [[0, 2], [1, 3]]


async def test_calls_run_in_the_order_in_which_their_headers_arrived(run):
    """Their bodies were complete in another order."""
    loop, now = asyncio.get_running_loop(), time.monotonic()
    entries = [
        FutureEntry(Call(value, key), now - value, now + 60, loop.create_future(), print)
        for value, key in ((2, "one"), (1, "two"), (5, "one"), (3, "two"), (4, "one"))
    ]
    async with batching(run, inline=True) as calls:
        for entry in entries:
            calls.batcher.enqueue(entry)
        await asyncio.gather(*(entry.future for entry in entries))
    assert run.runs == [[5, 4, 2], [3, 1]]


async def test_short_runs_end_before_they_hold_up_the_event_loop(run):
    async with batching(run, inline_limit_s=0.035) as calls:
        results = [asyncio.create_task(calls.result(i, seconds=0.01)) for i in range(7)]
        turns = []
        while not all(result.done() for result in results):
            await asyncio.sleep(0)
            turns.append(len(run.runs))
        assert [result.result() for result in results] == [0, 2, 4, 6, 8, 10, 12]
        assert calls.notified == []
    assert run.runs == [[0, 1, 2], [3, 4, 5], [6]]
    assert run.threads == {threading.main_thread().name}
    assert {1, 2} <= set(turns), "the loop turns between the runs"


async def test_a_long_call_shares_its_thread_with_short_ones_behind_it(run):
    async with batching(run, inline_limit_s=0.035) as calls:
        seconds = [0.01, 0.05, 0.01, 0.03]
        await asyncio.gather(*(calls.result(i, seconds=s) for i, s in enumerate(seconds)))
    assert run.runs == [[0], [1, 2, 3]]
    assert len(run.threads) == 2


async def test_calls_left_out_of_a_batch_keep_their_order(run):
    async with batching(run, inline=True, max_batch_tokens=2) as calls:
        await asyncio.gather(*(calls.result(i, batch_key=key) for i, key in enumerate("abbaac")))
    assert run.runs == [[0, 3], [1, 2], [4], [5]]


@pytest.mark.parametrize("limit", ["max_batch_tokens", "max_batch_bytes"])
async def test_a_batch_has_limits_and_a_larger_call_runs_alone(run, limit):
    unit = limit.replace("max_batch", "num")
    async with batching(run, inline=True, **{limit: 4}) as calls:
        sizes = [3, 1, 2, 9, 2, 2]
        await asyncio.gather(*(calls.result(i, **{unit: size}) for i, size in enumerate(sizes)))
    assert run.runs == [[0, 1], [2], [3], [4, 5]]


async def test_a_large_call_of_another_key_does_not_end_a_batch(run):
    async with batching(run, inline=True) as calls:
        sizes = [(2, "one", 1), (3, "two", 999), (4, "one", 1)]
        results = (calls.result(v, batch_key=key, num_tokens=n) for v, key, n in sizes)
        assert await asyncio.gather(*results) == [4, 6, 8]
    assert run.runs == [[2, 4], [3]]


async def test_calls_left_out_of_the_first_batch_wait_with_a_deadline(held, clock):
    async with batching(held) as calls:
        running, left_out = calls.submit(1, timeout_s=60), calls.submit(2, batch_key="two")
        await held.started()
        assert calls.notified == [1, 2]
        await clock.advance(11)
        with pytest.raises(TimedOut):
            await left_out.future
        held.release()
        assert (await running.future).result == 2
    assert held.runs == [[1]]


async def test_each_call_reports_its_wait_and_the_times_of_its_run(run):
    async with batching(run, inline=True) as calls:
        calls.batcher.pause()
        submitted = time.monotonic()
        entries = [calls.submit(value, num_tokens=3) for value in (1, 2)]
        calls.batcher.resume()
        completed = [await entry.future for entry in entries]
        elapsed = time.monotonic() - submitted
        metrics = calls.batcher.metrics.render().decode()
    assert all(0 < one.queue_s < elapsed for one in completed)
    assert {(one.copy_s, one.compute_s, one.num_calls) for one in completed} == {
        (COPY_S, COMPUTE_S, 2)
    }
    for line in (
        "rope_queue_wait_seconds_count 2.0",
        f"rope_copy_seconds_sum {COPY_S}",
        f"rope_compute_seconds_sum {COMPUTE_S}",
        "rope_batch_requests_sum 2.0",
        "rope_batch_tokens_sum 6.0",
    ):
        assert line in metrics


async def test_a_completed_call_is_not_kept_until_its_deadline(run):
    async with batching(run, inline=True) as calls:
        calls.batcher.pause()
        entry = calls.submit(1, timeout_s=1000)
        calls.batcher.resume()
        assert (await entry.future).result == 2
        call = weakref.ref(entry.call)
        del entry
        gc.collect()
        assert call() is None


async def test_a_full_queue_refuses_calls(held):
    async with batching(held, max_queue_calls=2) as calls:
        running = calls.submit(0)
        await held.started()
        waiting = [calls.submit(value) for value in (1, 2)]
        assert [call.value for call in calls.batcher.waiting] == [1, 2]
        with pytest.raises(Overloaded, match="2 calls are waiting"):
            calls.submit(3)
        held.release()
        assert [(await entry.future).result for entry in (running, *waiting)] == [0, 2, 4]


async def test_a_withdrawn_call_leaves_the_queue_and_does_not_run(held):
    async with batching(held) as calls:
        running = calls.submit(1)
        await held.started()
        withdrawn, stays = calls.submit(10), calls.submit(11)
        assert calls.notified == [1, 10, 11]
        calls.batcher.withdraw(withdrawn, ClientLeft())
        assert [call.value for call in calls.batcher.waiting] == [11]
        with pytest.raises(ClientLeft):
            await withdrawn.future
        held.release()
        assert (await running.future).result == 2
        assert (await stays.future).result == 22
    assert held.runs == [[1], [11]]


async def test_a_withdrawn_call_on_the_device_fails_and_its_neighbour_does_not(held):
    async with batching(held) as calls:
        withdrawn, neighbour = calls.submit(1), calls.submit(2)
        await held.started()
        calls.batcher.withdraw(withdrawn, ClientLeft())
        with pytest.raises(ClientLeft):
            await withdrawn.future
        held.release()
        assert (await neighbour.future).result == 4
    assert held.runs == [[1, 2]]


async def test_a_call_expires_in_the_queue_and_not_on_the_device(held):
    async with batching(held) as calls:
        running = calls.submit(1)
        await held.started()
        waiting = calls.submit(2)
        for entry in (running, waiting):
            calls.batcher.expire(entry)
        with pytest.raises(Expired):
            await waiting.future
        held.release()
        completed = await running.future
        assert (completed.result, completed.num_calls) == (2, 1)
    assert held.runs == [[1]]


async def test_the_deadline_passes_in_the_queue_and_on_the_device(held, clock):
    async with batching(held) as calls:
        running = calls.submit(1, timeout_s=60)
        await held.started()
        waiting = calls.submit(2, timeout_s=60)
        await clock.advance(30)
        assert not running.future.done()
        assert not waiting.future.done()
        await clock.advance(31)
        for entry in (running, waiting):
            with pytest.raises(TimedOut):
                await entry.future
        assert not calls.batcher.waiting
    assert held.runs == [[1]], "the waiting call did not run"


async def test_a_call_past_its_deadline_does_not_run(run):
    async with batching(run, inline=True) as calls:
        late, in_time = calls.submit(1, timeout_s=-1), calls.submit(2)
        with pytest.raises(TimedOut):
            await late.future
        assert (await in_time.future).result == 4
    assert run.runs == [[2]]


async def test_a_paused_batcher_runs_nothing_until_it_resumes(run, clock):
    async with batching(run, inline=True) as calls:
        calls.batcher.pause()
        late, stays = calls.submit(1, timeout_s=5), calls.submit(2)
        assert calls.notified == [1, 2]
        await clock.advance(6)
        with pytest.raises(TimedOut):
            await late.future
        assert run.runs == []
        calls.batcher.resume()
        assert (await stays.future).result == 4
    assert run.runs == [[2]]


@pytest.mark.parametrize("max_inflight", [1, 2])
async def test_closing_fails_calls_in_the_queue_and_on_the_device(held, max_inflight):
    async with batching(held, max_inflight=max_inflight) as calls:
        entries = []
        for value in range(max_inflight):
            entries.append(calls.submit(value))
            await held.started()
        entries.append(calls.submit(9))
        calls.batcher.close()
        for entry in entries:
            with pytest.raises(ShuttingDown):
                await entry.future
        with pytest.raises(ShuttingDown):
            calls.submit(10)
    assert held.runs == [[value] for value in range(max_inflight)]


async def test_two_runs_are_in_flight_and_further_calls_wait(held):
    async with batching(held, max_inflight=2) as calls:
        first = calls.submit(1)
        await held.started()
        second = calls.submit(2)
        await held.started()
        rest = [calls.submit(value) for value in (3, 4, 5)]
        held.end(2)
        assert (await second.future).result == 4
        assert not first.future.done(), "the first run may end last"
        await held.started()
        held.end(3)
        assert [(await entry.future).result for entry in rest] == [6, 8, 10]
        held.end(1)
        assert (await first.future).result == 2
    assert held.runs == [[1], [2], [3, 4, 5]]


@pytest.mark.parametrize("max_inflight", [1, 2])
async def test_each_call_gets_its_own_result_under_random_traffic(run, max_inflight):
    values = [i if i % 7 else -i - 1 for i in range(60)]
    async with batching(run, max_inflight=max_inflight, max_batch_tokens=5) as calls:
        results = await asyncio.gather(
            *(calls.result(v, batch_key="abc"[v % 3], num_tokens=1 + v % 4) for v in values),
            return_exceptions=True,
        )
    for value, result in zip(values, results, strict=True):
        assert isinstance(result, ValueError) if value < 0 else result == 2 * value
    good = [value for batch in run.runs if min(batch) >= 0 for value in batch]
    assert sorted(good) == sorted(value for value in values if value >= 0), "each succeeds once"


async def test_an_outcome_that_cannot_be_delivered_harms_no_other_call(run, monkeypatch):
    async with batching(run, inline=True) as calls:
        broken, beside = calls.submit(1), calls.submit(2)
        resolve = FutureEntry.resolve

        def fail_once(entry, outcome):
            if entry is broken:
                raise ValueError("a failure of the entry")
            resolve(entry, outcome)

        monkeypatch.setattr(FutureEntry, "resolve", fail_once)
        assert (await beside.future).result == 4
        monkeypatch.undo()
        broken.future.cancel()


async def test_the_wait_begins_in_the_queue_and_not_with_the_header(run):
    async with batching(run, inline=True) as calls:
        entry = calls.submit(1)
        entry.arrived -= 60
        assert (await entry.future).queue_s < 30


async def test_a_call_is_refused_whose_predicted_wait_is_too_long(held):
    async with batching(held, max_queue_s=0.5) as calls:
        running = calls.submit(0)
        await held.started()
        waiting = [calls.submit(value, seconds=0.07, timeout_s=60) for value in range(1, 9)]
        with pytest.raises(Overloaded, match="predicted wait"):
            calls.submit(9, timeout_s=60)
        with pytest.raises(Overloaded, match="predicted wait"):
            calls.batcher.check(time.monotonic() + 60)
        calls.batcher.withdraw(waiting.pop(), ClientLeft())
        waiting.append(calls.submit(9, timeout_s=60))
        held.release()
        assert [(await entry.future).result for entry in (running, *waiting)] == [
            *(2 * value for value in range(8)),
            18,
        ]
        calls.batcher.check(time.monotonic() + 0.001)
        assert calls.batcher.load.outstanding_s == 0


async def test_no_call_begins_that_would_end_after_its_deadline(run):
    """The oldest has time, the next one has none, and the last would make the first late."""
    loop, now = asyncio.get_running_loop(), time.monotonic()
    first, hopeless, slow = (
        FutureEntry(Call(value, seconds=s), now + value, now + left_s, loop.create_future(), print)
        for value, s, left_s in ((1, 10, 60), (2, 10, 15), (3, 55, 300))
    )
    async with batching(run, inline=True) as calls:
        for entry in (hopeless, first, slow):
            calls.batcher.enqueue(entry)
        with pytest.raises(TimedOut):
            await hopeless.future
        assert [(await entry.future).result for entry in (first, slow)] == [2, 6]
        assert "rope_late_calls_total 0.0" in calls.batcher.metrics.render().decode()
    assert run.runs == [[1], [3]]


async def test_a_single_call_runs_even_if_it_is_expected_to_be_late(run):
    """The estimate may be wrong, and nothing else tells."""
    async with batching(run, inline=True) as calls:
        assert await calls.result(1, seconds=100) == 2


async def test_calls_that_end_after_their_deadline_are_counted(held):
    async with batching(held) as calls:
        late, in_time = calls.submit(1, timeout_s=60), calls.submit(2, timeout_s=60)
        await held.started()
        late.deadline = time.monotonic()
        held.release()
        await in_time.future
        assert "rope_late_calls_total 1.0" in calls.batcher.metrics.render().decode()


async def test_a_run_that_does_not_end_is_expected_to_take_longer(held, clock):
    async with batching(held) as calls:
        calls.submit(1, timeout_s=600)
        await held.started()
        before = calls.batcher.load.outstanding_s
        for _ in range(20):
            await clock.advance(0.1)
        assert calls.batcher.load.outstanding_s > 1 > before
        held.release()
