"""`application/x-safetensors`: raw little-endian tensors behind a JSON header.

The params ride in the header's `__metadata__`, which holds strings only, as one JSON text. The
format is read by hand: a service meets the same few headers again and again, so what a header says
is looked up, and tensors are views of the body.
"""

import math
import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import orjson
import torch
from torch import Tensor

from service.errors import BadMessage, BadTensor, printable
from service.wire.message import MAX_RANK, MAX_TENSORS, Message

Buffer = bytes | bytearray | memoryview

media_type = "application/x-safetensors"
expansion = 1
prompt_bytes = 2**62

MAX_HEADER_BYTES = 64 * 2**10
CACHED_HEADER_BYTES = 2**10

_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
}
_NUMPY = {
    torch.float32: np.dtype("<f4"),
    torch.float16: np.dtype("<f2"),
    torch.bfloat16: np.dtype("<i2"),
    torch.float64: np.dtype("<f8"),
    torch.int64: np.dtype("<i8"),
    torch.int32: np.dtype("<i4"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}

with warnings.catch_warnings():
    # torch tells once in a process that bytes are read-only; nothing here writes to a request
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


class _Entry(NamedTuple):
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # bytes from the end of the header
    count: int


class _Header(NamedTuple):
    entries: tuple[_Entry, ...]
    num_bytes: int  # of all tensors
    params: bytes


def decode(body: Buffer) -> Message:
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
    tensors = {e.name: _view(body, start, e) for e in header.entries}
    return Message(tensors, header.params)


def encode(message: Message) -> list[Buffer]:
    """Write a body."""
    tensors = [tensor.contiguous() for tensor in message.tensors.values()]
    described = tuple(
        (name, tensor.dtype, tensor.shape)
        for name, tensor in zip(message.tensors, tensors, strict=True)
    )
    head = _head(described, message.params)
    return [head, *(_bytes(tensor) for tensor in tensors if tensor.numel())]


def _view(body: Buffer, start: int, entry: _Entry) -> Tensor:
    if not entry.count:
        return torch.empty(entry.shape, dtype=entry.dtype)
    # numpy makes a view of bytes in a fraction of torch's time, but knows no bfloat16
    array = np.ndarray(entry.shape, _NUMPY[entry.dtype], body, start + entry.offset)
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if entry.dtype is torch.bfloat16 else tensor


def _bytes(tensor: Tensor) -> memoryview:
    array = (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array.data.cast("B")


@lru_cache(maxsize=1024)
def _head(described: tuple[tuple[str, torch.dtype, torch.Size], ...], params: bytes) -> bytes:
    header: dict[str, object] = {"__metadata__": {"params": params.decode()}}
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
        end += entry.count * entry.dtype.itemsize
    return _Header(tuple(entries), end, params)


_read_known = lru_cache(maxsize=1024)(_read)


def _entry(name: str, told: object) -> _Entry:
    match told:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise BadMessage(f"{printable(name)} needs dtype, shape and data_offsets")
    if dtype not in _DTYPES:
        raise BadTensor(name, f"one of {', '.join(_DTYPES)}", printable(dtype))
    if len(shape) > MAX_RANK or not all(type(n) is int and n >= 0 for n in shape):
        raise BadTensor(name, f"of at most {MAX_RANK} axes of natural numbers", printable(shape))
    count = math.prod(shape)
    if not 0 <= start <= end or end - start != count * _DTYPES[dtype].itemsize:
        expected = f"{count * _DTYPES[dtype].itemsize} bytes for shape {printable(shape)}"
        raise BadTensor(name, expected, f"offsets {start} to {end}")
    return _Entry(name, _DTYPES[dtype], tuple(shape), start, count)


def _params(metadata: object) -> bytes:
    if not isinstance(metadata, dict) or not isinstance(metadata.get("params", ""), str):
        raise BadMessage("__metadata__ must be an object, and params in it a text")
    text = str(metadata.get("params", "{}"))
    try:
        params = orjson.loads(text)
    except orjson.JSONDecodeError as broken:
        raise BadMessage(f"params in __metadata__ are not JSON: {broken}") from None
    if not isinstance(params, dict):
        raise BadMessage("params in __metadata__ must be an object")
    return text.encode()
