"""`application/x-safetensors`: raw little-endian tensors behind a JSON header.

The params ride in the header's `__metadata__`, which holds strings only, as one JSON text. The
format is read by hand: a service meets the same few headers again and again, so what a header says
is looked up, and tensors are views of the body.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import orjson
import torch

from service.errors import BadMessage, BadTensor, printable
from service.wire.message import (
    MAX_TENSORS,
    Buffer,
    Decoded,
    Message,
    Parameters,
    check_booleans,
    check_shape,
    raw,
    view,
)

media_type = "application/x-safetensors"
memory_factor = 1
inline_limit_bytes = 2**62

MAX_HEADER_BYTES = 2**20  # a config.json may ride in it
CACHED_HEADER_BYTES = 2**10

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class _Entry(NamedTuple):
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # bytes from the end of the header
    num_bytes: int


class _Header(NamedTuple):
    entries: tuple[_Entry, ...]
    num_bytes: int  # of all tensors
    params: Parameters
    booleans: tuple[str, ...]  # names of tensors


def decode(body: Buffer) -> Decoded:
    """Read a body."""
    size = int.from_bytes(body[:8], "little")
    if len(body) < 8 or size > len(body) - 8:
        raise BadMessage(f"the header ends beyond the body of {len(body)} bytes")
    if size > MAX_HEADER_BYTES:
        raise BadMessage(f"the header may have {MAX_HEADER_BYTES} bytes, got {size}")
    text = bytes(body[8 : 8 + size])
    header = _read_known(text) if size <= CACHED_HEADER_BYTES else _read(text)
    start = 8 + size
    if len(body) - start != header.num_bytes:
        got = len(body) - start
        raise BadMessage(f"the header tells of {header.num_bytes} bytes of tensors, got {got}")
    tensors = {e.name: view(body, e.dtype, e.shape, start + e.offset) for e in header.entries}
    for name in header.booleans:
        check_booleans(name, tensors[name])
    return Decoded(Message(tensors, header.params))


def encode(message: Message, as_base64: bool = False) -> list[Buffer]:
    """Write a body."""
    tensors = [tensor.contiguous() for tensor in message.tensors.values()]
    described = tuple(
        (name, tensor.dtype, tensor.shape)
        for name, tensor in zip(message.tensors, tensors, strict=True)
    )
    known = len(message.params.key) <= CACHED_HEADER_BYTES
    head = (_known_head if known else _head)(described, message.params)
    return [head, *map(raw, tensors)]


def _head(described: tuple[tuple[str, torch.dtype, torch.Size], ...], params: Parameters) -> bytes:
    header: dict[str, object] = {"__metadata__": {"params": params.key.decode()}}
    offset = 0
    for name, dtype, shape in described:
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": tuple(shape),
            "data_offsets": (offset, end),
        }
        offset = end
    text = orjson.dumps(header)
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


_known_head = lru_cache(maxsize=1024)(_head)


def _read(text: bytes) -> _Header:
    try:
        header = orjson.loads(text)
    except orjson.JSONDecodeError as broken:
        raise BadMessage(f"the header is not JSON: {broken}") from None
    if not isinstance(header, dict):
        raise BadMessage("the header must be an object")
    params = _params(header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        raise BadMessage(f"a message may have {MAX_TENSORS} tensors, got {len(header)}")
    entries = sorted((_entry(n, told) for n, told in header.items()), key=lambda e: e.offset)
    end = 0
    for entry in entries:
        if entry.offset != end:
            raise BadMessage(f"{printable(entry.name)} does not begin where the last tensor ends")
        end += entry.num_bytes
    booleans = tuple(e.name for e in entries if e.dtype is torch.bool)
    return _Header(tuple(entries), end, params, booleans)


_read_known = lru_cache(maxsize=1024)(_read)


def _entry(name: str, told: object) -> _Entry:
    match told:
        case {"dtype": str(dtype), "shape": shape, "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise BadMessage(f"{printable(name)} needs dtype, shape and data_offsets")
    if dtype not in _DTYPES:
        raise BadTensor(name, f"one of {', '.join(_DTYPES)}", printable(dtype))
    shape = check_shape(name, shape, _DTYPES[dtype])
    num_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if not 0 <= start <= end or end - start != num_bytes:
        expected = f"{num_bytes} bytes for shape {printable(shape)}"
        raise BadTensor(name, expected, f"offsets {start} to {end}")
    return _Entry(name, _DTYPES[dtype], shape, start, num_bytes)


def _params(metadata: object) -> Parameters:
    if not isinstance(metadata, dict) or not isinstance(metadata.get("params", ""), str):
        raise BadMessage("__metadata__ must be an object, and params in it a text")
    text = str(metadata.get("params", "{}"))
    try:
        params = orjson.loads(text)
    except orjson.JSONDecodeError as broken:
        raise BadMessage(f"params in __metadata__ are not JSON: {broken}") from None
    if not isinstance(params, dict):
        raise BadMessage("params in __metadata__ must be an object")
    return Parameters(params, text.encode())
