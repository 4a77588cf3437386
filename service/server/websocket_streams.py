"""Open the WebSockets of KV sessions: authentication, limits, and the shared receive buffer."""

import time
from urllib.parse import parse_qsl

from service.access.tenant import ANONYMOUS
from service.asgi.request_header import RequestHeader
from service.errors import BadHeader, BadQuery, ShuttingDown
from service.inference.handler import InferenceHandler
from service.lifecycle import Lifecycle
from service.observability import ids
from service.observability.request_log import RequestLog
from service.server.websocket import Handshake, WebSocketConnection
from service.server.websocket_handshake import shake_hands
from service.sessions.errors import SessionsOff
from service.v1.session_stream import (
    SESSION_STREAM_ROUTE,
    STREAM_ROUTE,
    SessionOperations,
    SessionStream,
)

_START, _END = SESSION_STREAM_ROUTE.split("{id}")

RECEIVE_BYTES = 2**18
"""Size of the buffer in which all streams receive."""

PING_S = 20.0
"""Seconds between pings, and until the answer to one."""

_TRUTHS = {"": True, "1": True, "true": True, "0": False, "false": False}


class WebSocketStreams:
    """Opens WebSockets.

    Args:
        handler: runs the operations of sessions; None: sessions are off.
        service: has the settings, the memory budget and the gate.
        lifecycle: no stream is opened once the service is ending.
        request_log: gets a line at the end of each stream.
        ping_s: seconds between pings, and until the answer to one.
    """

    def __init__(
        self,
        handler: SessionOperations | None,
        service: InferenceHandler,
        lifecycle: Lifecycle,
        request_log: RequestLog,
        ping_s: float = PING_S,
    ) -> None:
        self._handler = handler
        self._service = service
        self._lifecycle = lifecycle
        self._request_log = request_log
        self._ping_s = ping_s
        origins = service.settings.session_origins.split(",")
        self._origins = [origin.strip() for origin in origins if origin.strip()]
        self._receive_buffer = memoryview(bytearray(RECEIVE_BYTES))

    def route(self, header: RequestHeader) -> str | None:
        """Return the name of the route of a stream; None: the request is for another route."""
        path = header.path
        if header.method != "GET":
            return None
        if path == STREAM_ROUTE:
            return STREAM_ROUTE
        return None if _session_id(path) is None else SESSION_STREAM_ROUTE

    def open(self, header: RequestHeader) -> WebSocketConnection:
        """Return the connection that answers a handshake.

        Raises:
            ServiceError: the handshake is refused.
        """
        started = time.perf_counter()
        handler, service = self._handler, self._service
        authorization = [value for name, value in header.fields if name == b"authorization"]
        service.gate.authorize(header.path, authorization)
        if handler is None:
            raise SessionsOff
        handler.check_on()
        if self._lifecycle.ending:
            raise ShuttingDown
        headers = dict(header.fields)
        session_id = _session_id(header.path)
        if session_id is not None and _other_id(headers, session_id):
            raise BadHeader("X-Session-Id must be the session of the path")
        request_id = ids.request_id(headers)
        accepted = shake_hands(header, request_id, self._origins, service.settings.max_body_bytes)
        ends_session = _ends_session(header.query, session_id)
        stream = SessionStream(handler, service, header.path, authorization, session_id)
        if stream.tenant is not ANONYMOUS:
            with service.gate.quotas.request(stream.tenant, 0):
                pass
        if session_id is not None:
            handler.find(session_id, stream.tenant)
        route = STREAM_ROUTE if session_id is None else SESSION_STREAM_ROUTE
        handshake = Handshake(request_id, route, started, headers)
        return WebSocketConnection(
            accepted,
            stream,
            handshake,
            self._request_log,
            self._receive_buffer,
            ping_s=self._ping_s,
            ends_session=ends_session,
        )


def _session_id(path: str) -> str | None:
    """Return the id of a session in the path of its stream."""
    if not (path.startswith(_START) and path.endswith(_END)):
        return None
    session_id = path[len(_START) : -len(_END)]
    return session_id if session_id and "/" not in session_id else None


def _other_id(headers: dict[bytes, bytes], session_id: str) -> bool:
    """Return whether the header X-Session-Id names another session."""
    return headers.get(b"x-session-id", session_id.encode()) != session_id.encode()


def _ends_session(query: bytes, session_id: str | None) -> bool:
    """Return whether the session is deleted at the end of the stream: `end_on_close` of the query.

    Raises:
        BadQuery: the query has another parameter, or another value.
    """
    try:
        pairs = parse_qsl(query.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        raise BadQuery("the query must be UTF-8") from None
    if not pairs:
        return False
    if [name for name, _ in pairs] != ["end_on_close"] or pairs[0][1] not in _TRUTHS:
        raise BadQuery("the query of a stream may have end_on_close=true or =false, once")
    if session_id is None:
        raise BadQuery("end_on_close is for the stream of one session")
    return _TRUTHS[pairs[0][1]]
