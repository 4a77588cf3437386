"""One WebSocket connection, without I/O: bytes in, bytes out."""

import logging
from collections import deque
from collections.abc import Mapping

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Response as HandshakeResponse
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from rope_client.call import Response
from rope_client.errors import BadRequest, ConnectionFailed, RopeClientError, UnexpectedAnswer
from rope_client.problems import members_of, refusal
from rope_client.wire import safetensors_codec

SUBPROTOCOL = "rope.session.v1"

READ_BYTES = 1 << 18
"""Most bytes of one read from a connection."""

# ids of sessions are secrets, and websockets logs the paths of requests at level DEBUG
_SILENT = logging.Logger("rope_client.websocket", logging.CRITICAL)


class Frames:
    """The frames of a connection to a stream of the service.

    Args:
        url: `http://` or `https://` of the stream.
        headers: of the handshake.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self._protocol = ClientProtocol(
            parse_uri(url.replace("http", "ws", 1)),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            max_size=None,
            logger=_SILENT,
        )
        request = self._protocol.connect()
        request.headers.update(headers)
        self._protocol.send_request(request)
        self._parts: list[bytes] = []
        self._is_text = False
        self._answers: deque[Response] = deque()
        self._refusal: RopeClientError | None = None

    @property
    def is_open(self) -> bool:
        """Whether the handshake has succeeded, and no side has closed."""
        return self._protocol.state is State.OPEN

    def send(self, content: bytes) -> None:
        """Send a binary message."""
        self._protocol.send_binary(content)

    def close(self) -> None:
        """Send a close frame."""
        if self.is_open:
            self._protocol.send_close(1000)

    def bytes_to_send(self) -> bytes:
        """Return the bytes that are to be sent now."""
        pieces = self._protocol.data_to_send()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def receive(self, data: bytes) -> None:
        """Take bytes from the connection; none at its end."""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, HandshakeResponse):
                self._take_handshake(event)
            elif isinstance(event, Frame):
                self._take_frame(event)

    def answer(self) -> Response | None:
        """Return the next answer; None if there is none yet.

        Raises:
            RopeClientError: the handshake was refused, or the connection is closed.
        """
        if self._answers:
            return self._answers.popleft()
        if self._refusal is not None:
            raise self._refusal
        if self._protocol.state in (State.CLOSING, State.CLOSED):
            closed = self._protocol.close_rcvd
            if closed is not None and closed.code == CloseCode.MESSAGE_TOO_BIG:
                raise BadRequest("the message is larger than the service takes")
            raise ConnectionFailed(self._reason())
        return None

    def _take_handshake(self, response: HandshakeResponse) -> None:
        if self._protocol.handshake_exc is None:
            return
        headers = {name.lower(): value for name, value in response.headers.raw_items()}
        if response.status_code == 101:
            self._refusal = UnexpectedAnswer(f"no WebSocket: {self._protocol.handshake_exc}")
        else:
            self._refusal = refusal(
                Response(response.status_code, headers, bytes(response.body or b""))
            )

    def _take_frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._is_text = frame.opcode is Opcode.TEXT
        elif frame.opcode is not Opcode.CONT:
            return
        self._parts.append(bytes(frame.data))
        if not frame.fin:
            return
        content = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        if self._is_text:
            status = members_of(content).get("status")
            code = status if isinstance(status, int) else 500
            self._answers.append(Response(code, {}, content))
        else:
            headers = {"content-type": safetensors_codec.MEDIA_TYPE}
            self._answers.append(Response(200, headers, content))

    def _reason(self) -> str:
        protocol = self._protocol
        if protocol.handshake_exc is not None:
            return f"no WebSocket: {protocol.handshake_exc}"
        if protocol.close_rcvd is not None:
            return f"the service closed the stream: {protocol.close_rcvd}"
        error = protocol.parser_exc
        return f"the stream broke: {error}" if error is not None else "the stream broke"
