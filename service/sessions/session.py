"""A session: a cache with an owner, a lease, a name, and a memory of its last appends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rope_core.kvcache.cache import KVCache
from service.access.tenant import Tenant
from service.sessions.ids import SessionId
from service.sessions.lease import Lease
from service.sessions.repeats import Repeats
from service.sessions.turns import Turns


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
    name: str | None = None
    labels: tuple[str, ...] = ()
    is_evictable: bool = False
    is_pinned: bool = False
    is_frozen: bool = False
    ended: str = field(default="", init=False)
    """Why the session has ended; empty while it lives."""
