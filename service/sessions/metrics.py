"""Metrics of sessions and their memory, read when Prometheus asks."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rope_core.kvcache.arena import Arena
from service.sessions.errors import GoneReason
from service.sessions.session import Session

STATES = ("active", "idle", "frozen")

REASONS: tuple[GoneReason, ...] = ("expired", "evicted", "deleted", "device_lost")
"""Why sessions of this process end. Those of an earlier process ended with it, uncounted."""


class Sessions(Protocol):
    """What the metrics read of the registry."""

    gone: Counter[GoneReason]

    @property
    def sessions(self) -> Sequence[Session]:
        """All live sessions."""


class HasArena(Protocol):
    """What has the memory of all sessions."""

    arena: Arena | None


class SessionMetrics(Collector):
    """Sessions by state, bytes of their memory, copied pages, and sessions that have ended.

    Args:
        registry: of all sessions.
        memory: of all sessions.
    """

    def __init__(self, registry: Sessions, memory: HasArena) -> None:
        self._registry = registry
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        sessions = GaugeMetricFamily(
            "rope_sessions",
            "Live KV sessions, by tier of their memory, and state: active while an operation runs "
            "or waits.",
            labels=("tier", "state"),
        )
        states = Counter(map(_state, self._registry.sessions))
        for state in STATES:
            sessions.add_metric(("device", state), states[state])
        yield sessions
        arena = self._memory.arena
        num_bytes = GaugeMetricFamily(
            "rope_kv_bytes",
            "Memory of KV sessions: used by tokens, reserved, shared by rows or sessions, and free "
            "for further reservations; 0 before the first session.",
            labels=("kind",),
        )
        for kind, number in _bytes_by_kind(arena).items():
            num_bytes.add_metric((kind,), number)
        yield num_bytes
        yield CounterMetricFamily(
            "rope_kv_pages_copied",
            "Pages of keys and values that were copied because a session wrote to a shared one.",
            value=0 if arena is None else arena.num_copied_pages,
        )
        gone = CounterMetricFamily(
            "rope_session_gone",
            "KV sessions that have ended, by reason.",
            labels=("reason",),
        )
        for reason in REASONS:
            gone.add_metric((reason,), self._registry.gone[reason])
        yield gone


def _state(session: Session) -> str:
    if session.turns.is_busy:
        return "active"
    return "frozen" if session.is_frozen else "idle"


def _bytes_by_kind(arena: Arena | None) -> Mapping[str, int]:
    if arena is None:
        return dict.fromkeys(("used", "reserved", "shared", "free"), 0)
    shared = sum(
        int((pool.references > 1).sum()) * pool.shape.group_bytes
        for pool in arena.pools
        if pool.num_used
    )
    return {
        "used": arena.used_bytes,
        "reserved": arena.reserved_bytes,
        "shared": shared,
        "free": arena.free_bytes,
    }
