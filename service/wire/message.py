"""What is on the wire: named tensors and plain parameters, whatever bytes carry them."""

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from service.errors import BadTensor, printable

Buffer = bytes | bytearray | memoryview

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "bool": torch.bool,
}
"""The dtypes of the wire."""

MAX_RANK = 8
"""Most axes of a tensor."""

MAX_TENSORS = 16
"""Most tensors of a message."""


def check_shape(name: str, shape: object, dtype: torch.dtype) -> tuple[int, ...]:
    """Return a shape that a tensor can have.

    Raises:
        BadTensor: it is no list of natural numbers, or their product overflows.
    """
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise BadTensor(name, f"of a shape of at most {MAX_RANK} axes", printable(shape))
    if not all(type(n) is int and n >= 0 for n in shape):
        raise BadTensor(name, "of a shape of natural numbers", printable(shape))
    # torch counts strides of empty tensors as if no axis were 0
    if math.prod(max(n, 1) for n in shape) * dtype.itemsize >= 2**63:
        raise BadTensor(name, "of less than 2**63 bytes", f"shape {printable(shape)}")
    return tuple(shape)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a message: plain values, which nobody changes.

    Two are equal, and have the same hash, if their keys are equal.
    """

    values: Mapping[str, Any] = field(compare=False)

    key: bytes
    """The values as JSON text: a key for caches, and what a codec may write. Nothing parses it."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Parameters":
        """Return the parameters of an answer; mappings within `values` become JSON objects."""
        return cls(values, json.dumps(values, default=dict).encode())


NO_PARAMETERS = Parameters({}, b"{}")


@dataclass(frozen=True, slots=True)
class Message:
    """A request or an answer: tensors and parameters by name."""

    tensors: Mapping[str, Tensor]
    params: Parameters = NO_PARAMETERS


class Decoded(NamedTuple):
    """A request body that was read."""

    message: Message

    as_base64: bool = False
    """Whether a JSON answer carries tensors in base64, as the request did, not as numbers."""


_NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    torch.float32: np.dtype("<f4"),
    torch.float16: np.dtype("<f2"),
    torch.bfloat16: np.dtype("<i2"),  # numpy has no bfloat16
    torch.float64: np.dtype("<f8"),
    torch.int64: np.dtype("<i8"),
    torch.int32: np.dtype("<i4"),
    torch.bool: np.dtype("?"),
}

with warnings.catch_warnings():
    # torch tells once in a process that bytes are read-only; nothing here writes to a request
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0", np.uint8))


def view(body: Buffer, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> Tensor:
    """Return the little-endian elements at `offset` bytes of a body as a tensor, uncopied."""
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    # by way of numpy, which makes a view of bytes in a fraction of torch's time
    array: np.ndarray[Any, Any] = np.ndarray(shape, _NUMPY[dtype], body, offset)
    tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype is torch.bfloat16 else tensor


def check_booleans(name: str, tensor: Tensor) -> None:
    """Refuse bytes that torch would compute with as if they were booleans.

    Raises:
        BadTensor: one is neither 0 nor 1.
    """
    if tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
        raise BadTensor(name, "of booleans, bytes 0 and 1", "others")


def raw(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor, uncopied."""
    if not tensor.numel():
        return memoryview(b"")
    array = (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array.data.cast("B")
