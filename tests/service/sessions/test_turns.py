"""Turns: order, several sessions at once, cancellation, and turns that outlive their request."""

import asyncio
import random

import pytest

from service.sessions.lifetime.turns import Turn, Turns


def runs_without_a_loop(coroutine):
    """Run a coroutine that must not wait; return its value."""
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value


async def hold(name, turns, log, release=None):
    async with Turn(turns):
        log.append(name)
        if release is not None:
            await release.wait()


def test_nothing_is_awaited_when_idle():
    turns = Turns()
    for _ in range(3):
        runs_without_a_loop(hold("a", [turns], []))
    assert not turns.is_busy


def test_a_turn_by_hand():
    turns = Turns()
    first, second = Turn([turns]), Turn([turns])
    assert first.is_held
    assert not second.is_held
    first.release()
    first.release()
    assert not first.is_held
    assert second.is_held
    runs_without_a_loop(second.wait())
    second.release()
    assert not turns.is_busy


async def test_operations_run_in_the_order_of_their_arrival():
    turns, log, release = Turns(), [], asyncio.Event()
    tasks = [asyncio.create_task(hold(i, [turns], log, release)) for i in range(10)]
    await asyncio.sleep(0)
    assert log == [0]
    release.set()
    await asyncio.gather(*tasks)
    assert log == [*range(10)]
    assert not turns.is_busy


async def test_who_comes_while_others_wait_does_not_overtake():
    turns, log = Turns(), []
    first = Turn([turns])
    task = asyncio.create_task(hold("waiting", [turns], log))
    await asyncio.sleep(0)
    first.release()  # the waiting one has the turn now, and has not run yet
    assert not Turn([turns]).is_held
    await task
    assert log == ["waiting"]


async def test_several_sessions_without_deadlock():
    """A place in all queues is taken at once."""
    a, b, c = Turns(), Turns(), Turns()
    log = []
    tasks = [
        asyncio.create_task(hold(queues, queues, log))
        for queues in ([a, b], [b, a], [b, c], [c, a], [a], [c, b, a])
    ]
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert len(log) == 6
    assert not any(turns.is_busy for turns in (a, b, c))


async def test_one_session_twice_counts_once():
    turns = Turns()
    runs_without_a_loop(hold("a", [turns, turns], []))
    assert not turns.is_busy


def test_no_sessions():
    runs_without_a_loop(hold("a", [], []))


async def test_a_turn_waits_for_all_of_its_sessions():
    a, b = Turns(), Turns()
    of_a, of_b, both = Turn([a]), Turn([b]), Turn([a, b])
    task = asyncio.create_task(both.wait())
    await asyncio.sleep(0)
    of_a.release()
    await asyncio.sleep(0)
    assert not task.done()
    of_b.release()
    await task
    assert both.is_held


@pytest.mark.parametrize("at", ["before it waits", "waiting", "granted", "running"])
async def test_a_cancelled_operation_gives_its_places_back(at):
    a, b, log, release = Turns(), Turns(), [], asyncio.Event()
    first = Turn([a])
    task = asyncio.create_task(hold("cancelled", [b, a], log, release))
    behind = None
    if at != "before it waits":
        await asyncio.sleep(0)
        behind = asyncio.create_task(hold("behind", [b], log))
        await asyncio.sleep(0)
    if at == "granted":
        first.release()
    if at == "running":
        first.release()
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    first.release()
    if behind is not None:
        await asyncio.wait_for(behind, 5)
    assert not any(turns.is_busy for turns in (a, b))
    assert log == (["cancelled"] if at == "running" else []) + (["behind"] if behind else [])


async def test_a_turn_that_is_kept_outlives_its_request():
    turns, log = Turns(), []

    async def request() -> Turn:
        async with Turn([turns]) as turn:
            turn.keep()
            asyncio.current_task().cancel()
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                return turn

    turn = await asyncio.create_task(request())
    behind = asyncio.create_task(hold("behind", [turns], log))
    await asyncio.sleep(0)
    assert turn.is_held
    assert not log
    turn.release()  # as the callback of the run
    await behind
    assert log == ["behind"]


async def test_a_wait_ends_when_its_turn_is_released_elsewhere():
    turns = Turns()
    first, second = Turn([turns]), Turn([turns])
    task = asyncio.create_task(second.wait())
    await asyncio.sleep(0)
    second.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    first.release()
    assert not turns.is_busy


def test_on_idle_is_called_after_the_last_operation():
    calls = []
    turns = Turns(lambda: calls.append(turns.is_busy))
    first, second, third = (Turn([turns]) for _ in range(3))
    for turn in (second, first, third):
        assert not calls
        turn.release()
    assert calls == [False]


def test_a_turn_that_renews_nothing_tells_so_when_it_is_the_last():
    renewals = []
    turns = Turns(lambda: renewals.append(turns.last_renews))
    Turn([turns]).release()
    Turn([turns], renews=False).release()
    quiet, use = Turn([turns], renews=False), Turn([turns])
    quiet.release()
    use.release()
    assert renewals == [True, False, True]


def test_a_turn_that_is_handed_over_keeps_its_places():
    turns, others = Turns(), Turns()
    first, second = Turn([turns, others]), Turn([turns])
    other = first.hand_over()
    first.release()
    assert other.is_held
    assert not first.is_held
    assert not second.is_held
    other.release()
    assert second.is_held
    assert not others.is_busy


@pytest.mark.parametrize("seed", range(20))
async def test_random_operations_and_cancellations(seed):
    """At most one operation of a session runs; all end; the order of each session is kept."""
    rng = random.Random(seed)
    queues = [Turns() for _ in range(4)]
    running, started = set(), {turns: [] for turns in queues}

    async def operation(number, mine):
        async with Turn(mine):
            for turns in mine:
                assert turns not in running
                started[turns].append(number)
            running.update(mine)
            try:
                for _ in range(rng.randrange(3)):
                    await asyncio.sleep(0)
            finally:
                running.difference_update(mine)

    tasks = []
    for number in range(60):
        mine = rng.sample(queues, rng.randint(1, 4))
        tasks.append(asyncio.create_task(operation(number, mine)))
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
        if rng.random() < 0.4:
            rng.choice(tasks).cancel()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert not any(isinstance(t.exception(), AssertionError) for t in tasks if not t.cancelled())
    assert not any(turns.is_busy for turns in queues)
    for numbers in started.values():
        assert numbers == sorted(numbers)
