"""Lines for a descriptor that may be a pipe: written without waiting for its reader."""

import asyncio
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

MAX_WAITING_BYTES = 2**20
"""Bytes of lines that may wait for the reader of a pipe."""


class LineWriter:
    """Writes lines to a file, a pipe, a socket or a terminal. Thread-safe, and never waits.

    Lines that the reader of a pipe does not take wait in memory, and the event loop sends them when
    the pipe takes more. If too many wait, lines are dropped until none waits any more, and the next
    line says how many were.

    Args:
        fd: where to write.
        describe_gap: returns the line that says how many lines were dropped.
        max_waiting_bytes: bytes of lines that may wait.
    """

    def __init__(
        self,
        fd: int,
        describe_gap: Callable[[int], str],
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self.on_drop: Callable[[int], None] = lambda _: None
        """Called with the number of lines that were dropped, on any thread."""
        self._fd, self._never_blocks = _open_nonblocking(fd)
        self._describe_gap = describe_gap
        self._max_waiting_bytes = max_waiting_bytes
        self._writable = select.poll()
        self._writable.register(self._fd, select.POLLOUT)
        self._lock = threading.RLock()  # a signal handler may write while its own thread does
        self._waiting = bytearray()
        self._num_dropped = 0
        """Lines that were dropped since the last line that says so."""
        self._loop: asyncio.AbstractEventLoop | None = None

    def write(self, lines: Iterable[str]) -> None:
        """Write ended lines. Whole lines are dropped where the reader is too slow.

        A pipe may divide a longer text than PIPE_BUF, or mix it with that of another process.
        """
        text = "".join(lines).encode()
        with self._lock:
            if not self._waiting:
                num_sent = self._send(text)
                if num_sent < len(text):
                    self._waiting += text[num_sent:]
                    self._send_later()
            elif self._num_dropped or len(self._waiting) + len(text) > self._max_waiting_bytes:
                self._drop(text)
            else:
                self._waiting += text

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a running event loop send the lines that wait."""
        with self._lock:
            self._loop = loop
            if self._waiting:
                self._send_later()

    def detach(self) -> None:
        """Use the event loop no longer; called on its thread before it ends."""
        with self._lock:
            if self._loop is not None:
                self._loop.remove_writer(self._fd)
            self._loop = None

    def flush(self, timeout_s: float) -> None:
        """Write the lines that wait, as far as the reader takes them within `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while self._waiting:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._writable.poll(left_s * 1e3):
                    return
                self._send_waiting()

    def _send(self, text: bytes | bytearray) -> int:
        """Write what the descriptor takes at once, and return how many bytes that are."""
        start = 0
        # what is writable takes PIPE_BUF bytes
        while start < len(text) and (self._never_blocks or self._writable.poll(0)):
            end = start + select.PIPE_BUF
            if end < len(text):
                end = text.rfind(b"\n", start, end) + 1 or end
            try:
                start += os.write(self._fd, text[start:end])
            except BlockingIOError:
                break
            except OSError:  # the reader has gone, or the disk is full
                self._drop(text[start:])
                return len(text)
        return start

    def _send_waiting(self) -> None:
        """Write lines that wait; when none waits any more, say how many were dropped."""
        del self._waiting[: self._send(self._waiting)]
        if self._num_dropped and not self._waiting:
            num_dropped, self._num_dropped = self._num_dropped, 0
            self.write([self._describe_gap(num_dropped)])

    def _send_later(self) -> None:
        """Let the event loop send the lines that wait, once the descriptor takes some."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended: `flush` sends them
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
    """Return a descriptor of the same file, and whether a write to it never blocks.

    A pipe or a terminal is opened again: the terminal and other processes use `fd` as well, so it
    stays as it is. Where it cannot be opened again, polling tells what it takes.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags), True
        return fd, stat.S_ISREG(mode)
    except OSError:
        return fd, False
