"""The load estimate on a simulated clock: outstanding work, and the measured speed."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.load_estimate import CALL_S, FEW_CALLS, LoadEstimate
from service.errors import Overloaded

FAR = 1e9


@dataclass(frozen=True)
class Call:
    seconds: float = 0.01
    kind: str = "one"


def fill(load: LoadEstimate, num_calls: int, now: float = 0.0, call: Call | None = None) -> Call:
    """Add waiting calls; return one of them."""
    call = call or Call()
    for _ in range(num_calls):
        load.add(call, now, FAR)
    return call


def run(load: LoadEstimate, call: Call, num_calls: int, now: float, took_s: float) -> float:
    """Run waiting calls; return the time at which they end."""
    started = load.start([call] * num_calls, now, now)
    load.end(started, now + took_s)
    return now + took_s


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "start", "end", "extend", "clear"]),
            st.sampled_from([Call(1e-6), Call(0.01), Call(2.0, "two")]),
            st.floats(0, 1),
        )
    )
)
def test_the_work_is_that_of_all_calls_that_wait_or_run(events):
    """The sums stay exact for any sequence of events."""
    load, now = LoadEstimate(FAR), 0.0
    waiting: list[Call] = []
    running = []
    for what, call, passed_s in events:
        now += passed_s
        if what == "add":
            load.add(call, now, FAR)
            waiting.append(call)
        elif what == "remove" and call in waiting:
            load.remove(call)
            waiting.remove(call)
        elif what == "start" and call in waiting:
            running.append(load.start([call], now, now))
            waiting.remove(call)
        elif what == "end" and running:
            load.end(running.pop(0), now)
        elif what == "extend" and running:
            load.extend(running[0])
        elif what == "clear":
            load.clear()
            waiting.clear()
        expected_s = sum(map(load.expected_s, waiting))
        in_full_s = expected_s + sum(one.expected_s for one in running)
        assert load.num_waiting == len(waiting)
        if what in ("remove", "end", "extend", "clear"):  # sums at the newest speed
            assert load.outstanding_s == pytest.approx(in_full_s)
        assert load.wait_s(now) <= load.outstanding_s + 1e-9
        if not waiting and not running:
            assert load.outstanding_s == load.wait_s(now) == 0


def test_the_rest_of_a_run_counts_and_a_late_run_is_expected_to_last_longer():
    load = LoadEstimate(FAR)
    call = fill(load, 2, call=Call(1.0))
    started = load.start([call], 0.0, 0.0)
    own_s = 1.0 + CALL_S
    assert load.wait_s(0.25) == pytest.approx(2 * own_s - 0.25)
    load.extend(started)
    assert load.wait_s(1.5) == pytest.approx(3 * own_s - 1.5)
    assert load.outstanding_s == pytest.approx(3 * own_s)


def test_ten_times_slower_runs_let_fewer_calls_wait_within_few_runs_and_it_recovers():
    """Z17: accepted calls meet their deadlines although the estimates have become wrong."""
    load, now, call = LoadEstimate(FAR), 0.0, Call()

    def accepted(deadline_s: float) -> int:
        """Return how many calls are accepted, and remove them."""
        num = 0
        try:
            while True:
                load.add(call, now, now + deadline_s)
                num += 1
        except Overloaded:
            pass
        for _ in range(num):
            load.remove(call)
        return num

    for _ in range(20):
        fill(load, 4, now)
        now = run(load, call, 4, now, 4 * 0.01)
    usual = accepted(10.0)
    for _ in range(8):
        fill(load, 4, now)
        now = run(load, call, 4, now, 4 * 0.1)
    slow = accepted(10.0)
    assert usual / 12 <= slow <= usual / 6
    assert (slow + 1) * 0.1 <= 10.0, "the last one ends before its deadline"
    for _ in range(30):
        fill(load, 4, now)
        now = run(load, call, 4, now, 4 * 0.01)
    assert accepted(10.0) == pytest.approx(usual, rel=0.2)


def test_one_run_that_takes_very_long_does_not_change_much():
    load, call, now = LoadEstimate(FAR), Call(), 0.0
    for took_s in (*[0.01] * 20, 100.0):
        fill(load, 1, now)
        now = run(load, call, 1, now, took_s)
    assert load.expected_s(call) < 2 * 0.01


def test_idle_time_is_not_measured_and_the_time_between_runs_is():
    load, call, now = LoadEstimate(FAR), Call(), 0.0
    for _ in range(40):
        now += 60  # nothing to do
        fill(load, 1, now)
        now = run(load, call, 1, now, 0.01)
    assert load.expected_s(call) == pytest.approx(0.01, rel=0.05)
    for _ in range(40):
        started = load.start([fill(load, 1, now)], now, now + 0.005)  # the loop was busy
        load.end(started, now := now + 0.015)
    assert load.expected_s(call) == pytest.approx(0.015, rel=0.05)


def test_kinds_have_their_own_speeds():
    load, now = LoadEstimate(FAR), 0.0
    slow, right = Call(0.01, "slow"), Call(0.01, "right")
    for _ in range(40):
        for call, took_s in ((slow, 0.05), (right, 0.01)):
            fill(load, 1, now, call)
            now = run(load, call, 1, now, took_s)
    assert load.expected_s(slow) == pytest.approx(0.05, rel=0.1)
    assert load.expected_s(right) == pytest.approx(0.01, rel=0.1)


def test_a_call_is_refused_for_its_deadline_or_the_limit_with_a_retry_after():
    load = LoadEstimate(max_queue_s=2.0)
    call = fill(load, 200)
    with pytest.raises(Overloaded, match=r"predicted wait of 2.0 s .* limit of 2 s") as refused:
        load.check(0.0, FAR, call)
    assert refused.value.retry_after_s == 3
    with pytest.raises(Overloaded, match="deadline of the request"):
        load.add(call, 0.0, 3.0)
    assert load.num_waiting == 200
    load.clear()
    load.check(0.0, 3.0, call)


def test_nothing_is_refused_while_nothing_waits_and_few_long_calls_are_no_overload():
    load = LoadEstimate(max_queue_s=2.0)
    long = Call(2.0)
    load.add(long, 0.0, 0.001)  # its own time is over its deadline: estimates may be wrong
    load.start([long], 0.0, 0.0)
    for _ in range(FEW_CALLS):
        load.add(long, 0.0, 30.0)
    with pytest.raises(Overloaded):
        load.add(long, 0.0, 30.0)
