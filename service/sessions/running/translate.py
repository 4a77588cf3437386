"""Translate errors of a cache into errors of the service."""

from rope_core.kvcache import errors as core
from service.errors import ServiceError
from service.sessions.errors import (
    KVMemoryFull,
    LayersDiffer,
    NoKVMemory,
    RolledPast,
    SessionConflict,
    SessionTooLong,
)
from service.sessions.lifetime.session import Session


def translate(
    error: core.KVCacheError, session: Session | None, *, creates: bool = False
) -> ServiceError:
    """Return the error of the service.

    Args:
        error: of the cache.
        session: the session of the failed operation; None if it does not exist yet.
        creates: whether the request creates a session: then another replica may have memory.
    """
    length = [] if session is None else session.cache.length
    generation = 0 if session is None else session.cache.generation
    state = {} if session is None else {"length": length, "generation": generation}
    match error:
        case core.ArenaFull(wanted_bytes=wanted, free_bytes=free):
            return NoKVMemory(wanted, free) if creates else KVMemoryFull(wanted, free)
        case core.TooManyTokens():
            return SessionTooLong(str(error), state)
        case core.LayersDiffer():
            return LayersDiffer(
                str(error), {**state, "lengths": [[*each] for each in error.lengths]}
            )
        case core.RolledPast():
            return RolledPast(str(error), state)
        case _:
            return SessionConflict(str(error), length=length, generation=generation)
