"""The paths of sessions: what they name, and how logs and metrics show them without the id."""

from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

SESSIONS = "/v1/sessions"
STEP_MANY = "/v1/step"

PREFIX = f"{SESSIONS}/"

OPERATIONS = (
    *("step", "append", "attend", "truncate", "select_tail", "evict", "shift", "rebase"),
    *("reorder", "attach", "fork"),
)
"""Operations of a session: `POST /v1/sessions/{id}/{operation}`."""

EXPORT = "export"
"""What is read of a session: `GET /v1/sessions/{id}/export`."""

ROUTES = (
    *(SESSIONS, f"{PREFIX}{{id}}"),
    *(f"{PREFIX}{{id}}/{name}" for name in (*OPERATIONS, EXPORT)),
)
"""All routes below /v1/sessions."""


class SessionPath(NamedTuple):
    """A path below /v1/sessions."""

    session_id: str
    operation: str
    """The rest of the path, not checked; empty for the session itself."""


def parse(path: str) -> SessionPath:
    """Return what a path names; the path begins with PREFIX."""
    session_id, _, operation = path[len(PREFIX) :].partition("/")
    return SessionPath(session_id, operation)


def route_of(path: str) -> str:
    """Return the route of a path that begins with PREFIX, "other" if no route matches."""
    session_id, _, operation = path[len(PREFIX) :].partition("/")
    return _ROUTES_BY_OPERATION.get(operation, "other") if session_id else "other"


@lru_cache(maxsize=1024)
def hide_id(path: str) -> str:
    """Return a path that begins with PREFIX with a hash in place of the id, which is a secret."""
    session_id, slash, operation = path[len(PREFIX) :].partition("/")
    return f"{PREFIX}{hash_of_id(session_id)}{slash}{operation}"


def hash_of_id(session_id: str) -> str:
    """Return 8 characters that tell sessions apart in logs: of the hash of an id's random part."""
    parts = session_id.split(".")
    random = parts[3] if len(parts) > 3 else session_id
    return sha256(random.encode()).hexdigest()[:8]


_ROUTES_BY_OPERATION = {"": f"{PREFIX}{{id}}"} | {
    name: f"{PREFIX}{{id}}/{name}" for name in (*OPERATIONS, EXPORT)
}
