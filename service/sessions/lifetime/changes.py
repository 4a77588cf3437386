"""Changes of a session that are no operations: name, labels, lease, pin, snapshot."""

from collections.abc import Mapping
from typing import Any

from rope_core import ConfigError
from service.sessions.errors import Frozen
from service.sessions.lifetime.lease import LeaseLimits
from service.sessions.lifetime.names import TenantSessions
from service.sessions.lifetime.quotas import TenantQuota
from service.sessions.lifetime.session import Session, check_labels, check_name

MEMBERS = ("name", "labels", "ttl_s", "pinned", "frozen")
"""What may be changed."""


def apply_changes(
    session: Session,
    changes: Mapping[str, Any],
    *,
    sessions: TenantSessions,
    limits: LeaseLimits,
    quota: TenantQuota,
) -> None:
    """Change a session: all changes, or none.

    Args:
        session: a live session.
        changes: values by name, of `MEMBERS`; `name` may be None, which removes the name.
        sessions: live sessions of the tenant.
        limits: of the lease.
        quota: of the tenant.

    Raises:
        ConfigError: a value is not valid.
        Frozen: `frozen` is false, and the session is a snapshot.
        NameTaken, SessionQuota: nothing has changed.
    """
    pinned = _flag(changes, "pinned", session.is_pinned)
    frozen = _flag(changes, "frozen", session.is_frozen)
    labels = check_labels(changes["labels"]) if "labels" in changes else session.labels
    ttl_s = limits.ttl(changes["ttl_s"]) if "ttl_s" in changes else session.lease.ttl_s
    name = changes.get("name", session.name)
    if name is not None:
        check_name(name)
    if session.is_frozen and not frozen:
        raise Frozen
    if pinned and not session.is_pinned:
        quota.check_pin()
    sessions.rename(session, name)
    session.labels, session.lease.ttl_s = labels, ttl_s
    session.is_pinned, session.is_frozen = pinned, frozen


def _flag(changes: Mapping[str, Any], name: str, default: bool) -> bool:
    value = changes.get(name, default)
    if not isinstance(value, bool):
        raise ConfigError(name, "true or false", type(value).__name__)
    return value
