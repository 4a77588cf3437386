"""All sessions of this process: found by id or name, counted by tenant, ended by lease."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rope_core.kvcache.arena import Arena
from rope_core.kvcache.config import KVConfig
from service.access.tenant import Tenant
from service.sessions.ids import SessionIds
from service.sessions.session import Session


class SessionRegistry:
    """For the event loop's thread. It has one timer, at the next expiry.

    Args:
        arena: memory of the caches.
        ids: makes and checks ids.
        max_ttl_s, default_ttl_s, max_age_s, max_sessions: limits of the settings.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        arena: Arena,
        ids: SessionIds,
        *,
        default_ttl_s: float,
        max_ttl_s: float,
        max_age_s: float,
        max_sessions: int,
        clock: Callable[[], float],
    ) -> None:
        raise NotImplementedError

    def find(self, session_id: str, tenant: Tenant, *, renew: bool = True) -> Session:
        """Return a live session; renew its lease.

        Raises:
            NoSession, SessionGone, WrongOwner: as `SessionIds.parse`, or it has ended.
        """
        raise NotImplementedError

    def find_by_name(self, name: str, tenant: Tenant) -> Session:
        """Return the session that has a name."""
        raise NotImplementedError

    def create(
        self,
        tenant: Tenant,
        config: KVConfig,
        configuration: Mapping[str, Any],
        *,
        batch: int,
        max_tokens: int | None,
        ttl_s: float | None,
        max_age_s: float | None,
        is_evictable: bool,
        name: str | None,
        labels: Sequence[str],
    ) -> Session:
        """Return a new session.

        Raises:
            NameTaken, SessionQuota, SessionTooLong, NoKVMemory, ConfigError: nothing was created.
        """
        raise NotImplementedError

    def fork(self, source: Session, caches: Sequence[Any], **options: Any) -> list[Session]:
        """Return a session for each forked cache."""
        raise NotImplementedError

    def end(self, session: Session, reason: str) -> None:
        """End a session: give its memory back, and leave a tombstone."""
        raise NotImplementedError

    def end_all(self, reason: str) -> None:
        """End all sessions, for example because the device is lost."""
        raise NotImplementedError
