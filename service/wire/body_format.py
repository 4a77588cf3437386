"""The format that the first bytes of a body show, for errors about a body of another format."""

import json
from typing import Literal

from service.wire.message import Buffer

Format = Literal["gzip", "deflate", "safetensors", "JSON"]

MAX_JSON_BYTES = 2**18
"""Longest JSON object whose end `json_end` finds."""

_GZIP = b"\x1f\x8b"
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")

_COMPRESSED = "; the body seems to be compressed: /v1 reads no compressed bodies"
_HINTS: dict[Format | None, str] = {
    "gzip": _COMPRESSED,
    "deflate": _COMPRESSED,
    "safetensors": "; for safetensors send Content-Type: application/x-safetensors",
    "JSON": "; for JSON send Content-Type: application/json",
}


def body_hint(body: Buffer, expected: Format) -> str:
    """Return what to do with a body of `/v1` that is not of the format of its content type.

    "" if the body does not seem to have another format.
    """
    seems = body_format(body)
    return "" if seems == expected else _HINTS.get(seems, "")


def body_format(body: Buffer) -> Format | None:
    """Return the format that a body seems to have, None for another one."""
    start = bytes(body[:64])
    if start.startswith(_GZIP):
        return "gzip"
    if start.startswith(_ZLIB):
        return "deflate"
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= len(body) - 8:
        return "safetensors"
    return "JSON" if start.lstrip().startswith((b"{", b"[")) else None


def json_end(body: Buffer) -> int | None:
    """Return where the JSON object ends that a body begins with, None if there is no object."""
    text = str(bytes(body[:MAX_JSON_BYTES]), "latin-1")  # a character for each byte
    try:
        value, end = json.JSONDecoder().raw_decode(text, len(text) - len(text.lstrip()))
    except (ValueError, RecursionError):
        return None
    return end if isinstance(value, dict) else None
