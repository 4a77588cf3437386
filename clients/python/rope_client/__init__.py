"""Client of rope-service: numpy arrays in, numpy arrays out.

`Client` blocks and `AsyncClient` is awaited; both have `rotate`, `attention`, `cos_sin`, `shift`,
`merge`, `resolve`, `positions`, `presets`, `variants`, `ready` and `version`.
"""

from rope_client.aio import AsyncClient
from rope_client.answers import Attended, Built, Resolved, Rotated, Shifted, Table
from rope_client.errors import (
    BadRequest,
    ConnectionFailed,
    Overloaded,
    RopeClientError,
    TimedOut,
    UnexpectedAnswer,
)
from rope_client.retry import RetryPolicy
from rope_client.rope_warning import RopeWarning
from rope_client.sync import Client

__all__ = [
    "AsyncClient",
    "Attended",
    "BadRequest",
    "Built",
    "Client",
    "ConnectionFailed",
    "Overloaded",
    "Resolved",
    "RetryPolicy",
    "RopeClientError",
    "RopeWarning",
    "Rotated",
    "Shifted",
    "Table",
    "TimedOut",
    "UnexpectedAnswer",
]
