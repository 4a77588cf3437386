"""Documents of sessions, as the service sends them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionDocument:
    """A session as the service describes it."""

    id: str = field(repr=False)
    """A secret: a client that has it and the API key can use the session."""

    batch: int
    """Rows."""

    length: tuple[int, ...]
    """Tokens of each row: of its shortest layer."""

    generation: int
    """Rises with each operation that changes tokens, other than an append."""

    name: str | None
    labels: tuple[str, ...]
    frozen: bool
    pinned: bool
    expires_in_s: float | None
    """Seconds until the session ends if nothing uses it."""

    lengths: tuple[tuple[int, ...], ...]
    """`[layers][rows]`; empty in a list of sessions."""

    configuration: Mapping[str, Any] = field(repr=False)
    """With all defaults; empty in a list of sessions."""

    facts: Mapping[str, Any] = field(repr=False)
    """All members, with the names of the API: `bytes`, `reserved_bytes`, `segments`, `tier`,
    `age_s`, `configuration_digest`, ..."""


def document_of(members: Mapping[str, Any]) -> SessionDocument:
    """Return the document of a session.

    Raises:
        KeyError: a member is missing.
    """
    return SessionDocument(
        id=members["id"],
        batch=members.get("batch", len(members["length"])),
        length=tuple(members["length"]),
        generation=members["generation"],
        name=members.get("name"),
        labels=tuple(members.get("labels") or ()),
        frozen=bool(members.get("frozen")),
        pinned=bool(members.get("pinned")),
        expires_in_s=members.get("expires_in_s"),
        lengths=tuple(map(tuple, members.get("lengths") or ())),
        configuration=members.get("configuration") or {},
        facts=members,
    )
