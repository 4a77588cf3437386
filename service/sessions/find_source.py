"""Find the source of a fork or an attach by its id or its name."""

from service.access.tenant import Tenant
from service.sessions.lifetime.registry import SessionRegistry
from service.sessions.lifetime.session import Session

_ID = "r1."
"""Prefix of all ids. A session whose name has this prefix is found only by its id."""


def find_source(registry: SessionRegistry, source: str, tenant: Tenant) -> Session:
    """Return a live session of a tenant.

    Raises:
        NoSession, SessionGone, WrongOwner: as `SessionRegistry.find`.
    """
    if source.startswith(_ID):
        return registry.find(source, tenant)
    return registry.find_by_name(source, tenant)
