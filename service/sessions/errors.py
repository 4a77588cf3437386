"""Errors of KV sessions. The session is unchanged after each of them.

`members` are further members of the problem document.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from service.errors import ServiceError, TimedOut, TooLarge

GoneReason = Literal["expired", "evicted", "deleted", "device_lost", "restarted", "owner_lost"]


class SessionError(ServiceError):
    """An error of a KV session."""

    def __init__(self, text: str, members: Mapping[str, Any] | None = None) -> None:
        ServiceError.__init__(self, text)  # a class with another base has another constructor
        self.members: Mapping[str, Any] = members or {}


class NoSession(SessionError):
    """No session has that id."""

    def __init__(self) -> None:
        super().__init__("no session has this id")


class SessionGone(SessionError):
    """The session has ended."""

    def __init__(self, reason: GoneReason) -> None:
        super().__init__(f"the session has ended: {reason}", {"reason": reason})


class SessionConflict(SessionError):
    """The session is not in the state that the request expects."""

    def __init__(self, text: str, *, length: Sequence[int], generation: int, **more: Any) -> None:
        super().__init__(text, {**more, "length": [*length], "generation": generation})


class LayersDiffer(SessionError):
    """The layers of the session have different lengths."""


class RolledPast(SessionError):
    """The request needs tokens behind the window, which are no longer kept."""


class NameTaken(SessionError):
    """Another session of the tenant has that name."""


class SessionTooLong(SessionError, TooLarge):
    """A row would be longer than the session allows, or the reservation could never fit."""

    def __init__(self, text: str, members: Mapping[str, Any] | None = None) -> None:
        SessionError.__init__(self, text, members)


class WrongOwner(SessionError):
    """Another process has the session."""

    def __init__(self, owner: str) -> None:
        super().__init__("another process has the session", {"owner": owner})
        self.owner = owner


class Frozen(SessionError):
    """The session is a snapshot and cannot be changed."""

    def __init__(self) -> None:
        super().__init__("the session is frozen: fork it, and change the fork")


class SessionQuota(SessionError):
    """A limit of the tenant's sessions is exceeded."""


class NoKVMemory(SessionError):
    """Too little memory is free for a new session; another replica may have more."""

    def __init__(self, wanted_bytes: int, free_bytes: int) -> None:
        self.wanted_bytes, self.free_bytes = wanted_bytes, free_bytes
        text = f"a new session needs {wanted_bytes:,} bytes, and {free_bytes:,} are free"
        super().__init__(text, {"wanted_bytes": wanted_bytes, "free_bytes": free_bytes})


class KVMemoryFull(SessionError):
    """Too little memory is free for the session to grow; no other replica can help."""

    def __init__(self, wanted_bytes: int, free_bytes: int) -> None:
        self.wanted_bytes, self.free_bytes = wanted_bytes, free_bytes
        text = f"the session needs {wanted_bytes:,} more bytes, and {free_bytes:,} are free"
        super().__init__(text, {"wanted_bytes": wanted_bytes, "free_bytes": free_bytes})


class OperationTimedOut(SessionError, TimedOut):
    """The deadline passed before the answer."""

    def __init__(self, committed: bool | Literal["unknown"]) -> None:
        text = "the deadline passed before the answer"
        SessionError.__init__(self, text, {"committed": committed})


class SessionsOff(SessionError):
    """KV sessions are switched off."""

    def __init__(self) -> None:
        super().__init__(
            "KV sessions are off: set ROPE_SESSIONS, or API keys if the service listens on an "
            "address that is not loopback"
        )
