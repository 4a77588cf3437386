"""HTTP/1.1 as uvicorn speaks it, but offers of another protocol are ignored.

A client may offer another protocol with `Upgrade: h2c`, as Java's HttpClient does in every request,
or `websocket`. RFC 9110, 7.8 allows a server to go on in HTTP/1.1. httptools however ends a request
with an offer at its header and leaves the body to the other protocol. uvicorn then drops the rest
of the packet, and reads the part of the body in the next packet as a request.
"""

import asyncio
import fcntl
import termios
from array import array

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 2**10
"""Largest header section, without its bytes in the first and in the last packet."""

FIRST_REQUEST_S = 2.0
"""Seconds that a client without a request gets to send its first one when the service ends."""


class Connection(HttpToolsProtocol):
    """One client's connection. A header with an offer is parsed twice: with it and without it.

    The header is complete by then and bodies are never parsed, so neither the limits of packets nor
    the contents of a body matter.
    """

    _header_bytes: int | None = None
    """Bytes so far of the header that is being read; None if none is."""
    _is_in_message = False
    _is_new_header = False
    """Whether this header began in the packet that is being read."""

    def _should_upgrade(self) -> bool:
        """Make uvicorn ignore the offer: it starts a protocol only where this is False."""
        return True

    def on_message_begin(self) -> None:
        """Begin to count the bytes of a header."""
        super().on_message_begin()
        self._is_in_message = True
        self._header_bytes = 0
        self._is_new_header = True

    def on_message_complete(self) -> None:
        """Note that the request is here."""
        self._is_in_message = False
        super().on_message_complete()

    @property
    def is_free(self) -> bool:
        """Whether no request is in progress, not even in part."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and not self._is_in_message and not self.pipeline

    def stop_keep_alive_timer(self) -> None:
        """Keep the connection open: it has a request of which this class does not know."""
        self._unset_keepalive_if_required()

    def on_headers_complete(self) -> None:
        """Stop counting."""
        self._header_bytes = None
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
        in_flight = self.cycle is not None and not self.cycle.response_complete
        if in_flight or not self._has_partial_request():
            super().shutdown()

    def _has_partial_request(self) -> bool:
        """Return whether part of a request was received; its answer closes the connection.

        Closing a connection with unread bytes resets it: the request would be lost silently.
        """
        if self.transport.is_closing():
            return False
        return self._header_bytes is not None or num_unread_bytes(self.transport) > 0

    def data_received(self, data: bytes) -> None:
        """Parse a packet."""
        self._unset_keepalive_if_required()
        parts: list[bytes | memoryview] = [data]
        while parts:
            part = parts.pop()
            self._is_new_header = False
            try:
                self.parser.feed_data(part)
            except httptools.HttpParserUpgrade as offer:
                if self.scope["method"] == "CONNECT":  # what follows is for another host
                    self.send_400_response("CONNECT is for proxies.")
                    return
                (num_parsed,) = offer.args
                parts += [memoryview(part)[num_parsed:], self._header_without_offer()]
                self._reset_parser()
            except httptools.HttpParserError:
                super().data_received(b"")  # meets the same error again and answers 400
                return
            if self._header_bytes is not None and not self._is_new_header:
                self._header_bytes += len(part)
                if self._header_bytes > MAX_HEADER_BYTES:
                    self.send_400_response(f"A header may have at most {MAX_HEADER_BYTES} bytes.")
                    return

    def _header_without_offer(self) -> bytes:
        """Return the header that was just read, without `Upgrade`."""
        method, version = self.scope["method"].encode(), self.scope["http_version"].encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _reset_parser(self) -> None:
        """Replace the parser: `Connection: close` in that header would end the old one."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own


def num_unread_bytes(transport: asyncio.Transport) -> int:
    """Return how many bytes the kernel has received and nobody has read."""
    unread = array("i", [0])
    fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, unread)
    return unread[0]
