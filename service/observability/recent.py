"""What happened in each of the last 900 seconds: the rows of `GET /v1/recent`.

Events add to the current second: the record at the end of a request, the end of a run, a call that
enters the queue. No timer closes a second; the first event after its end does, or a reader. These
events add to the attributes of `Recent.current` themselves, without calls, as they are on the way
of every request:

    if now >= recent.end:
        recent.advance(now)
    recent.current.runs += 1
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

SECONDS = 900
"""How long rows are kept."""

MAX_BYTES = 900 * 1024
"""Most memory of all rows; older rows go first."""

ROW_BYTES = 140
"""Memory that a row takes in addition to its text."""

_STEPS = 1, 1.5, 2, 3, 4, 5, 7

BOUNDS = (*(round(step * 10.0**power, 9) for power in range(-5, 2) for step in _STEPS), 100.0)
"""Upper bounds of the buckets of durations, in seconds: seven a decade, 10 us to 100 s."""

NUM_BUCKETS = 64
"""A bucket of a route is `NUM_BUCKETS * number of the route + number of the bucket`."""

MAX_ROUTES = 512
"""Most routes with a number of their own; requests of others are not in the rows."""

COLUMNS = (
    *("second", "statuses", "refusals", "latency", "request_s", "messages", "runs", "calls"),
    *("tokens", "wait_s", "wait_max_s", "copy_s", "compute_s", "busy_s", "depth"),
    *("admitted_bytes", "memory_bytes"),
)
"""Names of the values of a row, in their order."""


class Second:
    """The sums of one second."""

    __slots__ = (
        *("statuses", "refusals", "latency", "request_s", "messages", "runs", "calls", "tokens"),
        *("wait_s", "wait_max_s", "copy_s", "compute_s", "busy_s", "depth"),
    )

    def __init__(self, depth: int) -> None:
        self.statuses: dict[int | str, int] = {}
        """Answered requests by status of HTTP or gRPC."""
        self.refusals: dict[tuple[str, int | str], int] = {}
        """Requests that were answered with an error, by code and status."""
        self.latency: dict[int, int] = {}
        """Requests by route and duration; see `NUM_BUCKETS`."""
        self.request_s = 0.0
        """Sum of the durations of requests."""
        self.messages = 0
        """Answered messages of streams of sessions."""
        self.runs = self.calls = self.tokens = 0
        """Runs of the device, and what they computed."""
        self.wait_s = self.wait_max_s = 0.0
        """Sum, and longest, of the waits of these calls in the queue."""
        self.copy_s = self.compute_s = 0.0
        """Sums over the calls; a call counts the whole run that it shares."""
        self.busy_s = 0.0
        """Time in which runs were on the device; of all lanes together."""
        self.depth = depth
        """Most calls that waited."""


class Gauges(NamedTuple):
    """What is read once for each row."""

    admitted_bytes: int
    """Most bytes that requests held in this second."""
    memory_bytes: int
    """Memory in use on the device at its end."""


class Recent:
    """The last 900 seconds. For one thread at a time, as are metrics.

    Args:
        clock: monotonic seconds.
        wall_clock: seconds since 1970, read once: a step of that clock moves no row.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._offset = wall_clock() - clock()
        now = self.now()
        self.started = now
        """Time at which the rows begin, in seconds since 1970. Another one is another process."""
        self._number = math.floor(now)
        self.begin = self._number - self._offset
        """Monotonic time at which the current second began. What ran before is in earlier rows."""
        self.end = self.begin + 1
        """Monotonic time at which it ends; `advance` is due then."""
        self.current = Second(0)
        self.running: list[float] = []
        """Monotonic times at which the runs began that are on the device now."""
        self.queue_depth: Callable[[], int] = lambda: 0
        """Returns the calls that wait now."""
        self.read_gauges: Callable[[], Gauges] = lambda: Gauges(0, 0)
        """Returns what a row has in addition; called once for each."""
        self.num_connections: Callable[[], int] = lambda: 0
        """Returns the open HTTP connections."""
        self.max_connections = 0
        self.routes: list[str] = []
        """Names of the routes, by their number."""
        self._route_numbers: dict[str, int] = {}
        self._rows: deque[tuple[int, bytes]] = deque()
        """Complete seconds in which something happened, with the text of the row."""
        self.num_bytes = 0
        """Memory of the rows."""
        self._first_second = self._number
        """No row before this second is complete."""

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return self._clock() + self._offset

    def route_number(self, route: str) -> int | None:
        """Return the number of a route; None: too many routes have one."""
        number = self._route_numbers.get(route)
        if number is None and len(self.routes) < MAX_ROUTES:
            number = self._route_numbers[route] = len(self.routes)
            self.routes.append(route)
        return number

    def refuse(self, code: str, status: int | str) -> None:
        """Count a request that is answered with an error."""
        now = self._clock()
        if now >= self.end:
            self.advance(now)
        refusals = self.current.refusals
        refusals[code, status] = refusals.get((code, status), 0) + 1

    def advance(self, now: float) -> None:
        """Close all seconds that are over; `now` is a monotonic time that is not before `end`."""
        depth = self.queue_depth()
        while self.end <= now:
            self._close()
            self._move_to(self._number + 1)
            if not self.running and not depth and self.end <= now:
                self._move_to(math.floor(now + self._offset))  # nothing happened until now
            elif now - self.end > SECONDS:  # what is older would be removed again
                self._move_to(math.floor(now + self._offset) - SECONDS)
            self.current = Second(depth)
        oldest = self._number - SECONDS
        while self._rows and (self._rows[0][0] < oldest or self.num_bytes > MAX_BYTES):
            second, row = self._rows.popleft()
            self.num_bytes -= ROW_BYTES + len(row)
            self._first_second = max(self._first_second, second + 1)

    def rows_after(self, second: int) -> list[bytes]:
        """Return the rows of complete seconds after one, oldest first, as JSON."""
        now = self._clock()
        if now >= self.end:
            self.advance(now)
        rows = [row for _, row in self._newer_than(second)]
        rows.reverse()
        return rows

    @property
    def until(self) -> int:
        """The last complete second."""
        return self._number - 1

    @property
    def oldest(self) -> int:
        """The first second whose row would be here if anything had happened."""
        return max(self._first_second, self._number - SECONDS)

    def _newer_than(self, second: int) -> Iterator[tuple[int, bytes]]:
        for row in reversed(self._rows):
            if row[0] <= second:
                return
            yield row

    def _move_to(self, number: int) -> None:
        self._number = number
        self.begin = number - self._offset
        self.end = self.begin + 1

    def _close(self) -> None:
        """Keep the row of the current second, unless nothing happened in it."""
        second = self.current
        for started in self.running:
            second.busy_s += max(0.0, self.end - max(started, self.begin))
        has_events = second.statuses or second.refusals or second.runs or second.messages
        if not has_events and not second.busy_s and not second.depth:
            return
        row = self._render(second)
        self._rows.append((self._number, row))
        self.num_bytes += ROW_BYTES + len(row)

    def _render(self, second: Second) -> bytes:
        latency: list[int] = []
        for key, count in sorted(second.latency.items()):
            latency += (*divmod(key, NUM_BUCKETS), count)
        values = [
            self._number,
            second.statuses,
            [[*key, count] for key, count in second.refusals.items()],
            latency,
            round(second.request_s, 6),
            *(second.messages, second.runs, second.calls, second.tokens),
            *(round(second.wait_s, 6), round(second.wait_max_s, 6)),
            *(round(second.copy_s, 6), round(second.compute_s, 6), round(second.busy_s, 6)),
            second.depth,
            *self.read_gauges(),
        ]
        return json.dumps(values, separators=(",", ":")).encode()
