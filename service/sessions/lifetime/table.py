"""The live sessions of this process: found by id or name, listed, ended by lease."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from service.access.tenant import Tenant
from service.sessions.errors import GoneReason, NoSession, SessionGone
from service.sessions.lifetime.expiry import CallLater, ExpiryTimer, call_later
from service.sessions.lifetime.ids import SessionIds
from service.sessions.lifetime.names import TenantSessions, check_limit, read_cursor, write_cursor
from service.sessions.lifetime.session import Session
from service.sessions.lifetime.tombstones import Tombstones
from service.sessions.lifetime.turns import do_nothing


class SessionTable:
    """The live sessions. For the event loop's thread. It has one timer, at the next expiry.

    Args:
        ids: makes and checks ids.
        clock: monotonic seconds.
        call_later: sets a timer.
    """

    def __init__(
        self,
        ids: SessionIds,
        *,
        clock: Callable[[], float] = time.monotonic,
        call_later: CallLater = call_later,
    ) -> None:
        self.ids = ids
        self.clock = clock
        self.gone: Counter[GoneReason] = Counter()
        """Sessions that have ended, by reason."""
        self._sessions: dict[str, Session] = {}
        """By the random part of the id."""
        self._by_id: dict[str, Session] = {}
        """By the whole id."""
        self._tenants: defaultdict[str, TenantSessions] = defaultdict(TenantSessions)
        self._evictable: dict[Session, None] = {}
        self._tombstones = Tombstones(clock)
        self._expiry = ExpiryTimer(lambda session: self.end(session, "expired"), clock, call_later)

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def sessions(self) -> list[Session]:
        """All live sessions."""
        return [*self._sessions.values()]

    def find(self, session_id: str, tenant: Tenant, *, renew: bool = True) -> Session:
        """Return a live session; renew its lease.

        Raises:
            NoSession, SessionGone, WrongOwner: as `SessionIds.parse`, or it has ended.
        """
        session = self._by_id.get(session_id)
        if session is not None and session.tenant.name == tenant.name:  # the MAC holds: it is ours
            return self.use(session, tenant, renew=renew)
        random = self.ids.parse(session_id, tenant)
        session = self._sessions.get(random)
        if session is None:
            reason = self._tombstones.find(random)
            raise NoSession if reason is None else SessionGone(reason)
        return self.use(session, tenant, renew=renew)

    def find_by_name(self, name: str, tenant: Tenant) -> Session:
        """Return the live session that has a name; renew its lease. Raises NoSession."""
        sessions = self._tenants.get(tenant.name)
        session = None if sessions is None else sessions.find(name)
        if session is None:
            raise NoSession
        return self.use(session, tenant)

    def use(self, session: Session, tenant: Tenant, *, renew: bool = True) -> Session:
        """Return a session of the tenant if it lives; renew its lease. Raises SessionGone."""
        session.check_alive()
        now = self.clock()
        if session.lease.is_over(now, is_busy=session.turns.is_busy):
            if not session.turns.is_busy:
                self.end(session, "expired")
            raise SessionGone("expired")
        session.tenant = tenant  # its limits may have been reloaded
        if renew:
            session.lease.renewed = now
        return session

    def page(
        self,
        tenant: Tenant,
        *,
        labels: Sequence[str] = (),
        name: str | None = None,
        cursor: str | None = None,
        limit: int | str | None = None,
    ) -> tuple[list[Session], str | None]:
        """Return live sessions of a tenant, oldest first, and the cursor of the next page.

        Args:
            tenant: owner of the sessions.
            labels: a session must have all of them.
            name: a session must have this name.
            cursor: of the page before.
            limit: most sessions of the page; None: 100.

        Raises:
            BadQuery: the cursor or the limit is not valid.
        """
        after, size = read_cursor(self.ids.epoch, cursor), check_limit(limit)
        self.end_expired()
        sessions, last = self._tenants[tenant.name].page(
            after=after, labels=labels, name=name, limit=size
        )
        return sessions, None if last is None else write_cursor(self.ids.epoch, last)

    def add(self, session: Session) -> None:
        """Add a new session; its name is free."""
        session.turns.on_idle = partial(self._on_idle, session)
        self._sessions[session.id.random] = self._by_id[session.id.text] = session
        self._tenants[session.tenant.name].add(session)
        if session.is_evictable:
            self._evictable[session] = None
        self._expiry.watch(session)

    def end(self, session: Session, reason: GoneReason) -> None:
        """End a session: leave a tombstone, and give its memory back once it is idle."""
        if session.ended is None:
            self._tombstones.add(session.id.random, reason)
            self.gone[reason] += 1
            self._remove(session, reason)

    def end_expired(self) -> None:
        """End all sessions whose lease is over."""
        self._expiry.sweep()

    def end_all(self, reason: GoneReason) -> None:
        """End all sessions, for example because the device is lost."""
        for session in self.sessions:
            self.end(session, reason)

    def undo_create(self, sessions: Sequence[Session]) -> None:
        """Remove new sessions that no client knows yet, without tombstones and without counting."""
        for session in sessions:
            if session.ended is None:
                self._remove(session, "deleted")

    def close(self) -> None:
        """Stop the timer and give the memory of all sessions back."""
        self.undo_create(self.sessions)
        self._expiry.close()

    def _on_idle(self, session: Session) -> None:
        if session.ended is not None:
            self._close(session)
            return
        now = self.clock()
        if session.turns.last_renews:
            session.lease.renewed = now
        if now >= session.lease.ends:
            self.end(session, "expired")
        else:
            self._expiry.watch(session)

    def _remove(self, session: Session, reason: GoneReason) -> None:
        session.ended, session.ended_at = reason, self.clock()
        del self._sessions[session.id.random], self._by_id[session.id.text]
        self._tenants[session.tenant.name].remove(session)
        self._evictable.pop(session, None)
        self._expiry.forget(session)
        if not session.turns.is_busy:
            self._close(session)

    def _close(self, session: Session) -> None:
        session.turns.on_idle = do_nothing
        session.cache.close()
