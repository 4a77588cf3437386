"""HTTP/1.1 as uvicorn speaks it, with offers to speak something else ignored.

A client may offer another protocol: `Upgrade: h2c`, in every request of Java's HttpClient, or
`websocket`. RFC 9110, 7.8 lets a server go on in HTTP/1.1. The parser, though, ends a request that
offers at its head, and leaves the body to whoever speaks the other protocol; where nobody does,
uvicorn drops the rest of the packet, and what comes of the body in the next one is read as a
request.
"""

import fcntl
import termios
from array import array

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10
"""Of a request, without what came of it in the packet of its begin and in that of its end."""

FIRST_REQUEST_S = 2.0
"""Seconds that a client without a request gets to send its first one when the service ends."""


class Connection(HttpToolsProtocol):
    """A client's. A head that offers is read twice: as it came, then without the offer.

    Heads are whole by then, and bodies are never looked into, so neither where packets end nor
    what a body holds makes a difference.
    """

    _head_bytes: int | None = None
    """Of the head that is being read, None while none is."""
    _is_new = False
    """Whether it began in the packet that is being read."""

    def _should_upgrade(self) -> bool:
        """Have uvicorn start nothing for a head that offers; asked about no other."""
        return True

    def on_message_begin(self) -> None:
        """Begin to count a head."""
        super().on_message_begin()
        self._head_bytes = 0
        self._is_new = True

    def on_headers_complete(self) -> None:
        """Have done with it."""
        self._head_bytes = None
        super().on_headers_complete()

    def shutdown(self) -> None:
        """Close when no request is in flight; called when the service ends.

        A client that has just connected is about to send a request, so it gets FIRST_REQUEST_S.
        """
        if self.cycle is None:
            self.loop.call_later(FIRST_REQUEST_S, self._close_after_requests)
        else:
            self._close_after_requests()

    def _close_after_requests(self) -> None:
        """Close after the answer to a request in flight or partly received, else now."""
        is_due = self.cycle is not None and not self.cycle.response_complete
        if is_due or not self._has_partial_request():
            super().shutdown()

    def _has_partial_request(self) -> bool:
        """Tell whether part of a request was received, read or not; its answer ends the connection.

        Closing a connection with unread bytes resets it: the request would be lost silently.
        """
        if self.transport.is_closing():
            return False
        unread = array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, unread)
        return self._head_bytes is not None or unread[0] > 0

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._unset_keepalive_if_required()
        parts: list[bytes | memoryview] = [data]
        while parts:
            part = parts.pop()
            self._is_new = False
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade as offer:
                if self.scope["method"] == "CONNECT":  # no offer: whatever follows is for elsewhere
                    self.send_400_response("CONNECT is for proxies.")
                    return
                (read,) = offer.args
                parts += [memoryview(part)[read:], self._head_without_offer()]
                self._forget()
            except httptools.HttpParserError:
                super().data_received(b"")  # meets the same error again, and answers it
                return
            if self._head_bytes is not None and not self._is_new:
                self._head_bytes += len(part)
                if self._head_bytes > MAX_HEAD_BYTES:
                    self.send_400_response(f"A head may have {MAX_HEAD_BYTES} bytes.")
                    return

    def _head_without_offer(self) -> bytes:
        """Return the head that was just read."""
        method, version = self.scope["method"].encode(), self.scope["http_version"].encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _forget(self) -> None:
        """Take a parser that has seen nothing: this one's connection may be over with that head."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
