"""TLS transport of one connection, with backpressure.

The event loop's own TLS buffers a whole answer at once and reports an empty write buffer, so a
client that does not read could neither be detected nor bounded. This transport encrypts an answer
in pieces, as the kernel accepts them, and counts the bytes that wait.
"""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, cast

import uvicorn
from uvicorn.server import ServerState

from service.access.certificates import Certificates
from service.server.connection_limits import ConnectionLimits
from service.server.tls_records import TlsRecords
from service.wire import Buffer

log = logging.getLogger("rope.tls")

RECEIVE_BYTES = 2**18
"""Size of the receive buffer that all connections share."""

PIECES_PER_TURN = 4
"""Pieces of `PIECE_BYTES` that one connection sends in one iteration of the event loop. At most one
such piece waits in the TCP transport."""

HIGH_WATER_BYTES = 2**16
"""Default number of waiting bytes above which the protocol is paused."""


class SecuredProtocol(Protocol):
    """The protocol that receives the decrypted bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def eof_received(self) -> bool | None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
    def shutdown(self) -> None: ...


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """TLS of one connection: the protocol of its TCP transport, and the transport of its protocol.

    Args:
        certificates: certificates of the service.
        receive_buffer: shared by all connections: each packet is handled before the next is read.
        limits: what all connections share.
        make_protocol: makes the protocol after the handshake, from the arguments that follow.
        config, server_state, app_state: those of uvicorn.
    """

    def __init__(
        self,
        certificates: Certificates,
        receive_buffer: memoryview,
        limits: ConnectionLimits,
        make_protocol: Callable[..., SecuredProtocol],
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._receive_buffer = receive_buffer
        self._context = certificates.current().context
        self._records = TlsRecords(self._context)
        self._make_protocol = partial(make_protocol, config, server_state, app_state)
        self._protocol: SecuredProtocol | None = None
        """None during the handshake, and after the connection is lost."""
        self._connections = cast(set[Any], server_state.connections)
        self._pacer = limits.pacer
        self._handshake_s = limits.deadlines.timeouts.header_s
        self._is_full = False
        """Whether the TCP transport has bytes that the kernel has not taken."""
        self._water_marks = HIGH_WATER_BYTES // 4, HIGH_WATER_BYTES
        """Waiting bytes at which the protocol is resumed, and above which it is paused."""
        self._is_protocol_paused = False
        self._is_reading_paused = False
        self._has_received_eof = False
        self._has_written_eof = False
        self._is_closing = False
        self._is_ending = False
        """Whether the service is shutting down."""

    # as the protocol of the TCP transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the handshake."""
        self._loop = asyncio.get_running_loop()
        self._transport = cast(asyncio.Transport, transport)
        self._fd = transport.get_extra_info("socket").fileno()
        self._transport.set_write_buffer_limits(high=0)
        self._connections.add(self)
        self._timer = self._loop.call_later(self._handshake_s, self._transport.abort)
        self._pacer.opened()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the event on to the protocol."""
        self._timer.cancel()
        self._connections.discard(self)
        self._is_closing = True
        self._records.drop_waiting()
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            self._pacer.closed()
        else:
            protocol.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the receive buffer."""
        return self._receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Decrypt received bytes."""
        if self._is_closing or self._has_written_eof:
            return  # the protocol takes no more bytes
        self._records.receive(self._receive_buffer[:nbytes])
        if self._protocol is None:
            self._shake_hands()
        self._read()

    def eof_received(self) -> bool:
        """Return whether the connection stays open: until its answers are sent."""
        self._has_received_eof = True
        if self._has_written_eof:
            self.close()
        else:
            self._read()
        return self._protocol is not None

    def pause_writing(self) -> None:
        """Stop encrypting: the TCP transport is full."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Resume encrypting: the kernel has all encrypted bytes."""
        self._is_full = False
        self._send()

    def shutdown(self) -> None:
        """Shut the protocol down after the handshake; called when the service ends."""
        self._is_ending = True

    # as a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return information on the connection, as asyncio's transports do."""
        match name:
            case "sslcontext":
                return self._context
            case "has_undelivered_bytes":
                return self._records.has_partial_record or self._records.has_received_bytes
        return self._transport.get_extra_info(name, default)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that gets the decrypted bytes."""
        return cast(asyncio.BaseProtocol, self._protocol)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol get the decrypted bytes from now on."""
        self._protocol = cast(SecuredProtocol, protocol)

    def is_closing(self) -> bool:
        """Return whether the connection is closed, or closes when all bytes are sent."""
        return self._is_closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Deliver no bytes until `resume_reading`."""
        if not self.is_closing():
            self._is_reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Deliver bytes."""
        if self._is_reading_paused and not self.is_closing():
            self._is_reading_paused = False
            self._transport.resume_reading()
            self._loop.call_soon(self._read)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the sizes at which the protocol is paused and resumed."""
        high = HIGH_WATER_BYTES if high is None else high
        self._water_marks = high // 4 if low is None else low, high
        self._control_protocol()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that the kernel has not taken."""
        return self._records.num_waiting + self._transport.get_write_buffer_size()

    def write(self, data: Buffer) -> None:
        """Send bytes without a copy: their memory must not change until they are sent."""
        self.writelines((data,))

    def writelines(self, parts: Iterable[Buffer]) -> None:
        """Send parts, one after the other, as `write` does."""
        if self._is_closing or self._has_written_eof:
            return
        self._records.add(parts)
        self._send()

    def can_write_eof(self) -> bool:
        """Return True: the sending side can be closed alone."""
        return True

    def write_eof(self) -> None:
        """Close the sending side when all bytes are sent. No more bytes are received."""
        if not (self.is_closing() or self._has_written_eof):
            self._has_written_eof = True
            self._send()

    def close(self) -> None:
        """Close when all bytes are sent."""
        if self.is_closing():
            return
        self._is_closing = True
        self._send()

    def abort(self) -> None:
        """Close at once, and discard bytes that are not sent."""
        self._is_closing = True
        self._records.drop_waiting()
        self._transport.abort()

    # decrypting and encrypting

    def _shake_hands(self) -> None:
        """Continue the handshake; make the protocol when it is complete."""
        try:
            is_complete = self._records.shake_hands()
        except ssl.SSLError as failure:
            log.debug("a TLS handshake failed: %s", failure)
            self._is_closing = True
            self._write_encrypted()  # the alert with the reason
            self._transport.close()
            return
        self._write_encrypted()
        if not is_complete:
            return
        self._timer.cancel()
        self._connections.discard(self)
        self._protocol = protocol = self._make_protocol()
        protocol.connection_made(self)
        self._pacer.closed()  # the protocol counts the connection from now on
        if self._is_ending:
            protocol.shutdown()

    def _read(self) -> None:
        """Decrypt received bytes, and deliver them to the protocol."""
        protocol, records = self._protocol, self._records
        if protocol is None or self._has_written_eof:
            return
        while not (self._is_closing or self._is_reading_paused) and records.has_received_bytes:
            try:
                num_bytes = records.decrypt(protocol.get_buffer(-1))
            except ssl.SSLError as failure:
                log.debug("a TLS connection failed: %s", failure)
                self._write_encrypted()
                self.abort()
                return
            if num_bytes:
                protocol.buffer_updated(num_bytes)
                protocol = self._protocol or protocol  # the bytes may have been a handshake
        self._write_encrypted()
        has_ended = self._has_received_eof or records.has_received_close
        is_delivering = not (self._is_closing or self._is_reading_paused)
        if has_ended and is_delivering and not protocol.eof_received():
            self.close()

    def _send(self) -> None:
        """Encrypt and send waiting bytes, as long as the kernel accepts them."""
        if self._transport.is_closing():
            return
        records = self._records
        for _ in range(PIECES_PER_TURN):
            if self._is_full or not records.num_waiting:
                break
            records.encrypt()
            self._write_encrypted()
        if records.num_waiting:
            if not self._is_full:
                self._loop.call_soon(self._send)
        elif self._is_closing or self._has_written_eof:
            self._end_writing()
        if records.num_waiting or self._is_full or self._is_protocol_paused:
            self._control_protocol()

    def _write_encrypted(self) -> None:
        """Write encrypted bytes to the kernel; the rest waits in the TCP transport."""
        data = memoryview(self._records.take_encrypted())
        if not data or self._transport.is_closing():
            return
        if not self._transport.get_write_buffer_size():
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                pass
            except OSError:
                self.abort()
                return
        if data:
            self._transport.write(data)

    def _end_writing(self) -> None:
        """Send close_notify, and close the connection or its sending side."""
        self._records.close()
        self._write_encrypted()
        if self._is_closing:
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()

    def _control_protocol(self) -> None:
        """Pause or resume the protocol, by the number of waiting bytes."""
        protocol = self._protocol
        if protocol is None or self._transport.is_closing():
            return
        size, (low, high) = self.get_write_buffer_size(), self._water_marks
        if self._is_protocol_paused and size <= low:
            self._is_protocol_paused = False
            protocol.resume_writing()
        elif not self._is_protocol_paused and size > high:
            self._is_protocol_paused = True
            protocol.pause_writing()
