"""Build requests as bytes, and describe the expected answer of a row."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

JSON = "Content-Type: application/json"
SAFETENSORS = "Content-Type: application/x-safetensors"
OCTETS = "Content-Type: application/octet-stream"
CHUNKED = "Transfer-Encoding: chunked"
ROTATE = b'{"q": [[[1, 0]], [[1, 0]]], "positions": [0, 1]}'
INFER = "/v2/models/rope/infer"
TEN_GIB = 10 * 2**30
MAX_JSON_BYTES = 2**20
"""Limit of the tested service: small, so that a body over the limit is short."""


@dataclass(frozen=True, slots=True)
class Row:
    """A request, and its expected answer."""

    id: str
    """Identifier of the row, and a name if the row has several variants."""
    request: bytes | Callable[[], bytes]
    """The bytes, or a function that makes them when they are sent."""
    status: int | None
    """None: the connection closes without an answer."""
    code: str = ""
    """Code of the problem document; empty for status 200 and for errors of `/v2`."""
    closes: bool = False
    """Whether the connection closes after the answer: no later request is run."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that the answer must have."""


def header(
    *lines: str,
    method: str = "POST",
    path: str = "/v1/rotate",
    host: str = "Host: x",
    version: str = "1.1",
) -> bytes:
    """Return the header of a request."""
    start = f"{method} {path} HTTP/{version}"
    return "\r\n".join([start, *filter(None, [host]), *lines, "", ""]).encode("latin-1")


def post(body: bytes, *lines: str, **parts: str) -> bytes:
    """Return a POST of JSON with a declared length."""
    return header(JSON, f"Content-Length: {len(body)}", *lines, **parts) + body


def send(body: bytes, *lines: str, **parts: str) -> bytes:
    """Return a POST with a declared length; `lines` may have its Content-Type."""
    return header(*lines, f"Content-Length: {len(body)}", **parts) + body


def post_json(value: object, *lines: str, **parts: str) -> bytes:
    """Return a POST of a value as JSON."""
    return post(json.dumps(value).encode(), *lines, **parts)


def get(path: str, *lines: str, method: str = "GET") -> bytes:
    """Return a request without a body."""
    return header(*lines, method=method, path=path)


def chunks(*parts: bytes, trailer: bytes = b"") -> bytes:
    """Return a body in chunks."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return body + b"0\r\n" + trailer + b"\r\n"


def tensor(
    shape: object, data: Sequence[Any] | None = None, dtype: object = "float32"
) -> dict[str, Any]:
    """Return a tensor in JSON; all elements are 0.5 if `data` is None."""
    if data is None:
        count = 1
        for size in shape:
            count *= size
        data = [0.5] * count
    return {"shape": shape, "dtype": dtype, "data": data}


def safetensors(header: object, data: bytes = b"", size: int | None = None) -> bytes:
    """Return a safetensors body; `header` is a JSON value or its text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(shape: object, start: int, end: int, dtype: object = "F32") -> dict[str, Any]:
    """Return the entry of a tensor in a safetensors header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
