"""The header of a request that may have a plan."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from service.access.keys import NO_KEYS, Keys
from service.access.tenant import ANONYMOUS, Tenant
from service.asgi.request_header import HeaderLimits, HeaderParser
from service.errors import ServiceError

END = b"\r\n\r\n"

MAX_HEADER_BYTES = 2**12
"""Longest header that has a plan."""

_IDENTIFIER = re.compile(
    rb"(?<=[^\r\n])\r\n(x-request-id|traceparent|tracestate):[ \t]*([\w.,:=@/+*-]{0,512})(?=\r\n)",
    re.IGNORECASE,
)
"""A field that differs in each request."""

MAX_IDENTIFIERS = 3
"""One of each name."""

NO_IDENTIFIERS: Mapping[bytes, bytes] = {}

_IDENTIFIER_NAME = re.compile(rb"\n(?:x-request-id|trace(?:parent|state))\b", re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9._~:\[\]-]{1,255}")
_CONNECTION_OPTIONS = (b"keep-alive", b"close")
_NEVER_PLANNED = frozenset(
    (b"transfer-encoding", b"expect", b"content-encoding", b"upgrade", b"proxy-connection")
)


class Header(NamedTuple):
    """A parsed header."""

    target: bytes
    """The request's target as it was sent."""
    fields: Mapping[bytes, bytes]
    """Fields by name in lower case."""
    num_body_bytes: int
    tenant: Tenant = ANONYMOUS
    """Tenant of requests with this header."""
    keep_alive: bool = True
    """Whether another request may follow on the connection."""
    keys: Keys = NO_KEYS
    """The keys that gave the tenant. The header is stale when the gate has others."""


def without_identifiers(text: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
    """Return a header without the identifiers, and the values of these by name.

    None: an identifier is there twice, or has a form that other servers may read differently.
    """
    fields = _IDENTIFIER.findall(text)
    if not fields:
        return None if _IDENTIFIER_NAME.search(text) else (text, {})
    identifiers = {name.lower(): value for name, value in fields}
    if len(identifiers) < len(fields):
        return None
    text = _IDENTIFIER.sub(b"", text)
    return None if _IDENTIFIER_NAME.search(text) else (text, identifiers)


def parse(text: bytes, limits: HeaderLimits) -> Header | None:
    """Return a parsed header, None if requests with such a header have no plan.

    Plans are for a POST of HTTP/1.1 with a body of declared length, no field twice, and no field
    that changes how the connection or the body is read.
    """
    parser = HeaderParser(limits)
    try:
        num_parsed = parser.feed(text, 0)
        header = parser.result()
    except ServiceError:
        return None
    if header is None:
        return None
    fields = dict(header.fields)
    length = fields.get(b"content-length", b"")
    if (
        num_parsed < len(text)
        or header.method != "POST"
        or header.version != "1.1"
        or len(fields) != len(header.fields)
        or not _HOST.fullmatch(fields[b"host"])
        or fields.get(b"connection", b"keep-alive").lower() not in _CONNECTION_OPTIONS
        or fields.keys() & _NEVER_PLANNED
        or not length.isdigit()
        or len(length) > 12
    ):
        return None
    return Header(parser.target, fields, int(length), keep_alive=header.keep_alive)
