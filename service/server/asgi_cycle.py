"""One request and its answer, as the messages of ASGI."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol, cast

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from service.asgi import io
from service.asgi.request_body import ChunkedBody, SizedBody
from service.asgi.request_header import HeaderParser, RequestHeader, decode_path
from service.errors import ServiceError

_log = logging.getLogger("uvicorn.error")

SHORT_REST_BYTES = 64 * 2**10
"""Longest rest of a body that is received after an early answer to keep the connection open."""

COMMON_SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "root_path": "",
    "query_string": b"",
}


class Flow(FlowControl):
    """uvicorn's flow control, which also calls `on_resume` when reading goes on."""

    def __init__(self, transport: asyncio.Transport, on_resume: Callable[[], None]) -> None:
        super().__init__(transport)
        self._on_resume = on_resume
        self.is_held = False
        """Whether reading stays paused: enough requests are parsed already."""

    def resume_reading(self) -> None:
        """Resume reading, unless `is_held`."""
        if self.read_paused and not self.is_held:
            super().resume_reading()
            self._on_resume()


class CycleConnection(Protocol):
    """The connection of a request."""

    flow: Flow
    server_state: ServerState

    def write(self, data: Any) -> None:
        """Send bytes."""

    def close(self) -> None:
        """Close after the last answer."""

    def is_closing(self) -> bool:
        """Return whether no further request will be answered."""

    def end_response(self) -> None:
        """Go on with the next request."""


class AsgiCycle(RequestResponseCycle):
    """uvicorn's cycle, but an answer that does not wait for a long body closes the connection.

    Args:
        connection: receives the request and sends the answer.
        scope: of the request.
        body: the reader of its body.
        keep_alive: whether another request may follow.
        expects_continue: whether the client waits for `100 Continue`.
    """

    def __init__(
        self,
        connection: CycleConnection,
        scope: dict[str, Any],
        body: SizedBody | ChunkedBody,
        *,
        keep_alive: bool,
        expects_continue: bool = False,
    ) -> None:
        super().__init__(
            scope=cast(Any, scope),
            transport=cast(Any, connection),
            flow=connection.flow,
            logger=_log,
            access_logger=_log,
            access_log=False,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_continue,
            keep_alive=keep_alive,
            on_response=connection.end_response,
        )
        self.body_reader = body
        self._failure: ServiceError | None = None
        self._is_read = False
        """Whether the application has the whole body."""
        self._may_have_left = False
        """Whether the client has sent its FIN, and may have closed its socket."""

    def fail(self, failure: ServiceError) -> None:
        """Let the application, which waits for the body, answer with `failure`."""
        self._failure = failure
        self.keep_alive = False
        self.message_event.set()

    def end_input(self) -> None:
        """Note that the client may have left, and wake an application that waits for a disconnect.

        An application that does not wait for a disconnect sends its answer.
        """
        self._may_have_left = True
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
        message: Any = None
        if not (self._is_read and self._may_have_left):
            message = await super().receive()
        if self._is_read and self._may_have_left:
            self.disconnected = True
            self.transport.close()
            return {"type": "http.disconnect"}
        if message["type"] == "http.request":
            if self._failure is not None:
                raise self._failure
            self._is_read = not message["more_body"]
        return message

    async def send(self, message: Any) -> None:
        """Send a part of the answer."""
        is_start = message["type"] == "http.response.start"
        if is_start and not self.body_reader.is_short(SHORT_REST_BYTES):
            self.keep_alive = False
        await super().send(message)


def request_scope(common: dict[str, Any], header: RequestHeader) -> dict[str, Any]:
    """Return the scope of a request."""
    return {
        **common,
        "method": header.method,
        "path": header.path,
        "raw_path": header.raw_path,
        "query_string": header.query,
        "http_version": header.version,
        "headers": [*header.fields],
        "state": {},
    }


def refusal_scope(
    common: dict[str, Any], parser: HeaderParser, failure: ServiceError
) -> dict[str, Any]:
    """Return the scope of a request that is answered with `failure`: what is known of it."""
    return {
        **common,
        "method": parser.method or "-",
        "path": decode_path(parser.target.partition(b"?")[0]),
        "headers": parser.fields,
        "state": {},
        io.REFUSAL: failure,
    }
