"""Split and join serialized messages, so that tensors are neither parsed nor copied.

A serialized message is a sequence of fields in any order. The fields of raw tensors and of the id
are cut out before the rest is parsed, and follow the rest when an answer is written. The rest is
the same from one request to the next, so what was parsed or written of it is cached.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from google.protobuf.message import DecodeError

from service.errors import BadMessage
from service.wire import Buffer

MAX_FIELDS = 512
"""Most fields of a request: each parameter, input, output and raw tensor is one."""

# A tag is the number of a field, and in the lowest three bits the type of its encoding.
_VARINT = 0
_LENGTH_DELIMITED = 2
_FIXED_BYTES = {1: 8, 5: 4}
"""Length of a field by the other types."""

_ID = 3 << 3 | _LENGTH_DELIMITED  # in requests and in responses
_RAW_INPUT = 7 << 3 | _LENGTH_DELIMITED
_ID_TAG = bytes((_ID,))
_RAW_INPUT_TAG = bytes((_RAW_INPUT,))
_RAW_OUTPUT_TAG = bytes((6 << 3 | _LENGTH_DELIMITED,))
_INFER_RESPONSE_TAG = bytes((2 << 3 | _LENGTH_DELIMITED,))


class SplitRequest(NamedTuple):
    """The parts of a serialized `ModelInferRequest`."""

    header: bytes
    """The message without its id and its raw tensors."""
    id: str
    raw: list[memoryview]
    """Its `raw_input_contents`."""


def split_request(body: bytes) -> SplitRequest:
    """Split a serialized `ModelInferRequest`.

    Raises:
        DecodeError: `body` is no message.
        BadMessage: the message has too many fields.
    """
    view = memoryview(body)
    header: list[memoryview] = []
    raw: list[memoryview] = []
    request_id = view[:0]
    copied = at = 0  # all before `copied` is in the header, in the id or in `raw`
    for _ in range(MAX_FIELDS):
        if at >= len(body):
            break
        start = at
        tag, at = _read_varint(body, at)
        encoding = tag & 7
        if encoding == _LENGTH_DELIMITED:
            length, at = _read_varint(body, at)
            if tag in (_RAW_INPUT, _ID):
                header.append(view[copied:start])
                copied = at + length
                if tag == _ID:
                    request_id = view[at:copied]
                else:
                    raw.append(view[at:copied])
            at += length
        elif encoding == _VARINT:
            _, at = _read_varint(body, at)
        elif encoding in _FIXED_BYTES:
            at += _FIXED_BYTES[encoding]
        else:
            raise DecodeError(f"field of type {encoding}")
    if at < len(body):
        raise BadMessage(f"a request may have {MAX_FIELDS} fields")
    if at > len(body):
        raise DecodeError("the last field ends early")
    header.append(view[copied:])
    try:
        return SplitRequest(b"".join(header), str(request_id, "utf-8"), raw)
    except UnicodeDecodeError:
        raise DecodeError("an id that is not UTF-8") from None


def raw_input_tag(num_bytes: int) -> bytes:
    """Return what is before a tensor of `raw_input_contents`: its field and its length."""
    return _RAW_INPUT_TAG + _write_varint(num_bytes)


def join_response(header: bytes, request_id: str, raw: Sequence[Buffer]) -> list[Buffer]:
    """Return the parts of a `ModelInferResponse`: header, id and `raw_output_contents`."""
    parts: list[Buffer] = [header]
    if request_id:
        encoded_id = request_id.encode()
        parts += _ID_TAG, _write_varint(len(encoded_id)), encoded_id
    for data in raw:
        parts += _RAW_OUTPUT_TAG, _write_varint(len(data)), data
    return parts


def join_stream_response(parts: list[Buffer]) -> bytes:
    """Return a `ModelStreamInferResponse` whose `infer_response` is `parts`."""
    return b"".join((_INFER_RESPONSE_TAG, _write_varint(sum(map(len, parts))), *parts))


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    """Return the number at index `at`, and the index behind it."""
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


@lru_cache(maxsize=1024)
def _write_varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
