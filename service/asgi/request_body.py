"""Find the end of a request's body, and its bytes between those of the framing."""

import re

from service.errors import BadRequest

MAX_FRAMING_BYTES = 64 * 2**10
"""Most bytes of sizes, extensions and trailers of chunks, plus half of the body's bytes."""

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class SizedBody:
    """A body of declared length.

    Args:
        num_bytes: its length.
    """

    def __init__(self, num_bytes: int) -> None:
        self.remaining = num_bytes

    @property
    def is_complete(self) -> bool:
        """Whether all bytes were read."""
        return not self.remaining

    def is_short(self, num_bytes: int) -> bool:
        """Return whether at most `num_bytes` are left."""
        return self.remaining <= num_bytes

    def feed(self, data: bytes, start: int, body: bytearray) -> int:
        """Read `data` from `start` on into `body`, and return where the body, or `data`, ends."""
        part = memoryview(data)[start : start + self.remaining]
        body += part
        self.remaining -= len(part)
        return start + len(part)


class ChunkedBody:
    """A body in chunks (RFC 9112, 7.1). Trailers are dropped: they never become header fields."""

    def __init__(self) -> None:
        self.is_complete = False
        self._line = b""
        """The beginning of a line that has not ended."""
        self._read_line = self._read_size
        self._chunk_bytes = 0
        """Bytes of the current chunk that have not been read."""
        self._num_bytes = 0
        self._num_framing_bytes = 0

    def is_short(self, _num_bytes: int) -> bool:
        """Return whether all bytes were read: how many are left is not known."""
        return self.is_complete

    def feed(self, data: bytes, start: int, body: bytearray) -> int:
        """Read `data` from `start` on into `body`, and return where the body, or `data`, ends.

        Raises:
            BadRequest: the framing is not valid, or has too many bytes.
        """
        while start < len(data) and not self.is_complete:
            if self._chunk_bytes:
                part = memoryview(data)[start : start + self._chunk_bytes]
                body += part
                start += len(part)
                self._chunk_bytes -= len(part)
                self._num_bytes += len(part)
                continue
            end = data.find(b"\n", start) + 1 or len(data)
            self._num_framing_bytes += end - start
            if self._num_framing_bytes > MAX_FRAMING_BYTES + self._num_bytes // 2:
                raise BadRequest(
                    "sizes, extensions and trailers of chunks may have at most "
                    f"{MAX_FRAMING_BYTES:,} bytes more than half of the body"
                )
            self._line += data[start:end]
            start = end
            if self._line.endswith(b"\n"):
                line, self._line = self._line, b""
                self._read_line(line)
        return start

    def _read_size(self, line: bytes) -> None:
        match = _SIZE.fullmatch(line)
        if match is None:
            raise BadRequest("the size of a chunk is not valid")
        self._chunk_bytes = int(match[1], 16)
        self._read_line = self._read_end if self._chunk_bytes else self._read_trailer

    def _read_end(self, line: bytes) -> None:
        if line != b"\r\n":
            raise BadRequest("a chunk has more bytes than its size says")
        self._read_line = self._read_size

    def _read_trailer(self, line: bytes) -> None:
        if line == b"\r\n":
            self.is_complete = True
        elif not _TRAILER.fullmatch(line):
            raise BadRequest("a trailer is not valid")
