"""Deadlines of connections: slow requests, idle connections, and clients that do not read.

One timer serves all connections, and none runs while no connection has a deadline. A
connection is looked at when its deadline may have passed, and only then its deadline is computed:
what the connection receives and sends meanwhile costs nothing here.
"""

import asyncio
import fcntl
import math
import socket
import struct
import termios
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol

TICK_S = 0.25
"""Deadlines are rounded up to multiples of this, so that many connections share a timer."""

CLOSING_S = 2.0
"""Seconds that a client gets to read the last answer before its connection is reset."""

LOOKS_PER_STALL = 4
"""How often a connection is looked at within `write_stall_s`."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long connections wait for their clients."""

    header_s: float = 5.0
    """From the first byte of a header to its end; also from connecting to the first byte."""
    body_s: float = 5.0
    """From a header to the end of the body, in addition to the time that `min_body_rate` allows."""
    min_body_rate: float = 64 * 2**10
    """Bytes per second at which a client must send a body, or read an answer that waits."""
    keep_alive_s: float = 75.0
    """From an answer to the next request."""
    write_stall_s: float = 10.0
    """In this time a client must read as much of a waiting answer as `min_body_rate` demands."""


class Phase(Enum):
    """What a connection waits for."""

    FIRST_REQUEST = auto()
    HEADER = auto()
    BODY = auto()
    NEXT_REQUEST = auto()
    CLOSE = auto()


class Pending(NamedTuple):
    """What a connection waits for, and how much of it has come."""

    phase: Phase
    since: float
    """Time of `Deadlines.time` when the phase began."""
    num_bytes: int = 0
    """Received bytes of the body."""


class Watched(Protocol):
    """A connection with deadlines."""

    def pending(self) -> Pending | None:
        """Return what the connection waits for; None: the client waits for the connection."""

    def refuse_slow(self, phase: Phase) -> None:
        """Refuse the request whose header or body arrives too slowly."""


class Timer(Protocol):
    """A call that a clock will make."""

    def cancel(self) -> None:
        """Do not make the call."""


class Clock(Protocol):
    """What deadlines need of an event loop."""

    def time(self) -> float:
        """Return the time in seconds."""

    def call_at(self, when: float, callback: Callable[[], None], /) -> Timer:
        """Call back at a time."""


class Deadlines:
    """The deadlines of all connections.

    Args:
        timeouts: how long connections wait.
        clock: returns the clock; called on the event loop.
    """

    def __init__(
        self, timeouts: Timeouts, clock: Callable[[], Clock] = asyncio.get_running_loop
    ) -> None:
        self.timeouts = timeouts
        self._find_clock = clock
        self._clock: Clock | None = None
        self._watches: dict[int, dict[Watch, None]] = {}
        """By the tick at which they are looked at."""
        self._timer: Timer | None = None
        self._armed_tick = 0
        self._is_late = False

    def watch(self, connection: Watched, transport: asyncio.Transport) -> "Watch":
        """Return the watch of a new connection."""
        return Watch(self, connection, transport)

    @property
    def clock(self) -> Clock:
        """The clock of all connections."""
        if self._clock is None:
            self._clock = self._find_clock()
        return self._clock

    def time(self) -> float:
        """Return the time in seconds."""
        return self.clock.time()

    def due(self, pending: Pending) -> float:
        """Return when a connection has waited for too long."""
        timeouts = self.timeouts
        match pending.phase:
            case Phase.BODY:
                allowed_s = timeouts.body_s + pending.num_bytes / timeouts.min_body_rate
            case Phase.NEXT_REQUEST:
                allowed_s = timeouts.keep_alive_s
            case Phase.CLOSE:
                allowed_s = CLOSING_S
            case _:
                allowed_s = timeouts.header_s
        return pending.since + allowed_s

    def add(self, watch: "Watch", tick: int) -> None:
        """Look at a connection at `tick`, a multiple of TICK_S."""
        self._watches.setdefault(tick, {})[watch] = None
        if self._timer is None or tick < self._armed_tick:
            self._arm(tick)

    def remove(self, watch: "Watch", tick: int) -> None:
        """Undo `add`."""
        watches = self._watches[tick]
        del watches[watch]
        if not watches:
            del self._watches[tick]
        if not self._watches and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, tick: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_tick = tick
        self._timer = self.clock.call_at(tick * TICK_S, self._sweep)

    def _sweep(self) -> None:
        """Look at the connections whose tick has come."""
        self._timer = None
        now = max(self.time(), self._armed_tick * TICK_S)  # a timer may fire a bit early
        if now - self._armed_tick * TICK_S > TICK_S and not self._is_late:
            self._is_late = True  # the loop was busy: read first what has arrived meanwhile
            self._arm(math.ceil(now / TICK_S))
            return
        self._is_late = False
        for tick in sorted(tick for tick in self._watches if tick * TICK_S <= now):
            for watch in self._watches.pop(tick):
                watch.look(now)
        if self._watches:
            self._arm(min(self._watches))


class Watch:
    """The deadline of one connection."""

    __slots__ = (
        *("_clock", "_connection", "_deadlines", "_idle_since", "is_used", "_look_at", "_tick"),
        *("_transport", "_unread", "_unread_since", "_resumed_unread"),
    )

    def __init__(
        self, deadlines: Deadlines, connection: Watched, transport: asyncio.Transport
    ) -> None:
        self._deadlines = deadlines
        self._clock = deadlines.clock
        self._connection = connection
        self._transport = transport
        self._tick: int | None = None
        self._look_at = math.inf
        """When the connection is looked at."""
        self.is_used = False
        """Whether a request was answered."""
        self._unread: int | None = None
        """Bytes that the client had not read at `_unread_since`, and those that were added later;
        None: nothing waits to be sent."""
        self._resumed_unread: int | None = None
        """Bytes that the client had not read when writing was resumed; None while writing is
        paused."""
        self._unread_since = self._idle_since = deadlines.time()

    def idle(self) -> Pending:
        """Return that the connection waits for a request."""
        phase = Phase.NEXT_REQUEST if self.is_used else Phase.FIRST_REQUEST
        return Pending(phase, self._idle_since)

    def start_idle(self) -> None:
        """Note that an answer is complete and no request follows yet."""
        self.is_used = True
        self._idle_since = now = self._clock.time()
        self._unread = None
        is_sent = not self._transport.get_write_buffer_size()
        when = now + (self._deadlines.timeouts.keep_alive_s if is_sent else self._look_s)
        if when < self._look_at:
            self._look_by(when)

    def schedule(self) -> None:
        """Look at the connection at its deadline; called when it waits for something new."""
        pending = self._connection.pending()
        if pending is not None:
            self._look_by(self._deadlines.due(pending))

    def schedule_writing(self) -> None:
        """Look at the connection soon if a part of an answer waits to be sent."""
        if self._transport.get_write_buffer_size():
            self._look_by(self._deadlines.time() + self._look_s)

    def pause_writing(self) -> None:
        """Note that a part of an answer waits until the client reads."""
        num_unread, now = self._num_unread(), self._deadlines.time()
        if self._unread is None:
            self._unread, self._unread_since = num_unread, now
        elif self._resumed_unread is not None:
            self._unread += num_unread - self._resumed_unread
        self._resumed_unread = None
        self._look_by(now + self._look_s)

    def resume_writing(self) -> None:
        """Note that the client reads, and that more of the answer may be written."""
        if self._unread is not None:
            self._resumed_unread = self._num_unread()

    def stop(self) -> None:
        """Forget the connection: it is closed."""
        if self._tick is not None:
            self._deadlines.remove(self, self._tick)
        self._tick, self._look_at = None, -math.inf

    def look(self, now: float) -> None:
        """Close the connection or refuse its request if it has waited for too long."""
        self._tick, self._look_at = None, math.inf
        if self._is_stalled(now):
            self._reset()
            return
        pending = self._connection.pending()
        if pending is not None and self._deadlines.due(pending) <= now:
            self._expire(pending.phase)
        else:
            self.schedule()

    @property
    def _look_s(self) -> float:
        return self._deadlines.timeouts.write_stall_s / LOOKS_PER_STALL

    def _look_by(self, when: float) -> None:
        """Look at the connection at `when` or before."""
        if when >= self._look_at:
            return
        if self._tick is not None:
            self._deadlines.remove(self, self._tick)
        self._tick = tick = math.ceil(when / TICK_S)
        self._look_at = tick * TICK_S
        self._deadlines.add(self, tick)

    def _expire(self, phase: Phase) -> None:
        match phase:
            case Phase.HEADER | Phase.BODY:
                self._connection.refuse_slow(phase)
            case Phase.CLOSE:
                self._reset()
            case _:
                self._transport.close()

    def _reset(self) -> None:
        """Reset the connection, which frees the unsent bytes in the kernel."""
        connection = self._transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _is_stalled(self, now: float) -> bool:
        """Return whether an answer waits and the client has read too little for too long."""
        if not self._transport.get_write_buffer_size():
            self._unread = None
            return False
        timeouts, num_unread = self._deadlines.timeouts, self._num_unread()
        min_read = timeouts.write_stall_s * timeouts.min_body_rate
        if self._unread is None or num_unread <= self._unread - min_read:
            self._unread, self._unread_since = num_unread, now
        if now - self._unread_since >= timeouts.write_stall_s:
            return True
        self._look_by(now + self._look_s)
        return False

    def _num_unread(self) -> int:
        """Return the bytes that wait here and in the kernel until the client acknowledges them.

        The kernel takes more bytes only when a large part of its buffer is free, so what it takes
        says little about a client that reads slowly.
        """
        waiting = array("i", [0])
        fd = self._transport.get_extra_info("socket").fileno()
        fcntl.ioctl(fd, termios.TIOCOUTQ, waiting)
        return self._transport.get_write_buffer_size() + waiting[0]
