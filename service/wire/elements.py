"""The elements of a tensor as little-endian bytes, or as a list of JSON numbers or booleans."""

import math
import struct
import warnings
from ctypes import c_char
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.errors import BadTensor, TensorTooLarge, printable
from service.wire.message import Buffer
from service.wire.typed_json import Numbers

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "bool": torch.bool,
}
"""The dtypes that a message may have, by their names in JSON."""

MAX_RANK = 8
"""Most axes of a tensor."""

# numpy has no bfloat16
_NUMPY_DTYPES = {
    dtype: np.dtype("int16" if dtype is torch.bfloat16 else name) for name, dtype in DTYPES.items()
}

with warnings.catch_warnings():
    # torch warns once in a process that bytes are read-only; nothing here writes to a request
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def check_shape(name: str, shape: object, dtype: torch.dtype) -> tuple[int, ...]:
    """Return the shape of a tensor.

    Raises:
        BadTensor: `shape` is not a list of at most `MAX_RANK` non-negative integers, or torch could
            not have an empty tensor of it.
        TensorTooLarge: the tensor would have too many bytes.
    """
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise BadTensor(f"shape of {name}", f"a list of at most {MAX_RANK} axes", printable(shape))
    if not all(type(size) is int and size >= 0 for size in shape):
        raise BadTensor(f"shape of {name}", "a list of non-negative integers", printable(shape))
    # torch computes the strides of an empty tensor as if each axis had at least one element
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 2**63:
        if 0 in shape:
            raise BadTensor(name, "smaller than 2**63 bytes", f"shape {printable(shape)}")
        raise TensorTooLarge(name, shape)
    return tuple(shape)


def parse_elements(
    name: str, elements: list[Any] | Numbers, dtype: torch.dtype, dtype_name: str
) -> Tensor:
    """Return the elements of a JSON list as a tensor `[len(elements)]` of `dtype`.

    Args:
        name: the tensor, for errors.
        elements: numbers or booleans.
        dtype: dtype of the tensor.
        dtype_name: name of `dtype` in the protocol, for errors.

    Raises:
        BadTensor: an element has another type, or a finite number is out of the range of `dtype`.
        NotTyped: an element has another type, and `elements` are `Numbers`.
    """
    types: set[type]
    if dtype is torch.bool:
        content, types, code = "booleans", {bool}, "b"
    elif dtype.is_floating_point:
        content, types, code = "numbers", {int, float}, "d"
    else:
        content, types, code = "integers", {int}, "q"
    expected = f"made of {content} in the range of {dtype_name}"
    packed: Buffer
    if isinstance(elements, Numbers):
        packed = elements.pack(code)
    elif others := set(map(type, elements)) - types:
        raise BadTensor(name, f"made of {content}", min(each.__name__ for each in others))
    else:
        try:  # numpy takes twice as long to read a list
            packed = struct.pack(f"{len(elements)}{code}", *elements)
        except struct.error:
            raise BadTensor(name, expected, "others") from None
    wide = torch.from_numpy(np.frombuffer(packed, f"<{code}"))
    tensor = wide.to(dtype)
    if not dtype.is_floating_point:
        in_range = tensor is wide or bool((tensor == wide).all())
    else:  # NaN and Infinity are in range
        in_range = math.isfinite(tensor.sum()) or bool((tensor.isfinite() | ~wide.isfinite()).all())
    if not in_range:
        raise BadTensor(name, expected, "others")
    return tensor


def all_finite(tensor: Tensor) -> bool:
    """Tell whether a tensor of any shape and dtype has no NaN and no infinity."""
    # their sum takes a tenth of the time, and a finite sum has only finite terms
    return math.isfinite(tensor.sum()) or bool(tensor.isfinite().all())


def check_booleans(name: str, tensor: Tensor) -> None:
    """Check the bytes of a bool tensor of any shape; torch computes with others, but wrongly.

    Raises:
        BadTensor: a byte is neither 0 nor 1.
    """
    if tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        raise BadTensor(name, "made of booleans, bytes 0 and 1", "other bytes")


def view_as_tensor(body: Buffer, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> Tensor:
    """Return the bytes from `offset` as a tensor of `shape` and `dtype`, without a copy."""
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    # numpy makes a view of bytes in a fraction of the time of torch.frombuffer
    view: np.ndarray[Any, Any] = np.ndarray(shape, _NUMPY_DTYPES[dtype], body, offset)
    tensor = torch.from_numpy(view)
    return tensor.view(torch.bfloat16) if dtype is torch.bfloat16 else tensor


def memory_at(address: int, num_bytes: int) -> Buffer:
    """Return memory as a buffer, without a copy. The caller keeps what owns it alive meanwhile.

    Of a tensor's `data_ptr`, it takes a fraction of the time of `view_as_bytes`.
    """
    return memoryview((c_char * num_bytes).from_address(address)).cast("B")


def view_as_bytes(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor of any shape and wire dtype, without a copy."""
    if not tensor.numel():
        return memoryview(b"")
    view = (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return view.data.cast("B")
