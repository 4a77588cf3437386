"""Identifiers of a request: its own, and that of the trace that it is part of."""

import re
import secrets
from collections.abc import Mapping

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


def request_id(headers: Mapping[bytes, bytes]) -> str:
    """Return the client's X-Request-Id, or a new one if it has none that is safe to log."""
    header = headers.get(b"x-request-id")
    return header.decode() if header and _REQUEST_ID.fullmatch(header) else secrets.token_hex(8)


def trace_id(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the trace identifier of `traceparent` (W3C Trace Context), None if there is none."""
    match = _TRACEPARENT.fullmatch(headers.get(b"traceparent", b""))
    return match[1].decode() if match else None
