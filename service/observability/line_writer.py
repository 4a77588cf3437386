"""Non-blocking output of lines: a slow reader of a pipe never blocks the service."""

import asyncio
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

MAX_WAITING_BYTES = 2**20
"""Most bytes that are buffered for a slow reader."""


class LineWriter:
    """Writes lines to a file, a pipe, a socket or a terminal. Thread-safe, and never blocks.

    Lines that a pipe does not accept are buffered, and the event loop writes them when the pipe is
    writable. When the buffer is full, new lines are dropped until the buffer is empty; the next
    line then states how many lines were dropped. If writing fails, because the disk is full or the
    reader has gone, lines are dropped until writing succeeds again.

    Args:
        fd: file descriptor to write to.
        describe_gap: returns the line that states how many lines were dropped.
        max_waiting_bytes: capacity of the buffer.
        on_failure: called with the error when writing begins to fail, on any thread.
    """

    def __init__(
        self,
        fd: int,
        describe_gap: Callable[[int], str],
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        on_failure: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self.on_drop: Callable[[int], None] = lambda _: None
        """Called with the number of dropped lines, on any thread."""
        self._fd, self._never_blocks = _open_nonblocking(fd)
        self._describe_gap = describe_gap
        self._on_failure = on_failure
        self._is_failing = False
        """Whether the last attempt to write has failed."""
        self._is_cut = False
        """Whether the last line is incomplete because the rest could not be written."""
        self._max_waiting_bytes = max_waiting_bytes
        self._writable = select.poll()
        self._writable.register(self._fd, select.POLLOUT)
        self._lock = threading.RLock()  # a signal handler may interrupt `write` and call it
        self._waiting = bytearray()
        self._num_dropped = 0
        """Lines dropped since the last line that stated the number."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def write(self, lines: Iterable[str]) -> None:
        """Write lines, each with its newline. Only whole lines are dropped.

        A line longer than PIPE_BUF may be mixed with lines of another process in the pipe.
        """
        text = "".join(lines).encode()
        with self._lock:
            if self._is_failing and not self._recover():
                self._drop(text)
            elif not self._waiting:
                num_sent = self._send(text)
                if num_sent < len(text):
                    self._waiting += text[num_sent:]
                    self._send_later()
            elif self._num_dropped or len(self._waiting) + len(text) > self._max_waiting_bytes:
                self._drop(text)
            else:
                self._waiting += text

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a running event loop write the buffered lines."""
        with self._lock:
            self._loop = loop
            if self._waiting:
                self._send_later()

    def detach(self) -> None:
        """Stop using the event loop; call this on its thread before the loop ends."""
        with self._lock:
            if self._loop is not None:
                self._loop.remove_writer(self._fd)
            self._loop = None

    def flush(self, timeout_s: float) -> None:
        """Write the buffered lines; block for at most `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while self._waiting:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._writable.poll(left_s * 1e3):
                    return
                self._send_waiting()

    def _send(self, text: bytes | bytearray) -> int:
        """Write as much as the descriptor accepts without blocking; return the number of bytes."""
        start = 0
        # a writable pipe accepts PIPE_BUF bytes without blocking
        while start < len(text) and (self._never_blocks or self._writable.poll(0)):
            end = start + select.PIPE_BUF
            if end < len(text):
                end = text.rfind(b"\n", start, end) + 1 or end
            try:
                start += os.write(self._fd, text[start:end])
            except BlockingIOError:
                break
            except OSError as failure:  # the reader has closed the pipe, or the disk is full
                self._is_failing = True
                self._note_end(text, start)
                self._drop(text[start:])
                self._on_failure(failure)
                return len(text)
        if start < len(text):
            self._note_end(text, start)
        return start

    def _note_end(self, text: bytes | bytearray, num_sent: int) -> None:
        """Note whether the bytes that were written end within a line."""
        if num_sent:
            self._is_cut = not text.endswith(b"\n", 0, num_sent)

    def _send_waiting(self) -> None:
        """Write buffered lines; once the buffer is empty, write how many lines were dropped."""
        del self._waiting[: self._send(self._waiting)]
        if not (self._waiting or self._is_failing):
            self._is_cut = False
        if self._num_dropped and not self._waiting and not self._is_failing:
            num_dropped, self._num_dropped = self._num_dropped, 0
            self.write([self._describe_gap(num_dropped)])

    def _recover(self) -> bool:
        """Write how many lines were dropped; return whether writing succeeds again."""
        line = self._describe_gap(self._num_dropped).encode()
        if self._is_cut:
            line = b"\n" + line
        if not (self._never_blocks or self._writable.poll(0)):
            return False
        try:
            num_sent = os.write(self._fd, line)
        except OSError:
            return False
        self._is_cut = num_sent < len(line)
        if not self._is_cut:
            self._is_failing, self._num_dropped = False, 0
        return not self._is_cut

    def _send_later(self) -> None:
        """Let the event loop write the buffered lines when the descriptor is writable."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended: `flush` writes them
                self._loop.call_soon_threadsafe(self._watch)

    def _watch(self) -> None:
        with self._lock:
            if self._loop is not None and self._waiting:
                self._loop.add_writer(self._fd, self._on_writable)

    def _on_writable(self) -> None:
        with self._lock:
            self._send_waiting()
            if self._loop is not None and not self._waiting:
                self._loop.remove_writer(self._fd)

    def _drop(self, text: bytes | bytearray) -> None:
        num_lines = text.count(b"\n")
        self._num_dropped += num_lines
        self.on_drop(num_lines)


def _open_nonblocking(fd: int) -> tuple[int, bool]:
    """Return a descriptor of the same file, and whether its writes never block.

    A pipe or a terminal is opened a second time with O_NONBLOCK: the flag on `fd` itself would
    change it for other processes. If that fails, `poll` shows whether the descriptor is writable.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags), True
        return fd, stat.S_ISREG(mode)
    except OSError:
        return fd, False
