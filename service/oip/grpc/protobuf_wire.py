"""Tensors beside the message that describes them: bytes that are long are not parsed, nor copied.

A serialized message is a sequence of fields, in any order. So those that hold raw tensors, and the
id, are cut out before the rest is parsed, and put behind the rest where an answer is written: the
rest is the same from one request to the next, and is looked up.
"""

from collections.abc import Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError

from service.errors import BadMessage
from service.wire import Buffer

MAX_FIELDS = 512
"""Of a request: parameters, inputs, outputs and raw tensors are a field each."""

_LENGTH_DELIMITED = 2
_ID = 3 << 3 | _LENGTH_DELIMITED
"""Of requests and of answers."""
_RAW_INPUT = 7 << 3 | _LENGTH_DELIMITED
_TAG_OF_ID = bytes((_ID,))
_RAW_OUTPUT = bytes((6 << 3 | _LENGTH_DELIMITED,))
_INFER_RESPONSE = bytes((2 << 3 | _LENGTH_DELIMITED,))
_FIXED = {1: 8, 5: 4}
"""Bytes of a field, by the types of the wire whose length is known."""


class Split(NamedTuple):
    """A `ModelInferRequest` in parts."""

    head: bytes
    """The message, without what follows."""
    id: str
    raw: list[memoryview]
    """Its `raw_input_contents`."""


def split_request(body: bytes) -> Split:
    """Return the parts of a `ModelInferRequest`.

    Raises:
        DecodeError: it is no message.
        BadMessage: it has more fields than any request needs.
    """
    view = memoryview(body)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    request_id = view[:0]
    kept = at = 0
    for _ in range(MAX_FIELDS):
        if at >= len(body):
            break
        begin = at
        tag, at = _varint(body, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(body, at)
            if tag in (_RAW_INPUT, _ID):
                rest.append(view[kept:begin])
                kept = at + length
                if tag == _ID:
                    request_id = view[at:kept]
                else:
                    raw.append(view[at:kept])
            at += length
        elif kind == 0:
            _, at = _varint(body, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise DecodeError(f"field of type {kind}")
    if at < len(body):
        raise BadMessage(f"a request may have {MAX_FIELDS} fields")
    if at > len(body):
        raise DecodeError("the last field ends early")
    rest.append(view[kept:])
    try:
        return Split(b"".join(rest), str(request_id, "utf-8"), raw)
    except UnicodeDecodeError:
        raise DecodeError("an id that is not UTF-8") from None


def join_response(head: bytes, request_id: str, raw: Sequence[Buffer]) -> list[Buffer]:
    """Return the parts of a `ModelInferResponse`: `head`, its id and its `raw_output_contents`."""
    parts: list[Buffer] = [head]
    if request_id:
        told = request_id.encode()
        parts += _TAG_OF_ID, _to_varint(len(told)), told
    for each in raw:
        parts += _RAW_OUTPUT, _to_varint(len(each)), each
    return parts


def join_streamed(parts: list[Buffer]) -> list[Buffer]:
    """Return the parts of a `ModelStreamInferResponse` around those of its `infer_response`."""
    return [_INFER_RESPONSE, _to_varint(sum(map(len, parts))), *parts]


def _varint(body: bytes, at: int) -> tuple[int, int]:
    if at < len(body) and body[at] < 0x80:
        return body[at], at + 1
    value = shift = 0
    while True:
        if at >= len(body) or shift > 63:
            raise DecodeError("a number ends early, or never")
        byte = body[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _to_varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
