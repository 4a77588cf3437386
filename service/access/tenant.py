"""Who a request is from, and what it may do."""

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """A group of routes and methods that a key opens."""

    INFER = "infer"
    """Routes that compute, and the descriptions of models, presets and variants."""
    SESSIONS = "sessions"
    """Routes of KV sessions."""
    ADMIN = "admin"
    """Routes that change the service, such as the registration of shared memory."""
    METRICS = "metrics"
    """Measurements."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A user of the service, or all users of a service without keys."""

    name: str
    scopes: frozenset[Scope] = frozenset((Scope.INFER,))
    weight: float = 1.0
    """Share of the device, in relation to the weights of the other tenants that have calls."""
    requests_per_s: float | None = None
    """Most requests in a second; None: there is no limit."""
    bytes_per_s: float | None = None
    """Most bytes of bodies in a second, of requests; None: there is no limit."""
    compute_s_per_s: float | None = None
    """Most seconds of computing in a second; None: there is no limit."""
    max_concurrent: int | None = None
    """Most requests at a time; None: there is no limit."""

    @property
    def has_limits(self) -> bool:
        """Whether the tenant has a limit."""
        limits = self.requests_per_s, self.bytes_per_s, self.compute_s_per_s, self.max_concurrent
        return any(limit is not None for limit in limits)


ANONYMOUS = Tenant("anonymous", frozenset(Scope))
"""The tenant of all requests to a service without keys."""
