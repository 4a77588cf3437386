"""Tenants, and the scopes that a tenant may have."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """A group of HTTP routes and gRPC methods. A tenant may call those of its scopes."""

    INFER = "infer"
    """Routes that compute, and the descriptions of models, presets and variants."""
    SESSIONS = "sessions"
    """Routes of KV sessions."""
    ADMIN = "admin"
    """Routes that change the service, such as the registration of shared memory."""
    METRICS = "metrics"
    """Metrics of the service and statistics of models."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A client of the service, identified by its API keys, with scopes and limits."""

    name: str
    scopes: frozenset[Scope] = frozenset((Scope.INFER,))
    weight: float = 1.0
    """Weight in fair queueing: tenants that have waiting calls get device time in this ratio."""
    requests_per_s: float | None = None
    """Most requests per second; None: no limit."""
    bytes_per_s: float | None = None
    """Most bytes of request bodies per second; None: no limit."""
    compute_s_per_s: float | None = None
    """Most seconds of device time per second; None: no limit."""
    max_concurrent: int | None = None
    """Most requests in progress at a time; None: no limit."""
    max_sessions: int | None = None
    """Most KV sessions; None: the limit of the settings."""
    max_kv_bytes: int | None = None
    """Most bytes that KV sessions reserve; None: no limit."""
    max_pinned: int | None = None
    """Most KV sessions that are pinned; None: no limit."""

    @property
    def has_limits(self) -> bool:
        """Whether the keys file limits the requests of the tenant."""
        limits = self.requests_per_s, self.bytes_per_s, self.compute_s_per_s, self.max_concurrent
        return any(limit is not None for limit in limits)


ANONYMOUS = Tenant("anonymous", frozenset(Scope))
"""The tenant of all requests to a service without keys."""
