"""Ids of sessions: the id names the process that has the session, and a MAC protects the id."""

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2b

from service.access.tenant import Tenant
from service.sessions.errors import NoSession, SessionGone, WrongOwner
from service.sessions.paths import hash_of_id

MAX_ID_CHARS = 128
"""Length of the longest id."""

_ID = re.compile(
    r"(r1\.([A-Za-z0-9_-]{1,63})\.([A-Za-z0-9_-]{1,32})\.([A-Za-z0-9_-]{22}))\.([A-Za-z0-9_-]{11})"
)


@dataclass(frozen=True, slots=True)
class SessionId:
    """`r1.<owner>.<epoch>.<22 characters: 128 random bits>.<MAC: 64 bits>`. A secret."""

    owner: str
    """Name of the process that has the session, such as the ordinal of a replica."""
    epoch: str
    """Random text, made at the start of that process."""
    random: str
    text: str
    """The whole id."""

    def __repr__(self) -> str:
        return f"SessionId({hash_of_id(self.text)})"


class SessionIds:
    """Makes and checks the ids of one process.

    Args:
        owner: name of this process, 1 to 63 letters, digits, `_` or `-`.
        key: secret of the MAC, the same in all processes; None: a random one. Without a given key,
            ids of other processes and epochs cannot be checked; each that is well formed gets the
            same answer.
    """

    def __init__(self, owner: str = "0", key: bytes | None = None) -> None:
        self.owner = owner
        self.epoch = secrets.token_urlsafe(6)
        self._has_given_key = key is not None
        secret = secrets.token_bytes(32) if key is None else key
        # blake2b takes keys of at most 64 bytes
        key = blake2b(secret, digest_size=32, person=b"rope id key").digest()
        self._mac_state = blake2b(digest_size=8, key=key, person=b"rope session id")
        self._tenant_states: dict[str, blake2b] = {}
        """States of the MAC after the name of a tenant."""

    def new(self, tenant: Tenant) -> SessionId:
        """Return a new id for a tenant."""
        random = secrets.token_urlsafe(16)
        signed = f"r1.{self.owner}.{self.epoch}.{random}"
        text = f"{signed}.{self._mac(signed, tenant)}"
        return SessionId(self.owner, self.epoch, random, text)

    def parse(self, text: str, tenant: Tenant) -> str:
        """Return the random part of a valid id of this process and epoch.

        Raises:
            NoSession: the id is not well formed, forged, or of another tenant.
            SessionGone: the id is of another epoch of this owner.
            WrongOwner: the id is of another owner.
        """
        match = _ID.fullmatch(text) if len(text) <= MAX_ID_CHARS else None
        if match is None:
            raise NoSession
        signed, owner, epoch, random, mac = match.groups()
        is_ours = owner == self.owner and epoch == self.epoch
        if (is_ours or self._has_given_key) and not hmac.compare_digest(
            mac, self._mac(signed, tenant)
        ):
            raise NoSession
        if owner != self.owner:
            raise WrongOwner(owner)
        if epoch != self.epoch:
            raise SessionGone("restarted")
        return random

    def _mac(self, signed: str, tenant: Tenant) -> str:
        state = self._tenant_states.get(tenant.name)
        if state is None:
            name = tenant.name.encode()
            state = self._mac_state.copy()
            state.update(len(name).to_bytes(4, "big") + name)
            self._tenant_states[tenant.name] = state
        mac = state.copy()
        mac.update(signed.encode())
        return urlsafe_b64encode(mac.digest())[:11].decode()
