"""HTTP/1.1 as uvicorn speaks it, with offers to speak something else ignored.

A client may offer another protocol: `Upgrade: h2c`, in every request of Java's HttpClient, or
`websocket`. RFC 9110, 7.8 lets a server go on in HTTP/1.1. The parser, though, ends a request that
offers at its head, and leaves the body to whoever speaks the other protocol; where nobody does,
uvicorn drops the rest of the packet, and what comes of the body in the next one is read as a
request.
"""

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """A client's. A head that offers is read twice: as it came, then without the offer.

    Heads are whole by then, and bodies are never looked into, so neither where packets end nor
    what a body holds makes a difference.
    """

    def _should_upgrade(self) -> bool:
        """Have uvicorn start nothing for a head that offers; asked about no other."""
        return True

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        self._unset_keepalive_if_required()
        parts: list[bytes | memoryview] = [data]
        while parts:
            part = parts.pop()
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
