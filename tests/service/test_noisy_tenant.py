"""A noisy tenant with ten times its part of the device, beside a quiet tenant with a fifth.

The device and the clock are simulated, so the figures are exact: calls take their estimated time,
and arrive as two Poisson processes.
"""

import random
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import merge
from itertools import accumulate, repeat, takewhile
from operator import attrgetter

import pytest

from service.access.tenant import Tenant
from service.batching.call_queue import Entry, next_batch
from service.batching.fair_queue import FairQueue
from service.batching.load_estimate import LoadEstimate
from service.batching.run import Completed
from service.errors import Overloaded
from tests.service.fake_run import Call

QUIET, NOISY = Tenant("quiet"), Tenant("noisy")
CALL_S = 0.004
CAPACITY = 1 / CALL_S
DEADLINE_S = 0.5
MAX_QUEUE_S = 0.25
SIMULATED_S = 15.0


@dataclass(slots=True, eq=False)
class Sent(Entry[Call, int]):
    """A request, and when its run ends."""

    ended: float = field(default=float("inf"), init=False)

    def resolve(self, outcome: Completed[int] | Exception) -> None:
        assert isinstance(outcome, Exception), "the simulation sets the end of a run"


def poisson(tenant: Tenant, rate: float, seed: int, key: str) -> Iterator[Sent]:
    generator = random.Random(seed)
    gaps = (generator.expovariate(rate) for _ in repeat(None))
    for arrived in takewhile(lambda time: time < SIMULATED_S, accumulate(gaps)):
        yield Sent(Call(0, key, seconds=CALL_S), arrived, arrived + DEADLINE_S, tenant=tenant)


def simulate(*streams: Iterator[Sent], max_tokens: int) -> list[Sent]:
    """Run all accepted requests; return all requests."""
    requests = list(merge(*streams, key=attrgetter("arrived")))
    queue, load = FairQueue[Sent](), LoadEstimate(MAX_QUEUE_S)
    now, arrivals = 0.0, iter(requests)
    coming = next(arrivals, None)
    while coming is not None or queue.num_calls:
        if coming is not None and not queue.num_calls:
            now = max(now, coming.arrived)
        while coming is not None and coming.arrived <= now:
            with suppress(Overloaded):
                load.add(coming.call, now, coming.deadline, queue, coming.tenant)
                queue.insert(coming)
            coming = next(arrivals, None)
        batch, _ = next_batch(
            queue, load, max_tokens=max_tokens, max_bytes=100, inline_limit_s=0.0, now=now
        )
        if batch:
            run = load.start([entry.call for entry in batch], now, now)
            now += CALL_S * len(batch)
            load.end(run, now)
            for entry in batch:
                entry.ended = now
    return requests


def served_in_time(requests: list[Sent], tenant: Tenant) -> list[float]:
    """Return the latencies of a tenant's requests that were answered in time, sorted."""
    mine = [request for request in requests if request.tenant is tenant]
    return sorted(r.ended - r.arrived for r in mine if r.ended <= r.deadline)


@pytest.mark.parametrize(
    ("noisy_key", "max_tokens"),
    [("two", 1), ("one", 2)],
    ids=["runs of one call", "runs of two calls, of both tenants"],
)
def test_a_noisy_tenant_does_not_harm_a_quiet_one(noisy_key: str, max_tokens: int):
    def quiet() -> Iterator[Sent]:
        return poisson(QUIET, 0.2 * CAPACITY, 1, "one")

    noise = poisson(NOISY, 10 * 0.5 * CAPACITY, 2, noisy_key)
    alone = served_in_time(simulate(quiet(), max_tokens=max_tokens), QUIET)
    together = simulate(quiet(), noise, max_tokens=max_tokens)
    beside, noisy = served_in_time(together, QUIET), served_in_time(together, NOISY)
    p99_alone, p99_beside = (times[int(len(times) * 0.99)] for times in (alone, beside))
    print(  # noqa: T201 - shown by pytest -s, and where the test fails
        f"goodput {len(alone)} alone, {len(beside)} beside the noisy, which has {len(noisy)}; "
        f"p99 {p99_alone * 1e3:.1f} ms alone, {p99_beside * 1e3:.1f} ms beside"
    )
    assert len(beside) >= 0.95 * len(alone)
    assert p99_beside <= 2 * p99_alone
    assert len(beside) + len(noisy) >= 0.95 * SIMULATED_S * CAPACITY, "the device is not idle"
