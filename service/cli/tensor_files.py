"""Tensors of files: .safetensors, .npy, and .pt with weights only."""

import io
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from service.cli.errors import InputError
from service.cli.safetensors_file import open_file, read_layout, read_tensor
from service.errors import printable

NPY = b"\x93NUMPY"
PT = (b"PK\x03\x04", b"\x80\x02")
"""First bytes of what torch.save writes: a zip archive, or what it wrote before version 1.6."""

KINDS = "safetensors, .npy or .pt"


def read_tensor_file(source: str, name: str) -> Tensor:
    """Read one tensor from `file` or `file:tensor`, or from standard input if `file` is `-`.

    Args:
        source: the file. Without the name of a tensor, the file has one tensor or one named `name`.
        name: what the tensor is, for errors.

    Raises:
        InputError: there is no such file or tensor.
    """
    path, tensor_name = split_name(source)
    tensors = read_tensors(path)
    if tensor_name is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    tensor = tensors.get(name if tensor_name is None else tensor_name)
    if tensor is None:
        names = ", ".join(sorted(map(printable, tensors))[:16]) or "none"
        wanted = f"one tensor, or one named {name}" if tensor_name is None else tensor_name
        text = f"{path} must have {wanted}, got the tensors {names}"
        raise InputError(text + (f"; name one: {path}:NAME" if tensor_name is None else ""))
    return tensor


def split_name(source: str) -> tuple[str, str | None]:
    """Return the path and the name of the tensor of `path:name`; None without a name."""
    path, colon, name = source.rpartition(":")
    if not (colon and path and name) or _exists(source):
        return source, None
    return path, name


def read_tensors(source: str) -> Mapping[str, Tensor]:
    """Return the tensors of a file by name; the tensor of a file without names is called "".

    Args:
        source: path of a file, or `-` for standard input.

    Raises:
        InputError: the file cannot be read, or is of another kind.
    """
    if source == "-":
        return _read(io.BytesIO(sys.stdin.buffer.read()), "standard input")
    with open_file(Path(source)) as file:
        return _read(file if file.seekable() else io.BytesIO(file.read()), source)


def _read(file: BinaryIO, name: str) -> Mapping[str, Tensor]:
    magic = file.read(8)
    file.seek(0)
    if magic.startswith(NPY):
        return {"": _read_npy(file, name)}
    if magic.startswith(PT):
        return _read_pt(file, name)
    try:
        layout = read_layout(file, name)
    except InputError as error:
        raise InputError(f"{error}; expected {KINDS}") from None
    return {key: read_tensor(file, entry) for key, entry in layout.entries.items()}


def _read_npy(file: BinaryIO, name: str) -> Tensor:
    try:
        # no objects, which numpy would unpickle
        array = np.lib.format.read_array(file, allow_pickle=False)
        return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
    except (ValueError, TypeError, EOFError, OSError, MemoryError) as error:
        raise InputError(f"{name} is no .npy file of numbers: {printable(error, 256)}") from None


def _read_pt(file: BinaryIO, name: str) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings(action="ignore"):  # about what torch.load does inside
            # weights_only reads tensors and containers, and runs no code of the file
            content = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception:  # of many kinds, with texts about the unpickler
        text = f"{name} is no .pt file with tensors only"
        raise InputError(f"{text}: save a tensor, or a dict of tensors, with torch.save") from None
    content = {"": content} if isinstance(content, Tensor) else content
    found = content.items() if isinstance(content, dict) else ()
    tensors = {str(key): value.detach() for key, value in found if isinstance(value, Tensor)}
    if not tensors:
        expected = "a tensor or a dict of tensors"
        raise InputError(f"{name} must contain {expected}, got {type(content).__name__}")
    for key, value in tensors.items():
        if value.is_meta or value.is_quantized or value.layout is not torch.strided:
            kind = "none" if value.is_meta else f"{value.layout}, {value.dtype}"
            raise InputError(f"{name}: {printable(key)} must have plain numbers, got {kind}")
    return tensors


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False
