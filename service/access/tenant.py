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


ANONYMOUS = Tenant("anonymous", frozenset(Scope))
"""The tenant of all requests to a service without keys."""
