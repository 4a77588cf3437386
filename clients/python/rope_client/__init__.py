"""Client of rope-service: numpy arrays in, numpy arrays out.

`Client` blocks and `AsyncClient` is awaited; both have `rotate`, `attention`, `cos_sin`, `shift`,
`merge`, `resolve`, `diagnose`, `compare`, `positions`, `presets`, `variants`, `ready` and
`version`.
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
    Overloaded,
    RopeClientError,
    TimedOut,
    UnexpectedAnswer,
)
from rope_client.retry import RetryPolicy
from rope_client.rope_warning import RopeWarning
from rope_client.sync import Client

__all__ = [
    "AngleDifference",
    "AsyncClient",
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
    "Overloaded",
    "ParameterDifference",
    "Resolved",
    "RetryPolicy",
    "RopeClientError",
    "RopeWarning",
    "Rotated",
    "Shifted",
    "Table",
    "TimedOut",
    "UnexpectedAnswer",
    "WorstElement",
]
