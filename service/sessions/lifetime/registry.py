"""Sessions of this process: created, forked, changed and grown within limits."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from rope_core import ConfigError
from rope_core.kvcache.cache import KVCache
from rope_core.kvcache.errors import ArenaFull
from service.access.tenant import Tenant
from service.errors import ShuttingDown
from service.sessions.errors import KVMemoryFull, NoKVMemory, SessionQuota
from service.sessions.lifetime.changes import apply_changes
from service.sessions.lifetime.documents import configuration_digest
from service.sessions.lifetime.expiry import CallLater, call_later
from service.sessions.lifetime.ids import SessionIds
from service.sessions.lifetime.lease import LeaseLimits
from service.sessions.lifetime.pressure import eviction_order, with_room
from service.sessions.lifetime.quotas import TenantQuota, check_forks
from service.sessions.lifetime.repeats import Repeats
from service.sessions.lifetime.session import Session, SessionOptions, check_labels, check_name
from service.sessions.lifetime.table import SessionTable
from service.sessions.lifetime.turns import Turns

T = TypeVar("T")


class SessionRegistry(SessionTable):
    """The sessions of this process. For the event loop's thread.

    Args:
        ids: makes and checks ids.
        limits: of leases.
        max_sessions: most sessions of a tenant that has no limit of its own.
        clock: monotonic seconds.
        call_later: sets a timer.
    """

    def __init__(
        self,
        ids: SessionIds,
        limits: LeaseLimits,
        *,
        max_sessions: int = 1024,
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater = call_later,
    ) -> None:
        super().__init__(ids, clock=clock, call_later=call_later)
        self.is_draining = False
        """Whether new sessions are refused."""
        self._limits = limits
        self._max_sessions = max_sessions

    def create(
        self,
        tenant: Tenant,
        make_cache: Callable[[], KVCache],
        configuration: Mapping[str, Any],
        options: SessionOptions,
    ) -> Session:
        """Return a new session.

        Args:
            tenant: owner of the session.
            make_cache: returns its cache; called again if memory had to be freed.
            configuration: as documents show it.
            options: what the client asks for.

        Raises:
            ConfigError, NameTaken, SessionQuota, NoKVMemory, ShuttingDown: nothing was created;
                also whatever `make_cache` raises, except ArenaFull.
        """
        (session,) = self._create(tenant, 1, lambda: [make_cache()], configuration, options)
        return session

    def fork(
        self,
        source: Session,
        count: int,
        make_caches: Callable[[], Sequence[KVCache]],
        options: SessionOptions,
    ) -> list[Session]:
        """Return a new session for each of `count` forked caches; errors as `create`.

        Args:
            source: the caller holds its turn.
            count: number of the forks; a name is for one alone.
            make_caches: returns the caches; called again if memory had to be freed.
            options: what the client asks for.
        """
        check_forks(count)
        return self._create(source.tenant, count, make_caches, source.configuration, options)

    def begin_import(
        self, tenant: Tenant, make_cache: Callable[[], KVCache], options: SessionOptions
    ) -> KVCache:
        """Return the cache of an import. It becomes a session with `end_import`.

        Until then it counts in the limits of the tenant. Arguments and errors as `create`.
        """
        (cache,) = self._make_caches(tenant, 1, lambda: [make_cache()], options)
        self._tenants[tenant.name].arriving.add(cache)
        return cache

    def end_import(
        self,
        tenant: Tenant,
        cache: KVCache,
        configuration: Mapping[str, Any],
        options: SessionOptions,
    ) -> Session:
        """Return the session of a cache of `begin_import`, once all data has been written.

        Raises:
            NameTaken, ShuttingDown: `drop_import` is still to be called.
        """
        if self.is_draining:
            raise ShuttingDown
        sessions = self._tenants[tenant.name]
        if options.name is not None:
            sessions.check_free(options.name)
        sessions.arriving.discard(cache)
        digest, labels = configuration_digest(configuration), check_labels(options.labels)
        return self._add(tenant, cache, configuration, digest, options, labels)

    def drop_import(self, tenant: Tenant, cache: KVCache) -> None:
        """Close the cache of `begin_import`, unless it has become a session."""
        sessions = self._tenants[tenant.name]
        if cache in sessions.arriving:
            sessions.arriving.discard(cache)
            cache.close()

    def update(self, session: Session, changes: Mapping[str, Any]) -> None:
        """Change name, labels, ttl_s, pinned and frozen; see `apply_changes`."""
        tenant = session.tenant
        sessions = self._tenants[tenant.name]
        apply_changes(
            session,
            changes,
            sessions=sessions,
            limits=self._limits,
            quota=self._quota(tenant),
        )
        self._expiry.watch(session)

    def grow(
        self,
        session: Session,
        action: Callable[[], T],
        undo: Callable[[T], None] | None = None,
        *,
        is_charged: bool = False,
    ) -> T:
        """Run an action that may take more memory for a session, such as a plan of an append.

        If the memory is full, sessions that have expired end, and evictable ones unless the session
        is evictable itself; then the action runs again.

        Args:
            session: the caller holds its turn.
            action: changes nothing if it raises ArenaFull.
            undo: gives the memory back if the tenant has more than its limit after the action;
                None: the action is refused only if the tenant had more before it.
            is_charged: whether the memory counts against the tenant's limit already.

        Raises:
            KVMemoryFull, SessionQuota: the session is unchanged; also whatever `action` raises.
        """
        is_limited = session.tenant.max_kv_bytes is not None and not is_charged
        before = session.cache.reserved_bytes if is_limited else 0
        if is_limited and undo is None:
            self._quota(session.tenant).check_bytes()
        try:
            result = action()
        except ArenaFull:
            result = self._grow_with_room(session, action, is_charged=is_charged)
        if is_limited and undo is not None and session.cache.reserved_bytes > before:
            try:
                self._quota(session.tenant).check_bytes()
            except SessionQuota:
                undo(result)
                raise
        return result

    def _grow_with_room(self, session: Session, action: Callable[[], T], *, is_charged: bool) -> T:
        self.end_expired()
        quota = self._quota(session.tenant)
        try:
            return with_room(
                action,
                check=(lambda _: None) if is_charged else quota.check_bytes,
                candidates=lambda: (
                    [] if session.is_evictable else self._may_be_evicted(session.tenant)
                ),
                evict=self._evict,
            )
        except ArenaFull as full:
            raise KVMemoryFull(full.wanted_bytes, full.free_bytes) from None

    def _create(
        self,
        tenant: Tenant,
        count: int,
        make_caches: Callable[[], Sequence[KVCache]],
        configuration: Mapping[str, Any],
        options: SessionOptions,
    ) -> list[Session]:
        caches = self._make_caches(tenant, count, make_caches, options)
        digest, labels = configuration_digest(configuration), check_labels(options.labels)
        return [
            self._add(tenant, cache, configuration, digest, options, labels) for cache in caches
        ]

    def _make_caches(
        self,
        tenant: Tenant,
        count: int,
        make_caches: Callable[[], Sequence[KVCache]],
        options: SessionOptions,
    ) -> Sequence[KVCache]:
        """Return new caches, after all checks of a new session."""
        if self.is_draining:
            raise ShuttingDown
        self.end_expired()
        sessions = self._tenants[tenant.name]
        check_labels(options.labels)
        self._limits.lease(options.ttl_s, options.max_age_s, 0.0)
        if options.name is not None:
            if count != 1:
                raise ConfigError("name", "absent if count is not 1", "one name for several forks")
            check_name(options.name)
            sessions.check_free(options.name)
        quota = self._quota(tenant)
        quota.check_sessions(count)
        try:
            caches = with_room(
                make_caches,
                check=quota.check_bytes,
                candidates=lambda: self._may_be_evicted(tenant),
                evict=self._evict,
            )
        except ArenaFull as full:
            raise NoKVMemory(full.wanted_bytes, full.free_bytes) from None
        try:
            quota.check_bytes(sum(cache.reserved_bytes for cache in caches))
        except SessionQuota:
            for cache in caches:
                cache.close()
            raise
        return caches

    def _add(
        self,
        tenant: Tenant,
        cache: KVCache,
        configuration: Mapping[str, Any],
        digest: str,
        options: SessionOptions,
        labels: tuple[str, ...],
    ) -> Session:
        sessions = self._tenants[tenant.name]
        session = Session(
            id=self.ids.new(tenant),
            tenant=tenant,
            cache=cache,
            configuration=configuration,
            configuration_digest=digest,
            lease=self._limits.lease(options.ttl_s, options.max_age_s, self.clock()),
            turns=Turns(),
            repeats=Repeats(),
            number=sessions.next_number(),
            name=options.name,
            labels=labels,
            is_evictable=options.is_evictable,
        )
        self.add(session)
        return session

    def _evict(self, session: Session) -> None:
        self.end(session, "evicted")

    def _may_be_evicted(self, tenant: Tenant) -> list[Session]:
        return eviction_order(self._evictable, tenant.name)

    def _quota(self, tenant: Tenant) -> TenantQuota:
        sessions = self._tenants[tenant.name]
        return TenantQuota(tenant, self._max_sessions, sessions, self.clock())
