"""Tensors beside the message that describes them: bytes that are long are not parsed, nor copied.

A serialized message is a sequence of fields, in any order. So those that hold raw tensors are cut
out before the rest is parsed, and put behind the rest where an answer is written.
"""

from collections.abc import Sequence

from google.protobuf.message import DecodeError

from service.wire import Buffer

_LENGTH_DELIMITED = 2
_RAW_INPUT = 7 << 3 | _LENGTH_DELIMITED
_RAW_OUTPUT = bytes((6 << 3 | _LENGTH_DELIMITED,))
_INFER_RESPONSE = bytes((2 << 3 | _LENGTH_DELIMITED,))
_FIXED = {1: 8, 5: 4}
"""Bytes of a field, by the types of the wire whose length is known."""


def split_request(body: bytes) -> tuple[bytes, list[memoryview]]:
    """Return a `ModelInferRequest` without `raw_input_contents`, and these.

    Raises:
        DecodeError: it is no message.
    """
    view = memoryview(body)
    rest: list[memoryview] = []
    raw: list[memoryview] = []
    kept = at = 0
    while at < len(body):
        begin = at
        tag, at = _varint(body, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            length, at = _varint(body, at)
            if tag == _RAW_INPUT:
                rest.append(view[kept:begin])
                raw.append(view[at : at + length])
                kept = at + length
            at += length
        elif kind == 0:
            _, at = _varint(body, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise DecodeError(f"field of type {kind}")
    if at > len(body):
        raise DecodeError("the last field ends early")
    rest.append(view[kept:])
    return b"".join(rest), raw


def join_response(head: bytes, raw: Sequence[Buffer]) -> list[Buffer]:
    """Return the parts of a `ModelInferResponse`: `head`, and its `raw_output_contents`."""
    parts: list[Buffer] = [head]
    for each in raw:
        parts += _RAW_OUTPUT, _to_varint(len(each)), each
    return parts


def join_streamed(parts: list[Buffer]) -> list[Buffer]:
    """Return the parts of a `ModelStreamInferResponse` around those of its `infer_response`."""
    return [_INFER_RESPONSE, _to_varint(sum(map(len, parts))), *parts]


def _varint(body: bytes, at: int) -> tuple[int, int]:
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
