"""The path of every session operation, whatever its protocol: message, plan, run, answer."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from service.batching.run import Completed
from service.wire import Message


class SessionAnswer(NamedTuple):
    """The answer to an operation, before an adapter writes it."""

    message: Message
    status: int = 200
    headers: Mapping[str, str] = {}
    """`X-Session-Expires-In`, `Location`."""
    num_bytes: int = 0
    """Upper bound of the bytes of its tensors."""
    is_document: bool = False
    """Whether the answer is JSON whatever the request accepts."""
    completed: Completed[Any] | None = None
    """The run on the device; None where the operation needed none."""
    backend: str = ""
    """Name of the backend that computed; empty where none did."""
