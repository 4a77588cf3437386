"""A cache without tensors, and an arena that only counts."""

from collections.abc import Sequence
from types import SimpleNamespace

from rope_core.kvcache.errors import ArenaFull
from service.access.tenant import Tenant
from service.sessions.lifetime.ids import SessionIds
from service.sessions.lifetime.lease import LeaseLimits
from service.sessions.lifetime.registry import SessionRegistry
from service.sessions.lifetime.session import Session, SessionOptions
from tests.clock import Clock

ACME, OTHER = Tenant("acme"), Tenant("other")


class FakeArena:
    """Counts reservations."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.reserved_bytes = 0

    def reserve(self, num_bytes: int) -> None:
        free = self.num_bytes - self.reserved_bytes
        if num_bytes > free:
            raise ArenaFull(num_bytes, free)
        self.reserved_bytes += num_bytes


class FakeCache:
    """What the registry sees of a cache: two layers, one row unless `batch` is given."""

    def __init__(self, arena: FakeArena, num_bytes: int, batch: int = 1) -> None:
        arena.reserve(num_bytes)
        self.arena = arena
        self.reserved_bytes = num_bytes
        self.own_bytes = self.shared_bytes = 0
        self.batch = batch
        self.generation = 0
        self.length = [0] * batch
        self.num_segments = [1] * batch
        self.config = SimpleNamespace(num_layers=2)
        self.is_closed = False
        self.bytes_to_restore = None

    def lengths(self, layer: int) -> Sequence[int]:
        return self.length

    def grow(self, num_bytes: int) -> int:
        self.arena.reserve(num_bytes)
        self.reserved_bytes += num_bytes
        return num_bytes

    def shrink(self, num_bytes: int) -> None:
        self.arena.reserved_bytes -= num_bytes
        self.reserved_bytes -= num_bytes

    def close(self) -> None:
        assert not self.is_closed, "closed twice"
        self.is_closed = True
        self.arena.reserved_bytes -= self.reserved_bytes


class FakeTimers:
    """Timers that a test fires, on the clock of the registry."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.pending: list[FakeTimer] = []
        self.num_wakes = 0

    def call_later(self, delay_s, function):
        assert delay_s >= 0
        timer = FakeTimer(self, self.clock.now + delay_s, function)
        self.pending.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Let time pass, and fire the timers at their times."""
        end = self.clock.now + seconds
        while due := sorted((t for t in self.pending if t.time <= end), key=lambda t: t.time):
            self.clock.now = max(self.clock.now, due[0].time)
            self.pending.remove(due[0])
            self.num_wakes += 1
            due[0].function()
        self.clock.now = end


class FakeTimer:
    def __init__(self, timers: FakeTimers, time: float, function) -> None:
        self.timers, self.time, self.function = timers, time, function

    def cancel(self) -> None:
        self.timers.pending.remove(self)


class World:
    """A registry with a fake clock, fake timers and a fake arena."""

    def __init__(self, num_bytes: int = 1000, max_sessions: int = 1024, **limits) -> None:
        self.clock = Clock(1000.0)
        self.timers = FakeTimers(self.clock)
        self.arena = FakeArena(num_bytes)
        self.ids = SessionIds()
        self.registry = SessionRegistry(
            self.ids,
            LeaseLimits(**limits),
            max_sessions=max_sessions,
            clock=self.clock,
            call_later=self.timers.call_later,
        )

    def create(self, tenant: Tenant = ACME, num_bytes: int = 10, **options) -> Session:
        return self.registry.create(
            tenant,
            lambda: FakeCache(self.arena, num_bytes),
            {"dtype": "float32"},
            SessionOptions(**options),
        )

    def find(self, session: Session, **options) -> Session:
        return self.registry.find(session.id.text, session.tenant, **options)
