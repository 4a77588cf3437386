"""One request and its answer, as the messages of ASGI."""

from typing import Any, Protocol

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.asgi.request_body import ChunkedBody, SizedBody
from service.errors import ServiceError

SHORT_REST_BYTES = 64 * 2**10
"""Longest rest of a body that is received after an early answer, so that the connection lives."""


class ResponseTransport(Protocol):
    """What a cycle needs of a connection."""

    def write(self, data: Any) -> None:
        """Send bytes."""

    def close(self) -> None:
        """Close the connection after its last answer."""

    def is_closing(self) -> bool:
        """Return whether the connection is closed, or about to."""


class AsgiCycle(RequestResponseCycle):
    """uvicorn's cycle, but an answer that does not wait for a long body closes the connection.

    Attributes:
        request_body: the reader of the body.
    """

    request_body: SizedBody | ChunkedBody
    _failure: ServiceError | None = None

    def fail(self, failure: ServiceError) -> None:
        """Let the application, which waits for the body, answer with `failure`."""
        self._failure = failure
        self.keep_alive = False
        self.message_event.set()

    def disconnect(self) -> None:
        """Tell the application that the client has left."""
        self.disconnected = not self.response_complete
        self.message_event.set()

    async def receive(self) -> Any:
        """Return the next part of the body, or the disconnect.

        Raises:
            ServiceError: the rest of the body cannot be received.
        """
        message = await super().receive()
        if self._failure is not None and message["type"] == "http.request":
            raise self._failure
        return message

    async def send(self, message: Any) -> None:
        """Send a part of the answer."""
        is_start = message["type"] == "http.response.start"
        if is_start and not self.request_body.is_short(SHORT_REST_BYTES):
            self.keep_alive = False
        await super().send(message)
