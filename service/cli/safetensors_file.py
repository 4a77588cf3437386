"""Read and write safetensors files in pieces, so that a file may be larger than the memory."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from service.cli.errors import InputError
from service.errors import printable

MAX_HEADER_BYTES = 100_000_000
"""Longest header, as in the library safetensors."""

MAX_ELEMENTS = 2**59
"""More elements of 8 bytes have no strides in torch, even if a length is 0."""

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""Dtypes that are read. Tensors of others can be copied."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    """Of its first byte in the file."""

    num_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tensors of a file lie."""

    header: bytes
    """The first bytes of the file, up to the tensors."""

    entries: Mapping[str, Entry]


def read_layout(file: BinaryIO, name: str) -> Layout:
    """Read the header of a file.

    Args:
        file: open at its start, seekable.
        name: of the file, for errors.

    Raises:
        InputError: the file is no safetensors file.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = file.read(8)
    num_bytes = int.from_bytes(length, "little")
    if len(length) < 8 or not 2 <= num_bytes <= min(size - 8, MAX_HEADER_BYTES):
        raise InputError(f"{name} is no safetensors file: it does not begin with a header")
    text = file.read(num_bytes)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise InputError(f"{name} is no safetensors file: its header is not a JSON object")
    header.pop("__metadata__", None)
    data = 8 + num_bytes
    entries = {key: _entry(name, key, value, data, size) for key, value in header.items()}
    return Layout(length + text, entries)


def _entry(file: str, name: str, value: Any, data: int, size: int) -> Entry:
    """Return the tensor that a member of the header describes.

    Args:
        file: name of the file, for errors.
        name: of the tensor.
        value: the member.
        data: where the tensors begin in the file.
        size: of the file, in bytes.
    """
    match value:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            shown = printable(name)
            raise InputError(f"{file}: {shown} must have dtype, shape and data_offsets")
    if not all(type(length) is int and length >= 0 for length in shape):
        raise InputError(f"{file}: shape of {printable(name)} must be a list of lengths")
    if math.prod(max(length, 1) for length in shape) >= MAX_ELEMENTS:
        raise InputError(f"{file}: shape of {printable(name)} must be smaller, got {shape}")
    if not 0 <= start <= end <= size - data:
        raise InputError(f"{file} ends before the tensor {printable(name)}: it is incomplete")
    if dtype in DTYPES and end - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise InputError(f"{file}: {printable(name)} has not the bytes of its dtype and shape")
    return Entry(name, dtype, tuple(shape), data + start, end - start)


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        InputError: it cannot be opened.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path} is a folder, not a file")
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:  # a name with a zero byte
        raise InputError(f"cannot read {printable(path)}: no file has this name") from None


def read_tensor(
    file: BinaryIO, entry: Entry, *, first: int = 0, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Read a tensor, or elements that lie behind each other.

    Args:
        file: the file.
        entry: the tensor.
        first: index of the first element to read, in the flat tensor.
        shape: of what is read; None for all of the tensor.

    Raises:
        InputError: the dtype is not one of `DTYPES`, or the file ended.
    """
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        expected = ", ".join(DTYPES)
        text = f"dtype of {printable(entry.name)} must be one of {expected}, got "
        raise InputError(text + printable(entry.dtype))
    shape = entry.shape if shape is None else shape
    num_bytes = math.prod(shape) * dtype.itemsize
    if not num_bytes:
        return torch.empty(shape, dtype=dtype)
    file.seek(entry.start + first * dtype.itemsize)
    data = bytearray(num_bytes)
    if file.readinto(data) != num_bytes:  # type: ignore[attr-defined]
        raise InputError(f"the file ended while {printable(entry.name)} was read")
    return torch.frombuffer(data, dtype=dtype).view(shape)
