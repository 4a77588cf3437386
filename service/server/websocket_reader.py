"""Join the frames that the library parses into messages, within limits."""

from collections import deque
from typing import NamedTuple, cast

from websockets.frames import CloseCode, Frame, Opcode
from websockets.server import ServerProtocol

from service.batching.admission import Charge
from service.errors import Overloaded
from service.server.websocket_pings import Pings

SMALL_FRAME_BYTES = 2**10

MAX_SMALL_FRAMES = 1000
"""Most pings, pongs, and short pieces of messages between two pings of the server."""

UNCHARGED_BYTES = 2**16
"""A part of a message up to this size is not charged before the message is complete."""


class Violation(NamedTuple):
    """Why a WebSocket closes."""

    code: CloseCode
    reason: str


class MessageReader:
    """Joins frames into messages.

    Args:
        protocol: of the WebSocket.
        pings: gets the pongs.
        charge: for the memory of a message that is being received.
    """

    def __init__(self, protocol: ServerProtocol, pings: Pings, charge: Charge) -> None:
        self._protocol = protocol
        self._pings = pings
        self._charge = charge
        self._fragments: bytearray | None = None
        """A message of several frames, up to the last frame that was received."""
        self.messages: deque[bytes | bytearray] = deque()
        """Complete messages, in order."""
        self.is_in_message = False
        """Whether a part of a message was received."""
        self.num_small_frames = 0
        """Pings, pongs and short pieces of messages; the connection sets it back."""
        self.num_ping_bytes = 0
        """Bytes of pings; the connection sets it back."""
        self._violation: Violation | None = None

    def parse(self, piece: memoryview) -> Violation | None:
        """Parse received bytes; return why the connection must close, if it must.

        The library may have closed already, and may have something to send.
        """
        protocol = self._protocol
        protocol.receive_data(cast(bytes, piece))
        for frame in protocol.events_received():
            self._handle(cast(Frame, frame))
        if self.num_small_frames > MAX_SMALL_FRAMES:
            self._violation = Violation(CloseCode.POLICY_VIOLATION, "too many short frames")
        num_bytes = len(protocol.reader.buffer) + len(self._fragments or b"")
        self.is_in_message = num_bytes > 0 or self._fragments is not None
        if num_bytes > UNCHARGED_BYTES:
            self._charge_part(num_bytes)
        elif self._charge.num_bytes:
            self._charge.release()
        return self._violation

    def drop(self) -> None:
        """Drop all messages, complete or not."""
        self.messages.clear()
        self._fragments = None
        self.is_in_message = False
        self._charge.release()

    def _handle(self, frame: Frame) -> None:
        match frame.opcode:
            case Opcode.BINARY if frame.fin:
                self.messages.append(cast(bytes, frame.data))
                return
            case Opcode.BINARY:
                self._fragments = bytearray(frame.data)
            case Opcode.CONT if self._fragments is not None:
                self._fragments += frame.data
                if frame.fin:
                    self.messages.append(self._fragments)
                    self._fragments = None
            case Opcode.TEXT:
                self._violation = Violation(
                    CloseCode.UNSUPPORTED_DATA, "messages are binary frames"
                )
            case Opcode.PONG:
                self._pings.receive(bytes(frame.data))
            case Opcode.PING:
                self.num_ping_bytes += len(frame.data)
        self.num_small_frames += len(frame.data) < SMALL_FRAME_BYTES

    def _charge_part(self, num_bytes: int) -> None:
        """Charge for a part of a message; the library holds a frame twice while it is unmasked."""
        missing_bytes = 2 * num_bytes - self._charge.num_bytes
        if missing_bytes > 0:
            try:
                self._charge.add(missing_bytes)
            except Overloaded:
                self._violation = Violation(
                    CloseCode.TRY_AGAIN_LATER, "too little memory for the message"
                )
