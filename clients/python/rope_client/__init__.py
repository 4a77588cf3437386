"""Client of rope-service: numpy arrays in, numpy arrays out.

`Client` blocks and `AsyncClient` is awaited; both have `rotate`, `attention`, `cos_sin`, `shift`,
`merge`, `resolve`, `diagnose`, `compare`, `positions`, `presets`, `variants`, `ready` and
`version`; and `session`, `open_session`, `sessions` and `step_many` for caches of keys and values
that the service keeps.
"""

from rope_client.aio import AsyncClient
from rope_client.answers import (
    AngleDifference,
    Attended,
    Built,
    Comparison,
    Diagnosis,
    Difference,
    Explanation,
    Measured,
    NamedMistake,
    ParameterDifference,
    Resolved,
    Rotated,
    Shifted,
    Table,
    WorstElement,
)
from rope_client.errors import (
    BadRequest,
    ConnectionFailed,
    NoSession,
    Overloaded,
    RopeClientError,
    SessionConflict,
    SessionFrozen,
    SessionGone,
    SessionMemoryFull,
    SessionTooLong,
    TimedOut,
    UnexpectedAnswer,
)
from rope_client.retry import RetryPolicy
from rope_client.rope_warning import RopeWarning
from rope_client.sessions.asession import AsyncSession, AsyncStream
from rope_client.sessions.document import SessionDocument
from rope_client.sessions.session import Session, Stream
from rope_client.sync import Client

__all__ = [
    "AngleDifference",
    "AsyncClient",
    "AsyncSession",
    "AsyncStream",
    "Attended",
    "BadRequest",
    "Built",
    "Client",
    "Comparison",
    "ConnectionFailed",
    "Diagnosis",
    "Difference",
    "Explanation",
    "Measured",
    "NamedMistake",
    "NoSession",
    "Overloaded",
    "ParameterDifference",
    "Resolved",
    "RetryPolicy",
    "RopeClientError",
    "RopeWarning",
    "Rotated",
    "Session",
    "SessionConflict",
    "SessionDocument",
    "SessionFrozen",
    "SessionGone",
    "SessionMemoryFull",
    "SessionTooLong",
    "Shifted",
    "Stream",
    "Table",
    "TimedOut",
    "UnexpectedAnswer",
    "WorstElement",
]
