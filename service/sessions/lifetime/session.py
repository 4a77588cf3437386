"""A session: a cache with an id, a tenant, a lease, a name, and the digests of its last appends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rope_core import ConfigError
from rope_core.kvcache.cache import KVCache
from service.access.tenant import Tenant
from service.sessions.errors import GoneReason, SessionGone
from service.sessions.lifetime.ids import SessionId
from service.sessions.lifetime.lease import Lease
from service.sessions.lifetime.repeats import Repeats
from service.sessions.lifetime.turns import Turns

MAX_NAME_CHARS = 64
"""Length of the longest name of a session, and of the longest label."""

MAX_LABELS = 16
"""Most labels of a session."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """What a client asks for in addition to a configuration; the registry checks it."""

    ttl_s: float | None = None
    """None: the default."""
    max_age_s: float | None = None
    """None: the limit."""
    is_evictable: bool = False
    name: str | None = None
    labels: Sequence[str] = ()


@dataclass(slots=True, eq=False)
class Session:
    """All state of a session. Only the event loop's thread reads and changes it."""

    id: SessionId
    tenant: Tenant
    cache: KVCache
    configuration: Mapping[str, Any]
    """As documents show it: groups with layers as lists, all defaults written out."""
    configuration_digest: str
    lease: Lease
    turns: Turns
    """Operations run in the order in which they arrived, one at a time."""
    repeats: Repeats
    """Digests of the last appends, and answers by op_id."""
    number: int
    """Sessions of a tenant are numbered in the order of their creation, for lists."""
    name: str | None = None
    labels: tuple[str, ...] = ()
    is_evictable: bool = False
    """Whether the session may be ended to make room for others."""
    is_pinned: bool = False
    """Whether the session stays in the memory of the device."""
    is_frozen: bool = False
    ended: GoneReason | None = field(default=None, init=False)
    """Why the session has ended; None while it lives."""
    ended_at: float = field(default=0.0, init=False)

    @property
    def tier(self) -> str:
        """Where the pages are: `device`, or `host` once they have been offloaded."""
        return "device" if self.cache.bytes_to_restore is None else "host"

    @property
    def charged_bytes(self) -> int:
        """What counts against the tenant's limit: an offloaded session keeps its place."""
        offloaded = self.cache.bytes_to_restore
        return self.cache.reserved_bytes if offloaded is None else offloaded

    def expires_in_s(self, now: float) -> float:
        """Return the seconds until the session ends if nothing uses it any more, at least 0.

        To the millisecond. While the session is in use, the time without use has not begun.
        """
        lease = self.lease
        expires = min(now + lease.ttl_s, lease.ends) if self.turns.is_busy else lease.expires
        return max(0.0, round(expires - now, 3))

    def check_alive(self) -> None:
        """Raise SessionGone if the session has ended: check after each wait for the turn."""
        if self.ended is not None:
            raise SessionGone(self.ended)


def check_name(name: object) -> str:
    """Return a valid name of a session. Raises ConfigError."""
    return _check_text("name", name)


def check_labels(labels: object) -> tuple[str, ...]:
    """Return valid labels, each once. Raises ConfigError."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise ConfigError("labels", "a list of texts", type(labels).__name__)
    unique = tuple(dict.fromkeys(_check_text("labels", label) for label in labels))
    if len(unique) > MAX_LABELS:
        raise ConfigError("labels", f"at most {MAX_LABELS} texts", len(unique))
    return unique


def _check_text(parameter: str, text: object) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_NAME_CHARS or not text.isprintable():
        expected = f"of 1 to {MAX_NAME_CHARS} printable characters"
        got = f"{len(text)} characters" if isinstance(text, str) else type(text).__name__
        raise ConfigError(parameter, expected, got)
    return text
