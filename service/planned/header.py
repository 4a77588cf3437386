"""The header of a request that may have a plan."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import httptools

END = b"\r\n\r\n"

MAX_HEADER_BYTES = 2**12
"""Longest header that has a plan."""

_IDENTIFIER = re.compile(
    rb"\r\n(x-request-id|traceparent|tracestate):[ \t]*([\w.,:=@/+*-]{0,512})[ \t]*(?=\r\n)",
    re.IGNORECASE,
)
_IDENTIFIER_NAME = re.compile(rb"\n(?:x-request-id|trace(?:parent|state))\b", re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9._~:\[\]-]{1,255}")
_NEVER_PLANNED = frozenset((b"transfer-encoding", b"expect", b"content-encoding", b"upgrade"))


class Header(NamedTuple):
    """A parsed header."""

    target: bytes
    """The request's target as it was sent."""
    fields: Mapping[bytes, bytes]
    """Fields by name in lower case."""
    num_body_bytes: int


def without_identifiers(text: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
    """Return a header without the lines that differ in each request, and what these say.

    None: an identifier is not one that all servers read in the same way.
    """
    found = _IDENTIFIER.findall(text)
    if not found:
        return None if _IDENTIFIER_NAME.search(text) else (text, {})
    identifiers = {name.lower(): value for name, value in found}
    if len(identifiers) < len(found):
        return None
    text = _IDENTIFIER.sub(b"", text)
    return None if _IDENTIFIER_NAME.search(text) else (text, identifiers)


def parse(text: bytes) -> Header | None:
    """Return a parsed header, None if requests with such a header have no plan.

    Only a POST of HTTP/1.1 with a body of declared length, no field twice, and nothing that asks
    for another treatment of the connection or of the body.
    """
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(text)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    fields = dict(reader.fields)
    length = fields.get(b"content-length", b"")
    if (
        not reader.is_complete
        or parser.get_method() != b"POST"
        or parser.get_http_version() != "1.1"
        or len(fields) != len(reader.fields)
        or not _HOST.fullmatch(fields.get(b"host", b""))
        or fields.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        or fields.keys() & _NEVER_PLANNED
        or not length.isdigit()
        or len(length) > 12
    ):
        return None
    return Header(reader.target, fields, int(length))


class _Reader:
    """Receives the parts of a header from httptools."""

    def __init__(self) -> None:
        self.target = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.is_complete = True
