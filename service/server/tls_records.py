"""TLS records of one connection in memory: no socket, no event loop."""

import ssl
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import cast

from service.wire import Buffer

PIECE_BYTES = 2**18
"""Most bytes that `encrypt` encrypts at a time."""

JOINED_BYTES = 2**14
"""Parts of an answer up to this size are joined into one record."""


class TlsRecords:
    """Decrypts what a client sent, and encrypts what waits to be sent.

    Args:
        context: has the certificate of the server.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._waiting: deque[memoryview] = deque()
        self.num_waiting = 0
        """Bytes that are not encrypted yet."""
        self.has_partial_record = False
        self.has_received_close = False
        """Whether the client has sent close_notify: it sends no more bytes."""

    @property
    def has_received_bytes(self) -> bool:
        """Whether received bytes wait for `decrypt`."""
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def receive(self, data: memoryview) -> None:
        """Take received bytes."""
        self._incoming.write(data)

    def shake_hands(self) -> bool:
        """Continue the handshake, and return whether it is complete.

        Raises:
            ssl.SSLError: the handshake has failed.
        """
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def decrypt(self, buffer: memoryview) -> int:
        """Decrypt into `buffer`, and return the number of bytes.

        Raises:
            ssl.SSLError: the client has not sent TLS.
        """
        num_bytes, size, tls, incoming = 0, len(buffer), self._tls, self._incoming
        self.has_partial_record = False
        while num_bytes < size and (incoming.pending or tls.pending()):
            try:
                num_read = cast(int, tls.read(size - num_bytes, buffer[num_bytes:]))
            except ssl.SSLWantReadError:
                self.has_partial_record = True
                break
            if not num_read:
                self.has_received_close = True
                break
            num_bytes += num_read
        return num_bytes

    def add(self, parts: Iterable[Buffer]) -> None:
        """Add bytes to be encrypted, without a copy of large parts."""
        views = [memoryview(part) for part in parts if len(part)]
        num_bytes = sum(map(len, views))
        if len(views) > 1 and num_bytes <= JOINED_BYTES:
            views = [memoryview(b"".join(views))]
        self._waiting.extend(views)
        self.num_waiting += num_bytes

    def encrypt(self) -> None:
        """Encrypt at most PIECE_BYTES of the waiting bytes."""
        left = PIECE_BYTES
        while self._waiting and left:
            part = self._waiting[0]
            num_bytes = self._tls.write(part[:left])
            left -= num_bytes
            self.num_waiting -= num_bytes
            if num_bytes == len(part):
                self._waiting.popleft()
            else:
                self._waiting[0] = part[num_bytes:]

    def close(self) -> None:
        """Encrypt close_notify, which tells the client that no more bytes follow."""
        with suppress(ssl.SSLError):  # the client has not sent its close_notify yet
            self._tls.unwrap()

    def take_encrypted(self) -> bytes:
        """Return and remove the encrypted bytes."""
        return self._outgoing.read()

    def drop_waiting(self) -> None:
        """Discard the bytes that are not encrypted yet."""
        self._waiting.clear()
        self.num_waiting = 0
