"""A call before it is sent, and the HTTP response to one attempt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypedDict, TypeVar

from rope_client.errors import RopeClientError
from rope_client.wire import Encoding, codec_for
from rope_client.wire.message import Message

T = TypeVar("T")


class Options(TypedDict, total=False):
    """Options of every method."""

    timeout_s: float
    """Deadline of this call, with all attempts and pauses; replaces the client's.

    The time starts when the call gets one of the places of its client (`max_concurrency`). The
    service keeps the deadline as well. An attempt may take longer if bytes arrive slowly:
    httpx applies the remaining time to connecting, to each write and to each read.
    """

    request_id: str
    """Identifier in the service's log: up to 64 of `[A-Za-z0-9._-]`; random if missing."""


@dataclass(frozen=True, slots=True)
class Response:
    """The HTTP response of one attempt."""

    status: int
    headers: Mapping[str, str]
    content: bytes


def message_of(response: Response) -> Message:
    """Return the message of a response; KeyError if its type is unknown."""
    return codec_for(response.headers["content-type"]).decode(response.content)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Call(Generic[T]):
    """One call, not yet encoded."""

    path: str

    message: Message | None
    """The message to send; None: no body."""

    read: Callable[[Response], T]
    """Reads the answer; raises any exception if the answer has another form."""

    options: Options

    is_idempotent: bool
    """Whether a second run does no harm; other calls are attempted once."""

    read_failure: Callable[[RopeClientError], T] | None = None
    """Turns a failure into an answer, or raises it; such a call is attempted once."""

    warnings: tuple[str, ...] = ()
    """Warnings of the client about the arguments."""

    method: str | None = None
    """HTTP method; None: POST with a message, GET without."""

    headers: Mapping[str, str] = field(default_factory=dict)
    """Further headers of the request."""

    encoding: Encoding | None = None
    """Of the message; None: that of the client."""

    answered_with: int = 200
    """HTTP status of an answer; any other is a failure."""

    def __post_init__(self) -> None:
        # `Unpack` binds only the type checker: at run time the options may hold any name
        if unknown := self.options.keys() - Options.__annotations__.keys():
            raise TypeError(f"{self.path} has no argument {', '.join(sorted(unknown))}")
