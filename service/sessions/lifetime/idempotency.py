"""Idempotency keys: repeats of a create, a fork or an import are answered, and not run again."""

from asyncio import Event
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from rope_core import ConfigError
from service.access.tenant import Tenant
from service.errors import BadHeader
from service.sessions.lifetime.session import Session

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

MAX_KEYS = 2048
"""Most keys of a tenant that are kept; keys of ended sessions are removed first."""

MAX_KEY_CHARS = 255
"""Length of the longest key."""


def request_digest(path: str, body: bytes | bytearray | memoryview) -> bytes:
    """Return the digest of a request. It takes 0.7 ms for each MiB, without the interpreter's lock.

    Args:
        path: with the query.
        body: as received.
    """
    digest = begin_digest(path)
    digest.update(body)
    return digest.digest()


def begin_digest(path: str) -> "Hash":
    """Return the hash of a path; the caller adds the body in parts with `update`."""
    return sha256(b"%d:" % len(path.encode()) + path.encode())


class Recorded(NamedTuple):
    """What a request with a key has created."""

    status: int
    """Of its answer."""
    sessions: tuple[Session, ...]
    """Live or ended."""

    @property
    def is_gone(self) -> bool:
        """Whether all of the sessions have ended."""
        return all(session.ended is not None for session in self.sessions)

    def is_past(self, now: float) -> bool:
        """Return whether all sessions ended longer ago than their time to live."""
        return self.is_gone and all(
            now >= session.ended_at + session.lease.ttl_s for session in self.sessions
        )


@dataclass(slots=True, eq=False)
class _Entry:
    """A key that is in use."""

    digest: bytes
    """Of the request."""
    done: Event = field(default_factory=Event)
    """Set when the request has ended."""
    recorded: Recorded | None = None
    """None: the request has not ended."""


class IdempotencyKeys:
    """The keys of all tenants. For the event loop's thread.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._tenants: dict[str, dict[str, _Entry]] = {}
        """By name of the tenant and key, oldest first."""

    def has_recorded(self, tenant: Tenant, key: str) -> bool:
        """Return whether a request with the key has created sessions before."""
        entry = self._tenants.get(tenant.name, {}).get(key)
        return entry is not None and entry.recorded is not None

    def claim(self, tenant: Tenant, key: str, digest: bytes) -> "Claim":
        """Return a claim of a key, for `async with`.

        Args:
            tenant: of the request.
            key: value of the header `Idempotency-Key`.
            digest: `request_digest`.

        Raises:
            BadHeader: the key is not valid.
        """
        if not (1 <= len(key) <= MAX_KEY_CHARS and key.isascii() and key.isprintable()):
            raise BadHeader(f"Idempotency-Key must have 1 to {MAX_KEY_CHARS} printable characters")
        entries = self._tenants.setdefault(tenant.name, {})
        return Claim(entries, key, digest, self._clock)


class Claim:
    """A request with a key. Between begin and end of `async with`, equal requests wait.

    `recorded` is what an equal request has created before. If it is None, the request runs, and
    calls `record` when it has succeeded. Without `record` the key is removed at the end.
    """

    def __init__(
        self, entries: dict[str, _Entry], key: str, digest: bytes, clock: Callable[[], float]
    ) -> None:
        self.recorded: Recorded | None = None
        self._entries = entries
        self._key = key
        self._clock = clock
        self._entry = _Entry(digest)
        self._is_kept = False

    def record(self, status: int, sessions: tuple[Session, ...]) -> None:
        """Remember what the request has created, and the status of its answer."""
        self._entry.recorded = Recorded(status, sessions)
        self._entry.done.set()

    def keep(self) -> None:
        """Keep the key after the `async with` block; the caller must call `end` later."""
        self._is_kept = True

    def end(self) -> None:
        """Remove the key, unless `record` was called. Idempotent."""
        if self._entries.get(self._key) is self._entry and self._entry.recorded is None:
            del self._entries[self._key]
        self._entry.done.set()

    async def __aenter__(self) -> Self:
        """Wait for an equal request that has begun before.

        Raises:
            ConfigError: the key belongs to another request.
        """
        while entry := self._find():
            if entry.digest != self._entry.digest:
                expected = "another for each request of the tenant"
                raise ConfigError("Idempotency-Key", expected, "that of another path or body")
            if entry.recorded is not None:
                self.recorded = entry.recorded
                return self
            await entry.done.wait()
        self._make_room()
        self._entries[self._key] = self._entry
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_kept:
            self.end()

    def _find(self) -> _Entry | None:
        entry = self._entries.get(self._key)
        if entry is not None and entry.recorded and entry.recorded.is_past(self._clock()):
            del self._entries[self._key]
            return None
        return entry

    def _make_room(self) -> None:
        if len(self._entries) < MAX_KEYS:
            return
        ended = [(key, entry.recorded) for key, entry in self._entries.items() if entry.recorded]
        now = self._clock()
        gone = [key for key, recorded in ended if recorded.is_past(now)]
        gone = gone or [key for key, recorded in ended if recorded.is_gone][:1]
        for key in gone or [key for key, _ in ended][:1]:
            del self._entries[key]
