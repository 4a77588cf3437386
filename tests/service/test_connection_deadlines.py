"""Deadlines of connections, by a clock that the test sets."""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count

import pytest

from service.server.connection_deadlines import (
    CLOSING_S,
    TICK_S,
    Deadlines,
    Pending,
    Phase,
    Timeouts,
)

TIMEOUTS = Timeouts(header_s=5, body_s=5, min_body_rate=1000, keep_alive_s=75, write_stall_s=10)


class Clock:
    """An event loop's clock and timers."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: dict[int, tuple[float, Callable[[], None]]] = {}
        self.num_fired = 0
        self._ids = count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None], /) -> "Alarm":
        alarm = Alarm(self, next(self._ids))
        self.timers[alarm.id] = when, callback
        return alarm

    def advance(self, seconds: float) -> None:
        """Let time pass; timers fire in time."""
        end = self.now + seconds
        while due := [(when, id_) for id_, (when, _) in self.timers.items() if when <= end]:
            when, id_ = min(due)
            self.now = max(self.now, when)
            self.num_fired += 1
            self.timers.pop(id_)[1]()
        self.now = end


class Alarm:
    def __init__(self, clock: Clock, id_: int) -> None:
        self.id = id_
        self._clock = clock

    def cancel(self) -> None:
        del self._clock.timers[self.id]


class Transport:
    """A transport over a real socket, whose peer reads as the test says."""

    socket: socket.socket
    peer: socket.socket

    def __init__(self) -> None:
        self.events: list[str] = []
        self.waiting = 0

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def get_extra_info(self, _name: str) -> socket.socket:
        return self.socket

    def close(self) -> None:
        self.events.append("close")

    def abort(self) -> None:
        assert self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[0] == 1
        self.events.append("reset")


class Connection:
    """A connection that waits for what the test says."""

    def __init__(self, clock: Clock, deadlines: Deadlines) -> None:
        self._clock = clock
        self.transport = Transport()
        self.waits: tuple[Phase, float] | bool | None = True
        """Phase and time; None: for nothing; True: for a request."""
        self.num_bytes = 0
        self.watch = deadlines.watch(self, self.transport)
        self.watch.schedule()

    @property
    def events(self) -> list[str]:
        return self.transport.events

    def wait_for(self, phase: Phase) -> None:
        self.waits, self.num_bytes = (phase, self._clock.now), 0
        self.watch.schedule()

    def pending(self) -> Pending | None:
        if self.waits is True:
            return self.watch.idle()
        return Pending(*self.waits, self.num_bytes) if self.waits else None

    def refuse_slow(self, phase: Phase) -> None:
        self.events.append(f"refuse {phase.name}")
        self.waits = None

    def answer(self) -> None:
        self.waits = True
        self.watch.start_idle()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    return Deadlines(TIMEOUTS, lambda: clock)


@pytest.fixture
def connection(clock: Clock, deadlines: Deadlines) -> Iterator[Connection]:
    made = Connection(clock, deadlines)
    made.transport.socket, made.transport.peer = socket.socketpair()
    with made.transport.socket, made.transport.peer:
        yield made


def check_expiry(clock: Clock, connection: Connection, seconds: float, event: str) -> None:
    """An event comes after so many seconds, and not before."""
    clock.advance(seconds - 0.01)
    assert connection.events == []
    clock.advance(TICK_S + 0.01)
    assert connection.events == [event]


def test_a_silent_connection_is_closed(clock, connection):
    check_expiry(clock, connection, 5, "close")


def test_a_header_that_does_not_end_is_refused(clock, connection):
    clock.advance(4)
    connection.wait_for(Phase.HEADER)
    check_expiry(clock, connection, 5, "refuse HEADER")


def test_an_idle_connection_is_closed(clock, connection):
    connection.waits = None
    connection.answer()
    check_expiry(clock, connection, 75, "close")


def test_a_request_in_progress_has_no_deadline_here(clock, connection):
    connection.waits = None
    clock.advance(1000)
    assert connection.events == []
    connection.answer()
    check_expiry(clock, connection, 75, "close")


def test_a_used_connection_lives(clock, connection):
    connection.answer()
    for _ in range(100):
        clock.advance(60)
        connection.answer()
    assert connection.events == []


def test_a_body_at_the_lowest_rate_is_received(clock, connection):
    connection.wait_for(Phase.BODY)
    for _ in range(600):
        clock.advance(0.1)
        connection.num_bytes += 100
    assert connection.events == []
    check_expiry(clock, connection, 5, "refuse BODY")


def test_a_slower_body_is_refused(clock, connection):
    connection.wait_for(Phase.BODY)
    for _ in range(8):
        clock.advance(1)
        connection.num_bytes += 500
        assert connection.events == []
    clock.advance(1)  # 4,000 bytes have 9 s
    assert connection.events == ["refuse BODY"]


def test_a_client_that_does_not_close_is_reset(clock, connection):
    connection.wait_for(Phase.CLOSE)
    check_expiry(clock, connection, CLOSING_S, "reset")


def test_an_answer_that_nobody_reads_is_reset(clock, connection):
    connection.waits = None
    connection.transport.waiting = 10**6
    connection.watch.pause_writing()
    clock.advance(9.9)
    assert connection.events == []
    clock.advance(0.1 + TICK_S)
    assert connection.events == ["reset"]


def test_a_client_that_reads_slowly_gets_its_answer(clock, connection):
    """What the kernel holds counts: it takes more only when much of its buffer is free."""
    connection.waits = None
    transport = connection.transport
    transport.socket.setblocking(False)
    with suppress(BlockingIOError):
        while True:  # the kernel frees such pieces one by one
            transport.socket.send(bytes(2**10))
    transport.waiting = 10**6
    connection.watch.pause_writing()
    for _ in range(6):
        clock.advance(7)
        assert len(transport.peer.recv(10 * 2**10)) == 10 * 2**10
    assert connection.events == []
    clock.advance(20)
    assert connection.events == ["reset"]


@pytest.mark.parametrize("rate", [900, 1200])
def test_a_client_must_read_at_the_lowest_rate(clock, connection, rate):
    """Also while new parts of the answer are written, one by one, as the client reads."""
    connection.waits = None
    transport = connection.transport
    transport.waiting = 5000
    connection.watch.pause_writing()
    for i in range(40):
        clock.advance(1)
        transport.waiting -= rate
        if i % 3 == 2:
            connection.watch.resume_writing()
            transport.waiting += 3 * rate
            connection.watch.pause_writing()
    assert ("reset" in connection.events) == (rate < TIMEOUTS.min_body_rate)


def test_an_answer_behind_the_last_request_is_reset(clock, connection):
    """A short one, which does not pause writing, before the connection is closed as idle."""
    connection.transport.waiting = 100
    connection.answer()
    clock.advance(20)
    assert connection.events == ["reset"]


def test_no_timer_runs_without_a_deadline(clock, deadlines):
    connections = [Connection(clock, deadlines) for _ in range(3)]
    assert len(clock.timers) == 1
    for connection in connections:
        connection.watch.stop()
    assert not clock.timers
    connections[0].watch.stop()


def test_idle_connections_cost_one_look_each(clock, deadlines):
    connections = [Connection(clock, deadlines) for _ in range(1000)]
    for connection in connections:
        connection.answer()
    assert len(clock.timers) == 1
    clock.advance(74)
    assert clock.num_fired <= 1
    for connection in connections:
        connection.answer()
    clock.advance(74)
    assert clock.num_fired <= 3
    assert not any(connection.events for connection in connections)


def test_a_busy_loop_reads_before_it_looks(clock, connection):
    """The client sent in time, but nothing was read: a late timer waits for one more turn."""
    connection.wait_for(Phase.HEADER)
    ((_, sweep),) = clock.timers.values()
    clock.timers.clear()
    clock.now += 60
    sweep()
    assert connection.events == []
    connection.waits = None  # read meanwhile
    clock.advance(1)
    assert connection.events == []
