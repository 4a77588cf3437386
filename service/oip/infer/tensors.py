"""Tensors of the protocol: its names of dtypes, and their numbers in JSON or as bytes."""

import json
import math
from typing import Any

import orjson
import torch
from torch import Tensor

from service.errors import BadTensor, printable
from service.wire import Buffer
from service.wire.elements import (
    check_booleans,
    check_shape,
    parse_elements,
    view_as_bytes,
    view_as_tensor,
)

DATATYPES = {
    "FP32": torch.float32,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP64": torch.float64,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "BOOL": torch.bool,
}
"""Those that some input may have."""

NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def dtype_of(name: str, datatype: object) -> torch.dtype:
    """Return the dtype of an input.

    Raises:
        BadTensor: there is no such.
    """
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise BadTensor(name, f"of datatype {', '.join(DATATYPES)}", printable(datatype))
    return DATATYPES[datatype]


def of_bytes(name: str, dtype: torch.dtype, shape: object, data: Buffer) -> Tensor:
    """Return a tensor whose little-endian elements are `data`.

    Raises:
        BadTensor: shape and length do not agree.
    """
    sizes = check_shape(name, shape, dtype)
    expected = math.prod(sizes) * dtype.itemsize
    if len(data) != expected:
        raise BadTensor(name, f"of {expected} bytes, by its shape", len(data))
    tensor = view_as_tensor(data, dtype, sizes, 0)
    if dtype is torch.bool:
        check_booleans(name, tensor)
    return tensor


def of_numbers(name: str, dtype: torch.dtype, shape: object, data: list[Any]) -> Tensor:
    """Return a tensor of a list of numbers, flat or nested.

    Raises:
        BadTensor: they are not numbers that the dtype has, or not as many as the shape says.
    """
    sizes = check_shape(name, shape, dtype)
    elements = _flat(name, data)
    if len(elements) != math.prod(sizes):
        raise BadTensor(name, f"{math.prod(sizes)} elements, by its shape", len(elements))
    return parse_elements(name, elements, dtype, NAMES[dtype]).view(sizes)


def json_of(tensor: Tensor) -> bytes:
    """Return the JSON text of the flat list of a tensor's numbers."""
    flat = tensor.reshape(-1)
    if tensor.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    if tensor.is_floating_point() and not bool(flat.isfinite().all()):
        return json.dumps(flat.tolist(), separators=(",", ":")).encode()  # NaN, Infinity
    return orjson.dumps(flat.numpy(), option=orjson.OPT_SERIALIZE_NUMPY)


def bytes_of(tensor: Tensor) -> memoryview:
    """Return a tensor's little-endian elements."""
    return view_as_bytes(tensor.contiguous())


def _flat(name: str, data: list[Any]) -> list[Any]:
    level = data
    for _ in range(100):
        if list not in set(map(type, level)):
            return level
        level = [x for each in level for x in (each if type(each) is list else [each])]
    raise BadTensor(name, "of lists in at most 100 lists", "more")
