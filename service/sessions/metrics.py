"""Metrics of sessions and their memory, read when Prometheus asks."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Protocol

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rope_core.kvcache.arena import Arena
from service.sessions.errors import GoneReason
from service.sessions.lifetime.session import Session

TIERS = ("device", "host")

STATES = ("active", "idle", "frozen")

PAGE_STATES = ("used", "reserved", "free")

REASONS: tuple[GoneReason, ...] = ("expired", "evicted", "deleted", "device_lost")
"""Why sessions of this process end. Those of an earlier process ended with it, uncounted."""


class Sessions(Protocol):
    """What the metrics read of the registry."""

    gone: Counter[GoneReason]

    @property
    def sessions(self) -> Sequence[Session]:
        """All live sessions."""


class Arenas(Protocol):
    """Where the memory of all sessions is."""

    device: Arena | None
    host: Arena | None
    """Of offloaded sessions."""


class SessionMetrics(Collector):
    """Sessions by state, bytes of their memory, copied pages, and sessions that have ended.

    Args:
        registry: of all sessions.
        arenas: memory of all sessions.
    """

    def __init__(self, registry: Sessions, arenas: Arenas) -> None:
        self._registry = registry
        self._arenas = arenas

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        sessions = GaugeMetricFamily(
            "rope_sessions",
            "Live KV sessions, by tier of their memory, and state: active while an operation runs "
            "or waits.",
            labels=("tier", "state"),
        )
        states = Counter((each.tier, _state(each)) for each in self._registry.sessions)
        for labels in product(TIERS, STATES):
            sessions.add_metric(labels, states[labels])
        yield sessions
        arena = self._arenas.device
        num_bytes = GaugeMetricFamily(
            "rope_kv_bytes",
            "Memory of KV sessions: used by tokens, reserved, shared by rows or sessions, free for "
            "further reservations, and of the host for offloaded sessions; 0 before the first.",
            labels=("kind",),
        )
        pages = GaugeMetricFamily(
            "rope_session_pages",
            "Pages of keys and values of KV sessions: used by tokens, reserved, and free for "
            "further reservations; 0 before the first.",
            labels=("state",),
        )
        numbers = dict.fromkeys(PAGE_STATES, 0) if arena is None else arena.count_pages()
        for state, number in numbers.items():
            pages.add_metric((state,), number)
        yield pages
        host = self._arenas.host
        host_bytes = 0 if host is None else host.used_bytes
        for kind, number in {**_bytes_by_kind(arena), "host": host_bytes}.items():
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
