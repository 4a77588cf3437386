"""Tensors in the formats of the protocol: its datatypes, and elements as numbers or bytes."""

import json
import math
from collections.abc import Sequence
from typing import Any

import orjson
import torch
from torch import Tensor

from service.errors import BadTensor, printable
from service.wire import Buffer, elements
from service.wire.typed_json import Numbers

DATATYPES = {
    "FP32": torch.float32,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP64": torch.float64,
    "INT64": torch.int64,
    "INT32": torch.int32,
    "BOOL": torch.bool,
}
"""Datatypes that an input may have."""

MAX_DEPTH = 100
"""Deepest nesting of lists of numbers."""

NAMES = {dtype: name for name, dtype in DATATYPES.items()}


def dtype_of(name: str, datatype: object, taken: Sequence[str]) -> torch.dtype:
    """Return the dtype of an input whose datatype must be one of `taken`.

    Raises:
        BadTensor: the input has another datatype.
    """
    if not isinstance(datatype, str) or datatype not in taken:
        *others, last = taken
        raise BadTensor(name, f"of datatype {', '.join(others)} or {last}", printable(datatype))
    return DATATYPES[datatype]


def from_bytes(name: str, dtype: torch.dtype, shape: object, data: Buffer) -> Tensor:
    """Return the tensor of `shape` whose little-endian elements are `data`.

    Raises:
        BadTensor: the shape needs another number of bytes.
    """
    sizes = elements.check_shape(name, shape, dtype)
    expected = math.prod(sizes) * dtype.itemsize
    if len(data) != expected:
        raise BadTensor(name, f"of {expected} bytes for its shape", len(data))
    tensor = elements.view_as_tensor(data, dtype, sizes, 0)
    if dtype is torch.bool:
        elements.check_booleans(name, tensor)
    return tensor


def from_numbers(name: str, dtype: torch.dtype, shape: object, data: list[Any] | Numbers) -> Tensor:
    """Return the tensor of `shape` whose elements are a list of numbers, flat or nested.

    Raises:
        BadTensor: the dtype has no such numbers, or the shape needs another number of them.
        NotTyped: `data` are `Numbers` that the dtype does not have.
    """
    sizes = elements.check_shape(name, shape, dtype)
    flat = data if isinstance(data, Numbers) else _flat(name, data)
    if len(flat) != math.prod(sizes):
        raise BadTensor(name, f"{math.prod(sizes)} elements for its shape", len(flat))
    return elements.parse_elements(name, flat, dtype, NAMES[dtype]).view(sizes)


def to_json(tensor: Tensor) -> bytes:
    """Return a tensor's numbers as JSON text: one flat list."""
    flat = tensor.reshape(-1)
    if tensor.dtype in (torch.float16, torch.bfloat16):
        flat = flat.float()
    if not elements.all_finite(flat):
        return json.dumps(flat.tolist(), separators=(",", ":")).encode()  # NaN, Infinity
    return orjson.dumps(flat.numpy(), option=orjson.OPT_SERIALIZE_NUMPY)


def to_bytes(tensor: Tensor) -> memoryview:
    """Return a tensor's little-endian elements, uncopied where it is contiguous."""
    return elements.view_as_bytes(tensor.contiguous())


def _flat(name: str, data: list[Any]) -> list[Any]:
    level = data
    for _ in range(MAX_DEPTH):
        if list not in set(map(type, level)):
            return level
        level = [x for item in level for x in (item if type(item) is list else [item])]
    raise BadTensor(name, f"nested at most {MAX_DEPTH} lists deep", "more")
