"""Tensors as NumPy's, BF16 as ml_dtypes has it, and messages of gRPC as JSON would have them."""

from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

DATATYPES = {
    torch.float32: "FP32",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float64: "FP64",
    torch.int64: "INT64",
    torch.int32: "INT32",
    torch.bool: "BOOL",
}


def value_of(parameter: dict[str, Any]) -> Any:
    """Return the one member of a choice."""
    (value,) = parameter.values()
    return value


def plain(given: Any) -> Any:
    """Return a message of gRPC as JSON would have it; all else as it is."""
    descriptor = getattr(given, "DESCRIPTOR", None)
    if descriptor is None:
        return given
    told: dict[str, Any] = {}
    for field in descriptor.fields:
        value = getattr(given, field.name)
        if field.containing_oneof is not None:
            if given.HasField(field.name):
                told[field.name] = plain(value)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            told[field.name] = {key: plain(value[key]) for key in value}
        elif isinstance(value, str | bytes | int | float):
            enum = field.enum_type
            told[field.name] = enum.values_by_number[value].name if enum else value
        elif hasattr(value, "DESCRIPTOR"):
            told[field.name] = plain(value)
        else:
            told[field.name] = [plain(each) for each in value]
    return told


def array_of(x: Tensor) -> np.ndarray:
    """Return a tensor as NumPy's; BF16 is ml_dtypes'."""
    if x.dtype == torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.contiguous().numpy()


def tensor_of(array: np.ndarray) -> Tensor:
    """Undo `array_of`."""
    array = array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
