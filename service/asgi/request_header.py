"""Parse the header of an HTTP/1.1 request, within limits."""

import re
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from service.access.hosts import name_of
from service.asgi.io import Headers
from service.errors import BadHeader, BadRequest, ExpectationFailed, HeaderTooLarge, TargetTooLong

_END = b"\r\n\r\n"

MAX_CACHED_BYTES = 2**11
"""Longest header that is cached."""

MAX_CACHED_HEADERS = 256
"""Size of the cache. A full cache is cleared."""

_SINGLE_FIELDS = (
    *(b"content-type", b"content-encoding"),
    *(b"inference-header-content-length", b"x-request-timeout-ms", b"x-rope-params"),
)
"""Fields that must not be repeated: a proxy may have checked another of the values."""

_CHECKED_FIELDS = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"expect", *_SINGLE_FIELDS)
)

_LENGTH = re.compile(rb"[0-9]{1,20}")

_HOST = re.compile(
    rb"(\[[0-9A-Fa-f:.]+\]|([A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)(:[0-9]{0,5})?"
)
"""An IP literal or a name, and a port (RFC 9110, 7.2). Both may be empty."""


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """Limits of a request's header."""

    max_bytes: int = 32 * 2**10
    """Bytes of the request line and of all fields, with the empty line that ends them."""
    max_fields: int = 100
    max_target_bytes: int = 8 * 2**10


class RequestHeader(NamedTuple):
    """A request's header, parsed and checked."""

    method: str
    version: str
    path: str
    """Decoded."""
    raw_path: bytes
    query: bytes
    fields: Headers
    """Names in lower case."""
    keep_alive: bool
    """Whether the client expects to send more requests after this one."""
    content_length: int | None
    """Declared bytes of the body; None: the body is chunked."""
    expects_continue: bool
    """Whether the client waits for `100 Continue` before it sends the body."""
    host: bytes
    """The host name in Host, without the port, in lower case; empty without Host."""


class HeaderParser:
    """Parses one header, which may arrive in pieces.

    A header may offer another protocol with `Upgrade: h2c`, as Java's HttpClient does in every
    request, or `websocket`. RFC 9110, 7.8 allows a server to go on in HTTP/1.1, so offers change
    nothing.
    """

    def __init__(self, limits: HeaderLimits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._tail = b""
        """The last bytes, in which the end may have begun."""
        self._is_complete = False
        self._keep_alive = False
        self._values: dict[bytes, list[bytes]] = {}
        """Values of _CHECKED_FIELDS, by name."""
        self.num_bytes = 0
        """Bytes so far, with empty lines before the request."""
        self.target = b""
        self.fields: Headers = []

    @property
    def method(self) -> str:
        """The method, "" as long as it is not known."""
        return self._parser.get_method().decode() if self.target else ""

    def feed(self, data: bytes, start: int) -> int:
        """Parse `data` from `start` on, and return where the header, or `data`, ends.

        Raises:
            BadRequest: this is not HTTP/1.1.
            HeaderTooLarge, TargetTooLong: a limit is exceeded before the end of the header.
        """
        limit = self._limits.max_bytes
        stop = min(len(data), start + limit - self.num_bytes)
        at = start
        while not self._tail and at < stop and data[at] in b"\r\n":
            at += 1  # empty lines before a request are ignored (RFC 9112, 2.2)
        text = self._tail + data[at:stop]
        end = text.find(_END)
        if end >= 0:
            stop = at + end + len(_END) - len(self._tail)
        self._tail = text[-3:]
        self.num_bytes += stop - start
        try:
            self._parser.feed_data(data[at:stop])
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            raise BadRequest("the header is not valid HTTP/1.1") from None
        if not self._is_complete and self.num_bytes >= limit:
            if len(self.target) > self._limits.max_target_bytes:
                raise self._target_too_long()
            raise HeaderTooLarge(
                f"the header may have at most {limit:,} bytes (ROPE_MAX_HEADER_BYTES)"
            )
        return stop

    def result(self) -> RequestHeader | None:
        """Return the header, None if it is not complete.

        Raises:
            BadRequest, BadHeader: the header is not valid.
            TargetTooLong, HeaderTooLarge: a limit is exceeded.
            ExpectationFailed: the client expects what the service does not know.
        """
        if not self._is_complete:
            return None
        if len(self.target) > self._limits.max_target_bytes:
            raise self._target_too_long()
        if len(self.fields) > self._limits.max_fields:
            raise HeaderTooLarge(
                f"the header may have at most {self._limits.max_fields} fields "
                "(ROPE_MAX_HEADER_FIELDS)"
            )
        version, method = self._parser.get_http_version(), self.method
        if version not in ("1.0", "1.1"):
            raise BadRequest("the version must be HTTP/1.1 or HTTP/1.0")
        if method == "CONNECT":  # what follows is for another host
            raise BadRequest("CONNECT is for proxies")
        try:
            url = httptools.parse_url(self.target)
            raw_path, query = url.path, url.query
            raw_path.decode("ascii")
        except (httptools.HttpParserError, UnicodeDecodeError, AttributeError):
            raise BadRequest("the target is not a valid path") from None
        host = self._host(version)
        if url.host is not None and self.target.split(b"/", 3)[2].lower() != host.lower():
            raise BadRequest("Host must be the host of the target")  # RFC 9112, 3.2.2
        self._check_single_fields()
        return RequestHeader(
            method,
            version,
            decode_path(raw_path),
            raw_path,
            query or b"",
            self.fields,
            version == "1.1" and self._keep_alive,
            self._content_length(version),
            version == "1.1" and self._expects_continue(),
            name_of(host),
        )

    def on_url(self, url: bytes) -> None:
        """Append a part of the target; called by httptools."""
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Append a field; called by httptools."""
        name = name.lower()
        self.fields.append((name, value))
        if name in _CHECKED_FIELDS:
            self._values.setdefault(name, []).append(value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        """Note that the header is complete; called by httptools."""
        self._is_complete = True
        self._keep_alive = self._parser.should_keep_alive()

    def _host(self, version: str) -> bytes:
        hosts = self._values.get(b"host", ())
        if len(hosts) != 1 and (hosts or version == "1.1"):
            raise BadHeader(f"Host must be given once, got {len(hosts)} times")
        if hosts and not _HOST.fullmatch(hosts[0]):
            raise BadHeader("Host must be a name or an address, and a port")
        return hosts[0] if hosts else b""

    def _check_single_fields(self) -> None:
        for name in _SINGLE_FIELDS:
            values = self._values.get(name, ())
            if len(values) > 1:
                title = name.decode().title()
                raise BadHeader(f"{title} must be given once, got {len(values)} times")

    def _content_length(self, version: str) -> int | None:
        lengths = self._values.get(b"content-length", ())
        codings = self._values.get(b"transfer-encoding")
        if codings is not None:
            if version == "1.0":
                raise BadHeader("Transfer-Encoding cannot be used in HTTP/1.0")
            if [coding.lower() for coding in codings] != [b"chunked"]:
                raise BadHeader("Transfer-Encoding must be chunked")
            if lengths:
                raise BadHeader("Content-Length and Transfer-Encoding exclude each other")
            return None
        if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
            raise BadHeader("Content-Length must be one whole number of at most 20 digits")
        return int(lengths[0]) if lengths else 0

    def _expects_continue(self) -> bool:
        expected = self._values.get(b"expect", ())
        if any(value.lower() != b"100-continue" for value in expected):
            raise ExpectationFailed("Expect must be 100-continue")
        return bool(expected)

    def _target_too_long(self) -> TargetTooLong:
        limit = self._limits.max_target_bytes
        return TargetTooLong(
            f"the target of a request may have at most {limit:,} bytes (ROPE_MAX_TARGET_BYTES)"
        )


class RequestHeaderCache:
    """Headers that were parsed before: most clients send the same bytes again and again.

    Args:
        limits: of headers.
    """

    def __init__(self, limits: HeaderLimits) -> None:
        self.limits = limits
        self._headers: dict[bytes, RequestHeader] = {}

    def find(self, data: bytes, start: int) -> tuple[RequestHeader, int] | None:
        """Return the header at `start`, and where it ends; None if it was not parsed before."""
        end = data.find(_END, start, start + MAX_CACHED_BYTES) + len(_END)
        header = self._headers.get(data[start:end])
        return None if header is None else (header, end)

    def add(self, text: bytes, header: RequestHeader) -> None:
        """Cache a header."""
        if len(text) > MAX_CACHED_BYTES:
            return
        if len(self._headers) >= MAX_CACHED_HEADERS:
            self._headers.clear()
        self._headers[text] = header


def decode_path(raw_path: bytes) -> str:
    """Return a path with its escaped characters decoded."""
    path = raw_path.decode("latin-1")
    return unquote(path) if "%" in path else path
