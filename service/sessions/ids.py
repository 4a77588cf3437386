"""Ids of sessions: who has the session is written in its id, and a MAC protects the id."""

from dataclasses import dataclass
from typing import Self

from service.access.tenant import Tenant


@dataclass(frozen=True, slots=True)
class SessionId:
    """`r1.<owner>.<epoch>.<22 characters: 128 random bits>.<MAC: 64 bits>`."""

    owner: str
    """Name of the process that has the session, such as the ordinal of a replica."""
    epoch: str
    """Random text, made at the start of that process."""
    random: str
    text: str
    """The whole id."""


class SessionIds:
    """Makes and checks the ids of one process.

    Args:
        owner: name of this process, `ROPE_SESSION_OWNER`.
        key: of the MAC; None: a random one.
    """

    def __init__(self, owner: str = "0", key: bytes | None = None) -> None:
        raise NotImplementedError

    def new(self, tenant: Tenant) -> SessionId:
        """Return a new id for a tenant."""
        raise NotImplementedError

    def parse(self, text: str, tenant: Tenant) -> SessionId:
        """Return a valid id of this process and epoch.

        Raises:
            NoSession: the id is not well formed, forged, or of another tenant.
            SessionGone: the id is of another epoch of this owner.
            WrongOwner: the id is of another owner.
        """
        raise NotImplementedError

    @classmethod
    def from_settings(cls) -> Self:
        """See the settings of sessions."""
        raise NotImplementedError
