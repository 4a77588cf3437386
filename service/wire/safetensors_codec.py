"""`application/x-safetensors`: raw little-endian tensors behind a JSON header.

The `__metadata__` of the header holds strings only. Parameters are one JSON text in it, under the
key `params`. Headers are parsed here and not by the safetensors library: requests repeat a few
headers, so a parsed header is cached, and tensors are views of the body.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import orjson
import torch

from service.errors import BadMessage, BadTensor, printable
from service.wire import config_json
from service.wire.body_format import body_hint
from service.wire.elements import check_booleans, check_shape, view_as_bytes, view_as_tensor
from service.wire.message import MAX_TENSORS, Buffer, Decoded, Message, Parameters

media_type = "application/x-safetensors"
memory_factor = 1
answer_memory_factor = 1
inline_limit_bytes = 2**62

MAX_HEADER_BYTES = 2**24
"""Longest header. Its parameters may have a config.json, whose quotes take two bytes each."""

MAX_INLINE_HEADER_BYTES = 2**14
"""Longest header that is parsed on the event loop."""

MAX_CACHED_BYTES = 2**10
"""Longest header of a request that is cached, and longest description of tensors."""

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


Layout = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
"""Name, dtype and shape of each tensor."""


class Entry(NamedTuple):
    """A tensor in a header."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # bytes from the end of the header
    num_bytes: int


class Tensors(NamedTuple):
    """The tensors in a header, in the order of their bytes."""

    entries: tuple[Entry, ...]
    num_bytes: int  # of all tensors
    bool_names: tuple[str, ...]  # names of the tensors of booleans


class Header(NamedTuple):
    """What a header tells."""

    tensors: Tensors
    params: Parameters


def long_text_bytes(body: Buffer) -> int:
    """Return the length of the header if it is not parsed on the event loop, else 0."""
    size = min(int.from_bytes(body[:8], "little"), len(body), MAX_HEADER_BYTES)
    return size if size > MAX_INLINE_HEADER_BYTES else 0


def decode(body: Buffer, *, is_repeated: bool = True) -> Decoded:
    """Read a body.

    Args:
        body: header and tensors.
        is_repeated: whether other bodies have the same parameters, so that the header is cached.

    Raises:
        BadMessage: the header is not one of safetensors, or the body has not the described length.
        BadTensor: the header describes a tensor that cannot be.
    """
    if len(body) < 8:
        raise BadMessage(f"the body must begin with 8 bytes of length, got {len(body)} bytes")
    size = int.from_bytes(body[:8], "little")
    start = 8 + size
    if start > len(body):
        hint = body_hint(body, "safetensors")
        text = f"the header of {size} bytes ends after the body of {len(body)} bytes{hint}"
        raise BadMessage(text)
    if size > MAX_HEADER_BYTES:
        raise BadMessage(f"the header may be at most {MAX_HEADER_BYTES} bytes long, got {size}")
    return decode_parts(bytes(body[8:start]), memoryview(body)[start:], is_repeated=is_repeated)


def decode_parts(text: bytes, data: memoryview, *, is_repeated: bool = True) -> Decoded:
    """Read a body whose header is `text`; `data` are the bytes of its tensors.

    Raises:
        BadMessage, BadTensor: as `decode`.
    """
    cached = is_repeated and len(text) <= MAX_CACHED_BYTES
    header = _parse_header_cached(text) if cached else parse_header(text)
    described = header.tensors
    extra = len(data) - described.num_bytes
    if extra > 0:
        raise BadMessage(f"{extra} trailing bytes after the tensors of the header")
    if extra < 0:
        raise BadMessage(f"the body ends {-extra} bytes before the tensors of the header")
    tensors = {}
    for name, dtype, shape, offset, _ in described.entries:
        tensors[name] = view_as_tensor(data, dtype, shape, offset)
    for name in described.bool_names:
        check_booleans(name, tensors[name])
    return Decoded(Message(tensors, header.params))


def encode(message: Message, as_base64: bool = False) -> list[Buffer]:
    """Write a body; this format has no text for tensors, so `as_base64` changes nothing."""
    tensors = [tensor.contiguous() for tensor in message.tensors.values()]
    layout = tuple(
        (name, tensor.dtype, tensor.shape)
        for name, tensor in zip(message.tensors, tensors, strict=True)
    )
    return [format_header(layout, message.params), *map(view_as_bytes, tensors)]


def format_header(layout: Layout, params: Parameters) -> bytes:
    """Return the first bytes of a body: the length of the header, and the header."""
    is_short = len(layout) <= MAX_TENSORS
    describe = _describe_tensors_cached if is_short else _describe_tensors
    metadata = b'{"__metadata__":{"params":%b}%b' % (
        orjson.dumps(params.key.decode()),
        describe(layout),
    )
    text = metadata + b" " * (-len(metadata) % 8)
    return len(text).to_bytes(8, "little") + text


def _describe_tensors(layout: Layout) -> bytes:
    """Return what follows the parameters in a header: the tensors, and the last brace."""
    header: dict[str, object] = {}
    offset = 0
    for name, dtype, shape in layout:
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _DTYPE_NAMES[dtype],
            "shape": tuple(shape),
            "data_offsets": (offset, end),
        }
        offset = end
    return b"," + orjson.dumps(header)[1:] if header else b"}"


_describe_tensors_cached = lru_cache(maxsize=1024)(_describe_tensors)


def parse_header(text: bytes, max_tensors: int = MAX_TENSORS) -> Header:
    """Read a header.

    Args:
        text: the header without its length.
        max_tensors: most tensors of the message.

    Raises:
        BadMessage, BadTensor: as `decode`.
    """
    if max_tensors == MAX_TENSORS and (usual := _parse_usual_header(text)) is not None:
        return usual
    try:
        header = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadMessage(f"the header is not valid JSON: {error}") from None
    if not isinstance(header, dict):
        raise BadMessage("the header must be a JSON object")
    params = _parse_params(header.pop("__metadata__", {}))
    if len(header) > max_tensors:
        raise BadMessage(f"a message may have at most {max_tensors} tensors, got {len(header)}")
    try:  # parameters may differ in each message, tensors seldom do
        text = orjson.dumps(header)
    except orjson.JSONEncodeError:
        raise BadMessage("the header is nested too deep") from None
    tensors = (_parse_tensors_cached if len(text) <= MAX_CACHED_BYTES else _parse_tensors)(text)
    return Header(tensors, params)


_parse_header_cached = lru_cache(maxsize=1024)(parse_header)

_USUAL_START = b'{"__metadata__":{"params":"'
_BACKSLASH = ord("\\")


def _parse_usual_header(text: bytes) -> Header | None:
    """Return a header that begins with the parameters, and whose tensors are cached; else None.

    A quote within the text of the parameters has a backslash before it.
    """
    if not text.startswith(_USUAL_START):
        return None
    start = len(_USUAL_START) - 1
    end = text.find(b'"}', start + 1)
    while end > 0 and text[end - 1] == _BACKSLASH:
        end = text.find(b'"}', end + 1)
    if not 0 <= len(text) - end <= MAX_CACHED_BYTES:
        return None
    tensors = _parse_rest(text[end + 2 :])
    if tensors is None:
        return None
    try:
        key = orjson.loads(text[start : end + 1])
        values = orjson.loads(key)
    except orjson.JSONDecodeError:
        return None
    return Header(tensors, Parameters(values, key.encode())) if isinstance(values, dict) else None


@lru_cache(maxsize=1024)
def _parse_rest(rest: bytes) -> Tensors | None:
    """Return the tensors in what follows `__metadata__` in a header; None if it is not usual."""
    if b"__metadata__" in rest or b"\\" in rest:
        return None
    try:
        header = orjson.loads(b'{"__metadata__":0' + rest)
    except orjson.JSONDecodeError:
        return None
    del header["__metadata__"]
    return None if len(header) > MAX_TENSORS else _parse_tensors(orjson.dumps(header))


def _parse_tensors(text: bytes) -> Tensors:
    """Return the tensors that a header describes; `text` is the header without `__metadata__`."""
    entries = [_parse_entry(name, value) for name, value in orjson.loads(text).items()]
    entries.sort(key=lambda entry: entry.offset)
    end = 0
    for entry in entries:
        if entry.offset != end:
            name = printable(entry.name)
            raise BadMessage(f"data_offsets of {name} must begin at {end}, got {entry.offset}")
        end += entry.num_bytes
    bool_names = tuple(entry.name for entry in entries if entry.dtype is torch.bool)
    return Tensors(tuple(entries), end, bool_names)


_parse_tensors_cached = lru_cache(maxsize=1024)(_parse_tensors)


def _parse_entry(name: str, value: object) -> Entry:
    match value:
        case {"dtype": str(dtype_name), "shape": shape, "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise BadMessage(f"{printable(name)} must have dtype, shape and data_offsets")
    if type(start) is bool or type(end) is bool:
        raise BadMessage(f"data_offsets of {printable(name)} must be integers")
    if dtype_name not in _DTYPES:
        raise BadTensor(f"dtype of {name}", f"one of {', '.join(_DTYPES)}", printable(dtype_name))
    dtype = _DTYPES[dtype_name]
    shape = check_shape(name, shape, dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    if not 0 <= start <= end or end - start != num_bytes:
        expected = f"{num_bytes} bytes apart for shape {printable(shape)}"
        raise BadTensor(f"data_offsets of {name}", expected, f"{start} and {end}")
    return Entry(name, dtype, shape, start, num_bytes)


def _parse_params(metadata: object) -> Parameters:
    text = metadata.get("params", "{}") if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise BadMessage("__metadata__ must be an object, and params in it a string")
    try:
        params = config_json.loads(text, config_json.IN_PARAMS)
    except orjson.JSONDecodeError as error:
        raise BadMessage(f"params in __metadata__ is not valid JSON: {error}") from None
    if not isinstance(params, dict):
        raise BadMessage("params in __metadata__ must be a JSON object")
    return Parameters(params, text.encode())
