"""Order of the waiting calls: by arrival within a tenant, by weight among tenants.

Start-time fair queueing (Goyal, Vin and Cheng, 1996). Each tenant has a virtual time: the estimated
seconds of its calls that ran, divided by its weight. The tenant with the smallest virtual time runs
next. When a tenant without waiting calls sends one, its virtual time is raised to that of the queue
minus `BURST_S`. So unused device time is not saved up, and a tenant below its share can still run a
short burst at once.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Generic, Protocol, TypeVar

from service.access.tenant import ANONYMOUS, Tenant

BURST_S = 0.25
"""Seconds of calls that a tenant may run before all others, after it has not used the device for
longer than that."""

_entries, _start_and_arrival = attrgetter("entries"), itemgetter(0, 1)


class HasCost(Protocol):
    """A call with an estimated time."""

    @property
    def seconds(self) -> float:
        """Estimated time of the call when it runs alone."""


class QueueEntry(Protocol):
    """An entry of the queue, as fair queueing needs it."""

    @property
    def call(self) -> HasCost:
        """The call."""

    @property
    def arrived(self) -> float:
        """Time of `time.monotonic` when the request's header arrived."""

    @property
    def tenant(self) -> Tenant:
        """Tenant that sent the request."""


E = TypeVar("E", bound=QueueEntry)


@dataclass(slots=True, eq=False)
class Lane(Generic[E]):
    """The waiting calls of one tenant."""

    tenant: Tenant
    burst: float
    """BURST_S as virtual time of the tenant."""
    start: float
    """Virtual time of the tenant: start of its first waiting call."""
    entries: deque[E] = field(default_factory=deque)
    """Sorted by arrival."""
    seconds: float = 0.0
    """Estimated time of the waiting calls."""

    def by_start(self) -> Iterator[tuple[float, float, E]]:
        """Yield virtual start, arrival and entry of each call."""
        start = self.start
        for entry in self.entries:
            yield start, entry.arrived, entry
            start += entry.call.seconds / self.tenant.weight


class FairQueue(Generic[E]):
    """The waiting calls. `iter` yields them by tenant, `in_order` in the order in which they run.

    Attributes:
        num_calls: number of waiting calls.
        latest: lane of the last inserted call.
        only: the lane, if there is exactly one: its entries are all calls, in order.
        virtual_time: that of the tenant served last. Never decreases.
    """

    def __init__(self) -> None:
        self.num_calls = 0
        self.virtual_time = 0.0
        self._lanes: dict[str, Lane[E]] = {}
        """By name of the tenant. An empty lane is kept while its virtual time is ahead."""
        self.latest: Lane[E] = Lane(ANONYMOUS, BURST_S, 0.0)
        self.only: Lane[E] | None = None

    def __iter__(self) -> Iterator[E]:
        return chain.from_iterable(map(_entries, self._lanes.values()))

    def __contains__(self, entry: E) -> bool:
        lane = self._lanes.get(entry.tenant.name)
        return lane is not None and entry in lane.entries

    def in_order(self) -> Iterator[E]:
        """Iterate over the calls in the order in which they run.

        No call may be inserted or removed during the iteration.
        """
        lanes = [lane for lane in self._lanes.values() if lane.entries]
        starts = merge(*[lane.by_start() for lane in lanes], key=_start_and_arrival)
        return (entry for _, _, entry in starts)

    def insert(self, entry: E, *, is_idle: bool = False) -> None:
        """Insert a call behind the calls of its tenant that arrived earlier.

        Args:
            entry: the call.
            is_idle: whether no call runs. If no call waits either, all virtual times are reset.
        """
        if is_idle and not self.num_calls:
            self._lanes.clear()
        tenant = entry.tenant
        burst = BURST_S / tenant.weight
        lane = self._lanes.get(tenant.name)
        if lane is None:
            lane = self._lanes[tenant.name] = Lane(tenant, burst, self.virtual_time - burst)
            self.only = lane if len(self._lanes) == 1 else None
        elif not lane.entries:
            lane.start = max(lane.start, self.virtual_time - burst)
        entries = lane.entries
        index = len(entries)
        while index and entries[index - 1].arrived > entry.arrived:
            index -= 1
        entries.insert(index, entry)
        lane.tenant, lane.burst = tenant, burst
        lane.seconds += entry.call.seconds
        self.num_calls += 1
        self.latest = lane

    def remove(self, entry: E) -> None:
        """Remove a call that will not run. Does nothing if the call is not in the queue."""
        if entry in self:
            lane = self._lanes[entry.tenant.name]
            lane.entries.remove(entry)
            lane.seconds = lane.seconds - entry.call.seconds if lane.entries else 0.0
            self.num_calls -= 1

    def serve(self, entries: Sequence[E]) -> None:
        """Remove calls that run now, and advance the virtual times of their tenants.

        Args:
            entries: the first call of `in_order`, and others.
        """
        for entry in entries:
            lane = self._lanes[entry.tenant.name]
            if entry is entries[0]:
                self.virtual_time = max(self.virtual_time, lane.start)
            if lane.entries[0] is entry:
                lane.entries.popleft()
            else:
                lane.entries.remove(entry)
            seconds = entry.call.seconds
            lane.seconds = lane.seconds - seconds if lane.entries else 0.0
            lane.start += seconds / lane.tenant.weight
        self.num_calls -= len(entries)
        if self.only is None:
            self._drop_idle_lanes()

    def clear(self) -> None:
        """Remove all calls."""
        self._lanes.clear()
        self.latest, self.only = Lane(ANONYMOUS, BURST_S, 0.0), None
        self.num_calls = 0

    def num_calls_of(self, tenant: Tenant) -> int:
        """Return the number of waiting calls of a tenant."""
        lane = self._lanes.get(tenant.name)
        return 0 if lane is None else len(lane.entries)

    def seconds_before(self, tenant: Tenant) -> float:
        """Return the estimated seconds of the calls that run before a new call of a tenant."""
        lanes, seconds = self._lanes, 0.0
        start = self.virtual_time - BURST_S / tenant.weight
        tenant_lane = lanes.get(tenant.name)
        if tenant_lane is not None:
            if tenant_lane is self.only:
                return tenant_lane.seconds
            seconds = tenant_lane.seconds
            if tenant_lane.entries:
                start = tenant_lane.start
            start = max(tenant_lane.start, start) + seconds / tenant.weight
        for lane in lanes.values():
            if lane is not tenant_lane and lane.entries and lane.start <= start:
                # the last call that starts before `start` ends after it
                call_s = lane.seconds / len(lane.entries)
                seconds += min(lane.seconds, (start - lane.start) * lane.tenant.weight + call_s)
        return seconds

    def share_before(self, tenant: Tenant) -> float:
        """Return the fraction of the waiting work that runs before a new call of a tenant."""
        if self.only is not None and self.only.tenant.name == tenant.name:
            return 1.0
        seconds = sum([lane.seconds for lane in self._lanes.values()])
        return min(1.0, self.seconds_before(tenant) / seconds) if seconds > 0 else 1.0

    def _drop_idle_lanes(self) -> None:
        """Drop the empty lanes that would start at the same virtual time if they were new."""
        for name, lane in [*self._lanes.items()]:
            if not lane.entries and lane.start <= self.virtual_time - lane.burst:
                del self._lanes[name]
        if len(self._lanes) == 1:
            [self.only] = self._lanes.values()
