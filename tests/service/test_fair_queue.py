"""Fair queueing: properties that hold for any calls of any tenants."""

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.access.tenant import Tenant
from service.batching.fair_queue import BURST_S, FairQueue

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5}
TENANTS = {name: Tenant(name, weight=weight) for name, weight in WEIGHTS.items()}
A, B = TENANTS["a"], TENANTS["b"]


@dataclass(eq=False)
class Call:
    """A call, and its place in the queue."""

    arrived: float
    tenant: Tenant
    seconds: float
    key: int = 0

    @property
    def call(self) -> "Call":
        return self


def calls(names: str = "abc") -> st.SearchStrategy[Call]:
    return st.builds(
        Call,
        arrived=st.integers(0, 50).map(float),
        tenant=st.sampled_from([TENANTS[name] for name in names]),
        seconds=st.integers(1, 100).map(lambda n: n / 64),  # sums are exact
        key=st.integers(0, 2),
    )


def serve(order: FairQueue[Call]) -> Call:
    """Run the next call alone."""
    first = next(order.in_order())
    order.serve([first])
    return first


def batch(order: FairQueue[Call], limit: int) -> list[Call]:
    """Run a batch: the first call, and later ones with its key."""
    waiting = [*order.in_order()]
    same = [call for call in waiting if call.key == waiting[0].key][:limit]
    order.serve(same)
    return same


@settings(max_examples=40)
@given(st.lists(calls("a") | st.none(), max_size=40))
def test_calls_of_one_tenant_run_by_arrival_of_their_headers(steps: Sequence[Call | None]):
    order, expected = FairQueue[Call](), list[Call]()
    for call in steps:
        if call is not None:
            order.insert(call)
            insort(expected, call, key=attrgetter("arrived"))
        elif expected:
            assert serve(order) is expected.pop(0)
        assert [*order.in_order()] == [*order] == expected


@settings(max_examples=40)
@given(st.lists(calls() | st.integers(0, 5), max_size=60), st.randoms(use_true_random=False))
def test_each_call_runs_once_and_those_of_a_tenant_in_order(
    steps: Sequence[Call | int], random: Random
):
    """Calls arrive, are withdrawn and run in batches. Within a tenant only a call with the key of
    the batch may overtake an earlier call."""
    order, waiting = FairQueue[Call](), list[Call]()
    for step in steps:
        if isinstance(step, Call):
            order.insert(step)
            waiting.append(step)
        elif not waiting:
            assert [*order.in_order()] == []
            order.serve([])
        elif step:
            for call in batch(order, step):
                earlier = [w for w in waiting if w.tenant is call.tenant]
                assert all(w.arrived >= call.arrived for w in earlier if w.key == call.key)
                waiting.remove(call)
        else:
            call = waiting.pop(random.randrange(len(waiting)))
            assert call in order
            order.remove(call)
            assert call not in order
            order.remove(call)
        assert {*map(id, order.in_order())} == {*map(id, order)} == {*map(id, waiting)}
        assert order.num_calls == len(waiting)
        for name in WEIGHTS:
            arrivals = [c.arrived for c in order.in_order() if c.tenant.name == name]
            assert arrivals == sorted(arrivals)


@settings(max_examples=40)
@given(st.lists(calls("ab"), min_size=20, max_size=60), st.integers(1, 8))
def test_tenants_with_a_backlog_share_the_device_by_weight(backlog: Sequence[Call], limit: int):
    order = FairQueue[Call]()
    left = {name: [call for call in backlog if call.tenant.name == name] for name in "ab"}
    assume(all(left.values()))
    for call in backlog:
        order.insert(call)
    largest = {name: max(call.seconds for call in calls) for name, calls in left.items()}
    served = dict.fromkeys("ab", 0.0)
    # each tenant is ahead or behind by its calls of one batch, and by its burst
    bound = sum(limit * largest[name] / WEIGHTS[name] for name in "ab") + BURST_S
    while all(left.values()):
        for call in batch(order, limit):
            left[call.tenant.name].remove(call)
            served[call.tenant.name] += call.seconds / WEIGHTS[call.tenant.name]
        assert abs(served["a"] - served["b"]) <= bound


def backlog(tenant: Tenant, seconds: float, number: int) -> Iterator[Call]:
    return (Call(arrived, tenant, seconds) for arrived in range(number))


def test_a_call_of_a_tenant_below_its_share_runs_next():
    order = FairQueue[Call]()
    for call in backlog(A, 0.01, 1000):
        order.insert(call)
    for _ in range(500):
        assert serve(order).tenant is A
    call = Call(2000, B, 3.0)
    order.insert(call)
    assert serve(order) is call


@settings(max_examples=40)
@given(st.integers(1, 300))
def test_a_tenant_that_had_the_device_alone_is_delayed_by_one_burst_at_most(num_alone: int):
    order = FairQueue[Call]()
    for call in backlog(A, 0.125, num_alone + 4):
        order.insert(call)
    for _ in range(num_alone):
        serve(order)
    for call in backlog(B, 0.125, 1000):
        order.insert(call)
    delay = 0.0
    while (call := serve(order)).tenant is B:
        delay += call.seconds
    assert delay <= BURST_S + 2 * 0.125 * WEIGHTS["b"]


def test_no_tenant_gets_more_by_pauses():
    """One tenant always has waiting calls; the other tenant pauses again and again."""
    order, always, paused = FairQueue[Call](), Tenant("always"), Tenant("paused")
    served = {"always": 0.0, "paused": 0.0}
    arrivals = count()
    for step in range(2000):
        if all(call.tenant is paused for call in order):
            order.insert(Call(next(arrivals), always, 0.0625))
        if step % 40 == 0:
            for _ in range(30):
                order.insert(Call(next(arrivals), paused, 0.0625))
        call = serve(order)
        served[call.tenant.name] += call.seconds
    assert served["paused"] <= served["always"] + BURST_S + 0.0625


def test_a_tenant_with_long_calls_has_no_more_than_its_share():
    """The tenant sends its next call when its last call has run."""
    order, long, short = FairQueue[Call](), Tenant("long"), Tenant("short")
    served = {"long": 0.0, "short": 0.0}
    arrivals = count()
    for _ in range(3000):
        tenants = [call.tenant for call in order]
        for tenant, seconds in ((long, 1.0), (short, 0.0078125)):
            if tenant not in tenants or (tenant is short and len(tenants) < 4):
                order.insert(Call(next(arrivals), tenant, seconds))
        call = serve(order)
        served[call.tenant.name] += call.seconds
        assert served["long"] <= served["short"] + 1.0 + BURST_S


@settings(max_examples=40)
@given(st.lists(calls(), min_size=1, max_size=30), st.integers(0, 20))
def test_withdrawn_calls_cost_their_tenant_nothing(steps: Sequence[Call], num_withdrawn: int):
    order, untouched = FairQueue[Call](), FairQueue[Call]()
    for call in steps:
        order.insert(call)
        untouched.insert(call)
    extra = [Call(100, A, 1.0) for _ in range(num_withdrawn)]
    for call in extra:
        order.insert(call)
    for call in extra:
        order.remove(call)
    assert [*order.in_order()] == [*untouched.in_order()]


@settings(max_examples=40)
@given(st.lists(calls() | st.integers(1, 3), min_size=1, max_size=40), calls())
def test_seconds_before_a_new_call(steps: Sequence[Call | int], new: Call):
    """The oracle inserts the call, and sums the calls that run before it."""
    order = FairQueue[Call]()
    for step in steps:
        if isinstance(step, Call):
            order.insert(step)
        elif order.num_calls:
            batch(order, step)
    estimate = order.seconds_before(new.tenant)
    largest: dict[str, float] = {}
    for call in order:
        largest[call.tenant.name] = max(call.seconds, largest.get(call.tenant.name, 0.0))
    largest.pop(new.tenant.name, None)
    new.arrived = 1000.0
    order.insert(new)
    seconds = 0.0
    for call in order.in_order():
        if call is new:
            break
        seconds += call.seconds
    assert estimate == pytest.approx(seconds, abs=sum(largest.values()) + 1e-9)
    if not largest:
        assert estimate == pytest.approx(seconds)


def test_empty_lanes_are_dropped():
    order = FairQueue[Call]()
    for number in range(1000):
        order.insert(Call(number, A, 0.01))
        order.insert(Call(number, Tenant(f"visitor-{number}"), 0.01))
        serve(order)
        serve(order)
        order.insert(Call(number, A, 0.01))
        if number % 2:
            serve(order)
    assert len(order._lanes) < 60
    order.clear()
    assert (order.num_calls, [*order]) == (0, [])
