"""Evict sessions when a new or a growing session finds too little memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rope_core.kvcache.errors import ArenaFull
from service.sessions.lifetime.session import Session

T = TypeVar("T")


def with_room(
    action: Callable[[], T],
    *,
    check: Callable[[int], None],
    candidates: Callable[[], list[Session]],
    evict: Callable[[Session], None],
) -> T:
    """Run an action that takes memory; if too little is free, evict and run it again.

    Nothing is evicted if all candidates together have reserved too little.

    Args:
        action: changes nothing if it raises ArenaFull.
        check: raises if the tenant may not have the bytes; called before anything is evicted.
        candidates: sessions that may be evicted, the first to go first.
        evict: ends a session.

    Raises:
        ArenaFull: there is no room.
    """
    rest: Iterator[Session] | None = None
    while True:
        try:
            return action()
        except ArenaFull as full:
            missing = full.wanted_bytes - full.free_bytes
            if rest is None:
                check(full.wanted_bytes)
                sessions = candidates()
                reserved = sum(session.cache.reserved_bytes for session in sessions)
                rest = iter(sessions if reserved >= missing else ())
            if not _evict(rest, missing, evict):
                raise


def _evict(sessions: Iterator[Session], missing: int, evict: Callable[[Session], None]) -> bool:
    """Evict sessions until `missing` reserved bytes are free; return whether one was evicted."""
    evicted, freed = False, 0
    for session in sessions:
        evicted, freed = True, freed + session.cache.reserved_bytes
        evict(session)
        if freed >= missing:
            break
    return evicted


def eviction_order(sessions: Iterable[Session], tenant_name: str) -> list[Session]:
    """Return those of the evictable sessions that may go now, the first to go first.

    Those of the tenant that needs the memory, then those of others; least recently used first, the
    largest first among equals. None that is pinned, in use, or has no memory of the device.
    """
    idle = [
        session
        for session in sessions
        if not session.is_pinned and not session.turns.is_busy and session.tier == "device"
    ]
    idle.sort(
        key=lambda session: (
            session.tenant.name != tenant_name,
            session.lease.renewed,
            -session.cache.reserved_bytes,
        )
    )
    return idle
