"""The answer to a session operation, before an adapter writes it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from service.batching.run import Completed
from service.wire import Message, Parameters, params_key

NO_TENSORS: Mapping[str, Tensor] = {}

NO_MESSAGE = Message(NO_TENSORS)


class SessionAnswer(NamedTuple):
    """The answer to an operation."""

    message: Message
    status: int = 200
    headers: Mapping[str, str] = {}
    """`X-Session-Expires-In`, `Location`."""
    expires_in_s: Callable[[float], float] | None = None
    """Returns the seconds until the session expires, given the time; for `X-Session-Expires-In`."""
    num_bytes: int = 0
    """Upper bound of the bytes of its tensors."""
    is_document: bool = False
    """Whether the answer is JSON whatever the request accepts."""
    completed: Completed[Any] | None = None
    """The run on the device; None where the operation needed none."""
    backend: str = ""
    """Name of the backend that computed; empty where none did."""
    restore_s: float = 0.0
    """Seconds in which offloaded pages came back to the device; 0 where none were offloaded."""


def message_of(values: Mapping[str, Any], tensors: Mapping[str, Tensor] = NO_TENSORS) -> Message:
    """Return the message of an answer."""
    return Message(tensors, Parameters(values, params_key(values)))
