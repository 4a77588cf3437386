"""The sending half of a WebSocket: runs the calls of its messages, sends the answers in order."""

import asyncio
from abc import abstractmethod
from collections import deque

from websockets.frames import CloseCode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from service.server.connection_deadlines import Watch
from service.server.connection_limits import ConnectionLimits
from service.server.planned_answer import send
from service.v1.session_stream import SessionStream, StreamCall

JOINED_BYTES = 2**18
"""Answers that are ready are sent together, up to this size."""


class AnsweringWebSocket(asyncio.BufferedProtocol):
    """Base class of `WebSocketConnection`, which receives the messages.

    Args:
        protocol: of the open WebSocket.
        stream: answers the messages.
    """

    _loop: asyncio.AbstractEventLoop
    _transport: asyncio.Transport
    _fd: int
    """File descriptor of the socket; -1 if the transport encrypts."""
    _limits: ConnectionLimits
    _watch: Watch

    def __init__(self, protocol: ServerProtocol, stream: SessionStream) -> None:
        self._protocol = protocol
        self._stream = stream
        self._calls: deque[StreamCall] = deque()
        """Messages without a sent answer, in order."""
        self._tasks: dict[StreamCall, asyncio.Task[None]] = {}
        """Those of the calls that run."""
        self._sent: list[StreamCall] = []
        """Calls whose answers the kernel has not taken completely."""
        self._since = 0.0
        """When a part of a message began to arrive, or when the connection began to close."""
        self._is_reading_paused = self._is_writing_paused = False
        self._is_ending = False
        """Whether the service ends: what was read is answered, then the stream closes."""
        self._is_over = False
        """Whether no further answer can be sent."""
        self._num_messages = self._num_failures = 0

    def pause_writing(self) -> None:
        """Start the deadline of a client that does not read."""
        self._is_writing_paused = True
        self._watch.pause_writing()

    def resume_writing(self) -> None:
        """Send more: the kernel has all that was sent."""
        self._is_writing_paused = False
        self._watch.resume_writing()
        self._transport.set_write_buffer_limits()
        for call in self._sent:
            call.end()
        self._sent.clear()
        self._flush()

    def fail(self, code: CloseCode, reason: str) -> None:
        """Close at once; calls in progress are not answered."""
        if self._protocol.state is OPEN:
            self._protocol.fail(code, reason)
            self._write()
            self._end_calls()

    def _begin(self, data: bytes | bytearray) -> None:
        """Start the call of a message."""
        self._num_messages += 1
        call = StreamCall(data)
        self._calls.append(call)
        self._tasks[call] = self._loop.create_task(self._run(call))

    async def _run(self, call: StreamCall) -> None:
        """Answer a message; send the answer if it is the next one."""
        try:
            await self._stream.answer(call)
        finally:
            self._tasks.pop(call, None)
            if self._is_over:
                call.end()
        if not self._is_over and call is self._calls[0]:
            self._flush()

    def _flush(self) -> None:
        """Send the answers that are ready and have their turn, then go on reading."""
        calls, protocol, sent = self._calls, self._protocol, self._sent
        while (
            calls and calls[0].answer is not None and not (self._is_writing_paused or self._is_over)
        ):
            num_bytes = 0
            while calls and (answer := calls[0].answer) is not None and num_bytes < JOINED_BYTES:
                sent.append(calls.popleft())
                num_bytes += len(answer.data)
                if answer.is_failure:
                    self._num_failures += 1
                    protocol.send_text(answer.data)
                else:
                    protocol.send_binary(answer.data)
            self._write()
            if not self._is_writing_paused:
                for call in sent:
                    call.end()
                sent.clear()
        if self._is_reading_paused or self._is_ending:
            self._pump()

    def _write(self) -> None:
        """Send what the protocol has to send: frames, and perhaps the end of the stream."""
        parts = self._protocol.data_to_send()
        has_end = bool(parts) and not parts[-1]
        if has_end:
            parts.pop()
        if parts:
            self._send(parts)
        if has_end:
            self._end_writing()

    def _send(self, parts: list[bytes]) -> None:
        transport = self._transport
        if not (transport.is_closing() or send(transport, self._fd, parts)):
            self._is_writing_paused = True

    def _end_writing(self) -> None:
        """Close, after the client's close frame; else let the client read ours first."""
        if self._transport.is_closing():
            return
        self._since = self._limits.deadlines.time()
        if self._protocol.close_rcvd is not None:
            self._transport.close()
        else:
            self._transport.write_eof()
            self._watch.schedule()
        self._watch.schedule_writing()

    def _close(self, code: CloseCode, reason: str) -> None:
        """Begin the closing handshake, and wait for the client's part."""
        if self._protocol.state is OPEN:
            self._protocol.send_close(code, reason)
            self._write()
            self._end_calls()
            self._since = self._limits.deadlines.time()
            self._watch.schedule()

    def _end_calls(self) -> None:
        """Cancel calls in progress, and drop all that waits: no further answer can be sent."""
        self._is_over = True
        for call in self._calls:
            task = self._tasks.get(call)
            if task is None:
                call.end()
            else:
                task.cancel()
        self._calls.clear()
        self._drop_received()

    @abstractmethod
    def _pump(self) -> None:
        """Begin calls and parse more; close when the service ends and all is answered."""

    @abstractmethod
    def _drop_received(self) -> None:
        """Drop what was received and has no call."""
